"""Environments: batched TorchRL `EnvBase`s behind one factory, `make_env`."""
