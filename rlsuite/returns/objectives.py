"""Objectives of a return distribution: utilities of stock + return, CVaR over the first stock.

A stock c moves as c' = (c + r) / gamma, so that c_0 + G_0 = gamma^t (c_t + G_t) at every step t: a policy of
(state, stock) can serve any objective E f(c + G) of the whole return. Ávila Pires et al. 2025,
"Optimizing Return Distributions with Distributional Dynamic Programming", arXiv 2501.13028.

A utility takes a torch tensor, or a plain number: with `fractions.Fraction` everything but the exponential is
exact. Vector utilities take the components on a tensor's last axis, or a tuple of numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

from torch import Tensor

from rlsuite.errors import ConfigError
from rlsuite.returns.laws import Law, check_level

# Where `Custom` utilities are tried: halves near zero and powers of two far away.
_PROBES = tuple(
    sorted(
        {Fraction(k, 2) for k in range(-24, 25)}
        | {s * Fraction(2) ** k for k in range(-8, 16) for s in (-1, 1)}
    )
)
_PROBE_TOLERANCE = 1e-9  # relative; only floats need one


@dataclass(frozen=True)
class Utility:
    """f of stock + return, to be maximised in expectation.

    Attributes:
        indifferent: for every gamma there are alpha > 0 and beta with f(gamma x) = alpha f(x) + beta. Without
            it discounted dynamic programming over (state, stock) can choose wrong actions.
        homogeneous: f(gamma x) = gamma f(x); the shaped reward gamma f(c') - f(c) makes an ordinary task.
        lipschitz: the least L with |f(x) - f(y)| <= L |x - y| (1-norm), None where there is none; infinite
            horizons need one.
        vector: takes several components of a stock.
    """

    indifferent: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = True
    vector: ClassVar[bool] = False

    @property
    def lipschitz(self) -> float | None:
        """Return the least Lipschitz constant, or None."""
        return 1.0

    @property
    def valid_form(self) -> str:
        """Say which form of the objective is right under a discount, for error messages."""
        return "use gamma = 1"

    def __call__(self, x: Any) -> Any:
        """Return f(x): a tensor of the shape of `x` (vectors: without the last axis), or a number."""
        raise NotImplementedError

    def mean(self, law: Law, stock: Any = 0) -> Any:
        """Return E f(stock + G) for G of the law, exactly where law and stock are."""
        return sum(p * self(plus(stock, x)) for x, p in law.items())


@dataclass(frozen=True)
class Mean(Utility):
    """f(x) = x: the usual objective, for which the stock is of no use."""

    def __call__(self, x: Any) -> Any:
        """Return x."""
        return x


@dataclass(frozen=True)
class Lower(Utility):
    """f(x) = min(x, 0): with an outer maximum over the first stock the lower CVaR (risk-averse)."""

    def __call__(self, x: Any) -> Any:
        """Return min(x, 0)."""
        return (x - abs(x)) / 2


@dataclass(frozen=True)
class Upper(Utility):
    """f(x) = max(x, 0): with an outer minimum over the first stock the upper CVaR (risk-seeking)."""

    def __call__(self, x: Any) -> Any:
        """Return max(x, 0)."""
        return (x + abs(x)) / 2


@dataclass(frozen=True)
class MeanCVaR(Utility):
    """f(x) = w_L min(x, 0) + w_R max(x, 0), of weight * mean + (1 - weight) * CVaR_tau.

    w_L = weight + (1 - weight) / tau and w_R = weight, by Rockafellar and Uryasev's form of CVaR.
    """

    weight: Any = 0.5
    """Of the mean, in [0, 1]."""
    tau: Any = 0.25
    """Level of the lower tail, in (0, 1]."""

    def __post_init__(self) -> None:
        """Raise ConfigError outside the ranges."""
        check_level(self.tau)
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"weight of the mean = {self.weight}: must be in [0, 1]")

    @property
    def slopes(self) -> tuple[Any, Any]:
        """Return w_L and w_R."""
        return self.weight + (1 - self.weight) / self.tau, self.weight

    @property
    def lipschitz(self) -> float:
        """Return w_L, the greater slope."""
        return float(self.slopes[0])

    def __call__(self, x: Any) -> Any:
        """Return w_L min(x, 0) + w_R max(x, 0)."""
        left, right = self.slopes
        return left * ((x - abs(x)) / 2) + right * ((x + abs(x)) / 2)


@dataclass(frozen=True)
class Target(Utility):
    """f(x) = -|x - goal|: a return of `goal`. Under a discount the goal belongs into the stock."""

    goal: Any = 0

    @property
    def indifferent(self) -> bool:  # type: ignore[override]
        """Say that only a goal of zero is right under a discount."""
        return bool(self.goal == 0)

    @property
    def homogeneous(self) -> bool:  # type: ignore[override]
        """Say that only a goal of zero is homogeneous."""
        return bool(self.goal == 0)

    @property
    def valid_form(self) -> str:
        """Return the form with the goal in the stock."""
        return f"put the target into the stock: goal = 0 and first stock c_0 = {-self.goal}"

    def __call__(self, x: Any) -> Any:
        """Return -|x - goal|."""
        return -abs(x - self.goal)


@dataclass(frozen=True)
class Range(Utility):
    """f(x) = 1 for low <= x <= high, else 0: the probability of a return in a range; gamma = 1 alone."""

    low: Any = 0
    high: Any = math.inf
    indifferent: ClassVar[bool] = False
    homogeneous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise ConfigError for an empty range."""
        if not self.low <= self.high:
            raise ConfigError(f"range [{self.low}, {self.high}]: the lower end is above the upper one")

    @property
    def lipschitz(self) -> None:
        """Return None: a step has no Lipschitz constant."""

    @property
    def valid_form(self) -> str:
        """Say that there is none under a discount."""
        return "a probability of a range needs gamma = 1 (and time in the observation if the horizon ends it)"

    def __call__(self, x: Any) -> Any:
        """Return 1 inside and 0 outside."""
        inside = (self.low <= x) & (x <= self.high)
        return inside.to(x.dtype) if isinstance(x, Tensor) else int(inside)


@dataclass(frozen=True)
class Exponential(Utility):
    """f(x) = -exp(-rate x), constant absolute risk aversion; gamma = 1 alone: the stock is irrelevant."""

    rate: float = 1.0
    indifferent: ClassVar[bool] = False
    homogeneous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raise ConfigError for a rate of zero: every return would be worth the same."""
        if self.rate == 0 or not math.isfinite(self.rate):
            raise ConfigError(f"rate = {self.rate}: must be finite and not 0 (positive is risk-averse)")

    @property
    def lipschitz(self) -> None:
        """Return None: the slope grows without bound."""

    @property
    def valid_form(self) -> str:
        """Say that there is none under a discount."""
        return "an exponential utility needs gamma = 1, or the time in the observation"

    def __call__(self, x: Any) -> Any:
        """Return -exp(-rate x), for a negative rate exp(-rate x)."""
        sign = -1 if self.rate > 0 else 1
        return sign * ((-self.rate * x).exp() if isinstance(x, Tensor) else math.exp(-self.rate * float(x)))


@dataclass(frozen=True)
class Norm(Utility):
    """f(x) = -sum_k |x_k|: keep the components of a vector stock at zero (homeostatic regulation)."""

    vector: ClassVar[bool] = True

    def __call__(self, x: Any) -> Any:
        """Return minus the 1-norm of a tensor's last axis, or of a tuple."""
        return -x.abs().sum(-1) if isinstance(x, Tensor) else -sum(abs(part) for part in x)


@dataclass(frozen=True)
class Custom(Utility):
    """Any function of one number or tensor, elementwise.

    Whether it may be discounted is found out at 80 points: that can refute a function, and not prove one.
    """

    function: Callable[[Any], Any]
    name: str = "custom"
    bound: float | None = field(default=None)
    """Its Lipschitz constant, where the caller knows one."""

    @property
    def lipschitz(self) -> float | None:
        """Return what the caller said."""
        return self.bound

    @property
    def indifferent(self) -> bool:  # type: ignore[override]
        """Try f(gamma x) = alpha f(x) + beta with alpha > 0 for gamma 1/2 and 3/4 at all probe points."""
        return all(_is_affine(self.function, gamma) for gamma in (Fraction(1, 2), Fraction(3, 4)))

    @property
    def homogeneous(self) -> bool:  # type: ignore[override]
        """Try f(x / 2) = f(x) / 2 at all probe points."""
        return all(_near(self.function(x / 2), self.function(x) / 2) for x in _PROBES)

    @property
    def valid_form(self) -> str:
        """Name forms that are right."""
        return (
            "use gamma = 1, or a positively homogeneous function (x, |x|, min(x, 0), max(x, 0), their sums, "
            "powers of |x|) with constants such as targets in the first stock"
        )

    def __call__(self, x: Any) -> Any:
        """Return function(x)."""
        return self.function(x)


def check_discount(utility: Utility, gamma: Any) -> None:
    """Raise ConfigError, with the valid form, for a utility that dynamic programming cannot discount.

    Right are utilities with f(gamma x) = alpha f(x) + beta, alpha > 0 (gamma-indifference): then what is
    better from (s', c') on is better for (s, c), too. With gamma = 1 every utility is right.
    """
    if not 0 < gamma <= 1:
        raise ConfigError(f"gamma = {gamma}: must be in (0, 1]; the stock is divided by it")
    if gamma < 1 and not utility.indifferent:
        raise ConfigError(
            f"{utility} cannot be optimised with gamma = {gamma}: f(gamma x) orders returns differently from "
            f"f(x), so that what looks best from a later state on is not; {utility.valid_form}"
        )


def next_stock(stock: Any, reward: Any, gamma: Any) -> Any:
    """Return (stock + reward) / gamma, for numbers, tuples of numbers and tensors."""
    if isinstance(stock, tuple):
        return tuple((c + r) / gamma for c, r in zip(stock, reward, strict=True))
    return (stock + reward) / gamma


def shaped_reward(utility: Utility, stock: Any, next_stock: Any, gamma: Any) -> Any:
    """Return gamma f(c') - f(c): ordinary RL on (s, c) with it has the optimal value V*(s, c) - f(c).

    Raises:
        ConfigError: f(gamma x) is not gamma f(x), and gamma is not 1.
    """
    check_shaping(utility, gamma)
    return gamma * utility(next_stock) - utility(stock)


def check_shaping(utility: Utility, gamma: Any) -> None:
    """Raise ConfigError where `shaped_reward` would not sum to the utility."""
    check_discount(utility, gamma)
    if gamma < 1 and not utility.homogeneous:
        raise ConfigError(
            f"{utility} makes no shaped reward with gamma = {gamma}: f(gamma x) is not gamma f(x)"
        )


def plus(stock: Any, value: Any) -> Any:
    """Return the sum of two numbers, or of two tuples component by component."""
    if isinstance(value, tuple):
        stock = (0,) * len(value) if not isinstance(stock, tuple) else stock
        return tuple(c + x for c, x in zip(stock, value, strict=True))
    return stock + value


def make_utility(
    name: str,
    *,
    tau: float = 0.25,
    weight: float = 0.5,
    goal: float = 0.0,
    high: float = math.inf,
    rate: float = 1.0,
) -> Utility:
    """Return a utility by its name in `UTILITIES`.

    Args:
        name: mean, lower, upper, mean_cvar, target, range, exponential or norm.
        tau: level of the tail in `mean_cvar`.
        weight: of the mean in `mean_cvar`.
        goal: of `target`, and the lower end of `range`.
        high: upper end of `range`.
        rate: of `exponential`.
    """
    built: dict[str, Callable[[], Utility]] = {
        "mean": Mean,
        "lower": Lower,
        "upper": Upper,
        "mean_cvar": lambda: MeanCVaR(weight, tau),
        "target": lambda: Target(goal),
        "range": lambda: Range(goal, high),
        "exponential": lambda: Exponential(rate),
        "norm": Norm,
    }
    if name not in built:
        raise ConfigError(f'"{name}" is not a utility; allowed are {", ".join(built)}')
    return built[name]()


def _is_affine(function: Callable[[Any], Any], gamma: Fraction) -> bool:
    """Return whether f(gamma x) = alpha f(x) + beta with alpha > 0 at all probe points."""
    pairs = [(function(x), function(gamma * x)) for x in _PROBES]
    low, high = min(pairs), max(pairs)
    if low[0] == high[0]:
        return all(_near(scaled, low[1]) for _, scaled in pairs)
    alpha = (high[1] - low[1]) / (high[0] - low[0])
    beta = low[1] - alpha * low[0]
    return alpha > 0 and all(_near(scaled, alpha * plain + beta) for plain, scaled in pairs)


def _near(a: Any, b: Any) -> bool:
    return bool(abs(a - b) <= _PROBE_TOLERANCE * (1 + abs(a) + abs(b)))
