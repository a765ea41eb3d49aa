"""Distributions with finitely many values: their statistics, and the first stock that is best for a tail.

With `fractions.Fraction` everything is exact.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

from rlsuite.errors import ConfigError

Law = Mapping[Any, Any]
"""A distribution with finitely many values: value (a number, or a tuple of them) -> probability."""


def check_level(tau: Any) -> None:
    """Raise ConfigError unless 0 < tau <= 1."""
    if not 0 < tau <= 1:
        raise ConfigError(f"tau = {tau}: the level of a tail must be in (0, 1]")


def mean(law: Law) -> Any:
    """Return the expectation of a law."""
    return sum(p * x for x, p in law.items())


def quantile(law: Law, level: Any) -> Any:
    """Return the least x with F(x) >= level."""
    total: Any = 0
    for x in sorted(law):
        total += law[x]
        if total >= level:
            return x
    return max(law)


def cvar(law: Law, tau: Any) -> Any:
    """Return the mean of the lowest tau of a law: (1 / tau) times the integral of its quantiles up to tau."""
    check_level(tau)
    total, left = 0 * tau, tau
    for x in sorted(law):
        taken = min(law[x], left)
        total, left = total + taken * x, left - taken
    return total / tau


def upper_cvar(law: Law, tau: Any) -> Any:
    """Return the mean of the highest tau of a law."""
    return -cvar({-x: p for x, p in law.items()}, tau)


def wasserstein(first: Law, second: Law) -> Any:
    """Return the 1-Wasserstein distance of two laws of numbers: the area between their distributions."""
    places = sorted({*first, *second})
    area: Any = 0
    gap: Any = 0
    for here, there in pairwise(places):
        gap += first.get(here, 0) - second.get(here, 0)
        area += abs(gap) * (there - here)
    return area


class Choice(NamedTuple):
    """The solution of an outer problem.

    Attributes:
        value: the CVaR, or mixture, that is attained.
        stock: the first stock to start from.
        utility: the optimal expected utility there.
    """

    value: Any
    stock: Any
    utility: Any


def best_cvar(values: Mapping[Any, Any], tau: Any) -> Choice:
    """Return the greatest CVaR_tau: the maximum over first stocks of -c_0 + V(c_0) / tau, V of `Lower`.

    V is piecewise linear in c_0 with kinks at minus the reachable returns: with these as stocks it is exact.

    Args:
        values: first stock -> optimal expected utility from there.
        tau: level of the lower tail.
    """
    check_level(tau)
    return _best(Choice(-c + v / tau, c, v) for c, v in values.items())


def best_mean_cvar(values: Mapping[Any, Any]) -> Choice:
    """Return the greatest mixture of mean and CVaR: the maximum of -c_0 + V(c_0), V of `MeanCVaR`."""
    return _best(Choice(-c + v, c, v) for c, v in values.items())


def _best(choices: Iterable[Choice]) -> Choice:
    """Return the best choice; of equally good ones that with the greatest stock."""
    return max(choices, key=lambda choice: (choice.value, choice.stock))


def project_to_quantiles(law: Law, count: int) -> list[Any]:
    """Return the quantiles of a law at the midpoints of N equal steps: the nearest N equal atoms in W1.

    Expected utilities of them are off by up to half a step of the atoms' range: 0.1 for {-2: 1/4, 5: 3/4} and
    min(x - 5, 0) with 10 atoms, nothing with 4.
    """
    return [quantile(law, Fraction(2 * i + 1, 2 * count)) for i in range(count)]
