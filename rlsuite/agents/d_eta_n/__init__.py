"""DηN: distributional value iteration with a stock; QR-DQN with the utility `mean` (2025)."""

from rlsuite.agents.d_eta_n.agent import DEtaN, DEtaNConfig, DEtaNLoss

__all__ = ["DEtaN", "DEtaNConfig", "DEtaNLoss"]
