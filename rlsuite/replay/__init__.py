"""Replay buffers shared by the agents, built on TorchRL's."""
