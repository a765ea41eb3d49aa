"""LDCQ, LDGC: skills from a beta-VAE, a latent diffusion prior, Q-learning among its samples (2023)."""

from rlsuite.agents.ldcq.agent import LDCQ, LDCQConfig

__all__ = ["LDCQ", "LDCQConfig"]
