"""Oracles of these tests: every law of a process by brute force, distances and projections of laws."""

from fractions import Fraction
from functools import cache
from itertools import pairwise, product
from typing import Any

from rlsuite.returns.laws import Law, quantile
from rlsuite.returns.mdp import MDP, State, Transition, exact
from rlsuite.returns.tabular import backed_up

MAX_LAWS = 1_000_000


def every_law(mdp: MDP, steps: int, gamma: Any = 1, state: State | None = None) -> list[Law]:
    """Return the law of every deterministic history-dependent policy, by brute force."""
    gamma = exact(gamma)

    @cache
    def laws(state: State, steps: int) -> list[Law]:
        options = mdp.options(state)
        if not options or steps == 0:
            return [{mdp.zero: Fraction(1)}]
        collected: list[Law] = []
        for outcomes in options:
            below = [laws(outcome.state, steps - 1) for outcome in outcomes]
            count = 1
            for each in below:
                count *= len(each)
            if count + len(collected) > MAX_LAWS:
                raise ValueError(f"more than {MAX_LAWS} history-dependent policies: lower the horizon")
            for chosen in product(*below):
                after = dict(enumerate(chosen))
                numbered = [Transition(o.probability, o.reward, index) for index, o in enumerate(outcomes)]
                collected.append(
                    backed_up(numbered, lambda i, _c, _n, after=after: after[i], mdp.zero, gamma, steps)  # type: ignore[misc]
                )
        return collected

    first = next(iter(mdp.start)) if state is None else state
    return laws(first, steps)


def wasserstein(first: Law, second: Law) -> Any:
    """Return the 1-Wasserstein distance of two laws of numbers: the area between their distributions."""
    places = sorted({*first, *second})
    area: Any = 0
    gap: Any = 0
    for here, there in pairwise(places):
        gap += first.get(here, 0) - second.get(here, 0)
        area += abs(gap) * (there - here)
    return area


def project_to_quantiles(law: Law, count: int) -> list[Any]:
    """Return the quantiles of a law at the midpoints of N equal steps: the nearest N equal atoms in W1.

    Expected utilities of them are off by up to half a step of the atoms' range: 0.1 for {-2: 1/4, 5: 3/4} and
    min(x - 5, 0) with 10 atoms, nothing with 4.
    """
    return [quantile(law, Fraction(2 * i + 1, 2 * count)) for i in range(count)]
