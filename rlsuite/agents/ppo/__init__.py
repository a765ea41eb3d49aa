"""PPO: proximal policy optimisation on rollouts of many envs, continuous or discrete actions (2017)."""

from rlsuite.agents.ppo.agent import PPO, PPOConfig

__all__ = ["PPO", "PPOConfig"]
