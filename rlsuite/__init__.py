"""rlsuite: deep-RL agents for control and offline RL, native to TorchRL, on vectorised MuJoCo."""

__version__ = "0.1.0"
