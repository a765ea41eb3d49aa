"""Hyper-parameters of DηN."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from rlsuite.agents.optimizers import OptimizerConfig
from rlsuite.blocks.mlp import Activation
from rlsuite.bounds import (
    AtLeastOne,
    Bounds,
    NotNegative,
    PolyakRate,
    Positive,
    UnitInterval,
    Widths,
    check_bounds,
)
from rlsuite.errors import ConfigError
from rlsuite.returns.objectives import Utility, check_discount, check_shaping, make_utility


@dataclass(frozen=True, slots=True, kw_only=True)
class DEtaNConfig(OptimizerConfig):
    """Hyper-parameters of DηN; defaults for small tasks, after a follow-up's code (arXiv 2602.04131)."""

    utility: Literal["mean", "lower", "upper", "mean_cvar", "target", "range", "exponential", "norm"] = "mean"
    """f of stock + return, to be maximised in expectation; `mean` makes the agent QR-DQN."""
    level: Annotated[float | None, Bounds(0, 1, open_low=True)] = None
    """Tail level tau of `mean_cvar`. With it, evaluations of `lower`, `upper` and `mean_cvar` choose the
    first stock for the best CVaR; without it they take the environment's."""
    weight: UnitInterval = 0.5
    """Of the mean in `mean_cvar`."""
    goal: float = 0.0
    """Of `target` and lower end of `range`; under a discount the stock must hold it instead."""
    high: float = math.inf
    """Upper end of `range`."""
    rate: float = 1.0
    """Risk aversion of `exponential`."""
    shaped: bool = False
    """Learn the law of the rewards gamma f(c') - f(c) and maximise its mean: the baseline without return
    distributions, right for homogeneous utilities."""
    quantiles: AtLeastOne = 128
    """Quantiles of the return, K."""
    kappa: Annotated[float, Bounds(0)] = 0.1
    """Where the quantile loss turns from square to linear, in units of the return; 0 is linear everywhere."""
    hidden: Widths = (128, 128)
    """Widths of the trunk's layers; the last is also the width at which the stock comes in."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    normalize_observations: bool = False
    """Feed the trunk observations standardised by running mean and std; the stock stays as it is."""
    gamma: Annotated[float, Bounds(0, 1, open_low=True)] = 0.99
    """Discount per env step; that of the stock."""
    tau: PolyakRate = 0.01
    """Polyak rate of the target network."""
    lr_critic: Positive = 1e-3
    """Learning rate."""
    adam_eps: Positive = 1e-4
    """Adam's epsilon; about 0.01 / batch size."""
    edited: UnitInterval = 0.5
    """Share of replayed rows that get another stock, uniform within the return's bound."""
    average_ties: bool = False
    """Where actions are equally good for f, learn the mean of their quantiles instead of the first one's."""
    mean_bonus: Annotated[float, Bounds(0)] = 0.0
    """Weight of the mean return in choosing an action, a tie-break where f is flat."""
    epsilon_start: UnitInterval = 1.0
    """Share of random actions at first."""
    epsilon_final: UnitInterval = 0.05
    """Share of random actions in the end."""
    epsilon_share: Annotated[float, Bounds(0, 1, open_low=True)] = 0.5
    """Share of the run's updates over which random actions become rarer; half of them as in RIGOR's code."""
    epsilon_updates: NotNegative = 0
    """Updates over which they do, whatever the length of the run; 0 takes the share of it."""
    stock_candidates: AtLeastOne = 201
    """First stocks that an evaluation with `level` compares."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range, and for a utility that gamma forbids."""
        check_bounds(self)
        if self.level is not None and self.utility not in ("lower", "upper", "mean_cvar"):
            raise ConfigError(f"level = {self.level} is of CVaR; utility {self.utility} has no tail")
        if not self.hidden:
            raise ConfigError("hidden is empty: at least one layer takes the stock")
        check_discount(self.objective(), self.gamma)
        if self.shaped:
            check_shaping(self.objective(), self.gamma)

    def objective(self) -> Utility:
        """Return the utility that the fields describe."""
        if self.utility == "mean_cvar" and self.level is None:
            raise ConfigError("utility mean_cvar needs a level, e.g. --agent.level 0.25")
        tau = 1.0 if self.level is None else self.level
        fields = {"weight": self.weight, "goal": self.goal, "high": self.high, "rate": self.rate}
        return make_utility(self.utility, tau=tau, **fields)
