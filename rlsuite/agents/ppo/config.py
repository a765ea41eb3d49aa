"""Hyper-parameters of PPO."""

from dataclasses import dataclass
from typing import Annotated

from rlsuite.agents.optimizers import OptimizerConfig
from rlsuite.blocks.mlp import Activation
from rlsuite.bounds import Bounds, Positive, UnitInterval, Widths, check_bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig(OptimizerConfig):
    """Hyper-parameters of PPO; the defaults are CleanRL's for MuJoCo's tasks.

    A rollout's length, its passes and the minibatch are the run's `replay_size`, `epochs` and `batch_size`.
    """

    hidden: Widths = (64, 64)
    """Widths of the hidden layers of actor and critic, two networks of their own."""
    activation: Activation = "tanh"
    """Activation of all hidden layers."""
    head_gain: Positive = 0.01
    """Gain of the actor's last layer; all weights begin orthogonal, hidden ones by sqrt(2), values by 1."""
    log_std: float = 0.0
    """First log-std of continuous actions in [-1, 1]: a parameter each, the same at all observations."""
    normalize_observations: bool = True
    """Standardise observations by running statistics, cut at 10; they move between rollouts."""
    scale_rewards: bool = True
    """Divide rewards by the running std of discounted returns; it moves between rollouts."""
    reward_clip: Positive = 10.0
    """Bound of scaled rewards."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    gae_lambda: UnitInterval = 0.95
    """Share of the next step's advantage: 0 is the one-step error, 1 the whole return."""
    clip: Positive = 0.2
    """Bound of the probability ratio's distance from 1."""
    clip_value: bool = True
    """Bound the value's move by `clip`, too, where the bounded one is worse."""
    normalize_advantages: bool = True
    """Standardise the advantages of every minibatch."""
    value_coef: Annotated[float, Bounds(0)] = 0.5
    """Weight of the value loss, half a squared error."""
    entropy_coef: Annotated[float, Bounds(0)] = 0.0
    """Weight of the policy's entropy."""
    max_grad_norm: Positive = 0.5
    """Greater gradients of both networks together are scaled down to this norm."""
    lr: Positive = 3e-4
    """Learning rate of actor and critic."""
    anneal: bool = True
    """Let the learning rate fall linearly to 0 over the run's rollouts."""
    adam_eps: Positive = 1e-5
    """What Adam adds to the root of the second moment."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)
