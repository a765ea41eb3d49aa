"""Statistics of a few runs, as in Agarwal et al. 2021 (arXiv 2108.13264), as pure functions.

Scores are a list with one array per task, runs along its first axis. Legend: R runs; further axes (blocks of
a curve, evaluations of a run) may follow.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rlsuite.errors import ConfigError

Scores = Sequence[np.ndarray]
TRIMMED = 0.25  # share cut off at either end for the interquartile mean
RESAMPLES = 2_000  # of the bootstrap; our choice, as that paper's
LEVEL = 0.95  # of the intervals
POWER = 0.8  # chance that a test finds what is there; the usual choice
MOST_SEEDS = 10_000
LEAST_EFFECT = 1e-3  # stds; nobody runs the seeds that a smaller one needs


class Estimate(NamedTuple):
    """A statistic and the bounds of its interval, of the statistic's shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def interquartile_mean(scores: Scores, axis: Literal[0] | None = 0) -> np.ndarray:
    """Mean of the middle half of all tasks' runs taken together.

    Below four runs nothing is cut off: it is the plain mean.

    Args:
        scores: one array per task, `[R, ...]`.
        axis: 0 keeps the axes after the runs (a curve); None pools them, too (several evaluations of a run).
    """
    runs = np.concatenate(list(scores))
    ordered = np.sort(
        runs.ravel() if axis is None else runs, axis=0
    )  # scipy.stats.trim_mean, 10 times faster
    cut = int(TRIMMED * len(ordered))
    return ordered[cut : len(ordered) - cut].mean(axis=0)


def probability_of_improvement(scores: Scores, others: Scores) -> np.ndarray:
    """Chance that a run of `scores` beats one of `others` on the same task, `[R]` each; mean over tasks.

    A tie is half a win (Mann and Whitney's statistic, divided by the number of pairs).
    """
    wins = [np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)) for x, y in zip(scores, others, strict=True)]
    return np.mean(wins)


def performance_profile(scores: Scores, taus: np.ndarray) -> np.ndarray:
    """Share of runs with a score above each of `taus`, `[T]`, mean over tasks (Agarwal et al., figure 5)."""
    return np.mean([(runs[:, None] > taus).mean(0) for runs in scores], axis=0)


def bootstrap(
    statistic: Callable[..., np.ndarray],
    *groups: Scores,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Estimate a statistic with its stratified percentile-bootstrap interval.

    Whole runs are drawn with replacement, task by task; with a single run the interval is the value.

    Args:
        statistic: of as many arguments as there are `groups`.
        groups: scores of one algorithm each.
        resamples: draws.
        level: chance that the interval covers the true value, in (0, 1).
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)

    def drawn(scores: Scores) -> Scores:
        return [task[rng.integers(len(task), size=len(task))] for task in scores]

    estimates = [statistic(*map(drawn, groups)) for _ in range(resamples)]
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Estimate(np.asarray(statistic(*groups)), low, high)


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of values `[K]` from 0; equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts + 1) / 2)[inverse]


def rank_correlation(estimates: np.ndarray, returns: np.ndarray) -> float:
    """Return Spearman's correlation of estimates and returns, `[K]` each; 0 where either is all alike."""
    centred = [ranks(values) - (len(values) - 1) / 2 for values in (estimates, returns)]
    size = np.prod([np.linalg.norm(values) for values in centred])
    return float(centred[0] @ centred[1] / size) if size else 0.0


def regret(estimates: np.ndarray, returns: np.ndarray) -> float:
    """Return by how much the best of `returns` exceeds the one of the greatest estimate, `[K]` each."""
    return float(returns.max() - returns[estimates.argmax()])


def around(value: float, half: float) -> Estimate:
    """Return a number with an interval of so much on either side."""
    return Estimate(np.asarray(value), np.asarray(value - half), np.asarray(value + half))


def difference(scores: np.ndarray, others: np.ndarray, level: float = LEVEL) -> Estimate:
    """Return the difference of two means, `[R]` and `[Q]` scores, with Welch's interval (unequal variances).

    An interval of t has about its level with three runs, where the bootstrap's is far too narrow. Without two
    runs on either side it is infinite.
    """
    value = scores.mean() - others.mean()
    if min(len(scores), len(others)) < 2:
        return around(value, np.inf)
    parts = scores.var(ddof=1) / len(scores), others.var(ddof=1) / len(others)
    variance = sum(parts)
    if not variance:
        return around(value, 0.0)
    freedom = variance**2 / (parts[0] ** 2 / (len(scores) - 1) + parts[1] ** 2 / (len(others) - 1))
    half = t_quantile((1 + level) / 2, freedom) * np.sqrt(variance)
    return around(value, half)


def paired_difference(scores: np.ndarray, others: np.ndarray, level: float = LEVEL) -> Estimate:
    """Return the mean of the differences of pairs, `[R]` scores each, with Student's interval."""
    gaps = scores - others
    if len(gaps) < 2:
        return around(gaps.mean(), np.inf)
    half = t_quantile((1 + level) / 2, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return around(gaps.mean(), half)


def standardised(scores: np.ndarray, others: np.ndarray) -> float:
    """Return Hedges' g: the difference of means over the pooled std, with the correction for few runs."""
    freedom = len(scores) + len(others) - 2
    if freedom < 1:
        return float("nan")
    squares = scores.var(ddof=0) * len(scores) + others.var(ddof=0) * len(others)
    pooled = np.sqrt(squares / freedom)
    gap = scores.mean() - others.mean()
    if not pooled:
        return float(np.sign(gap) * np.inf) if gap else 0.0
    return float(gap / pooled * (1 - 3 / (4 * freedom - 1)))


def seeds_needed(effect: float, power: float = POWER, level: float = LEVEL) -> int | None:
    """Return how many runs on either side a t test of `level` needs to find an effect; None: beyond any.

    Args:
        effect: difference of means over the std of a run, as `standardised` gives it.
        power: chance that it is found.
        level: one minus the chance that nothing is taken for something.
    """
    if not np.isfinite(effect) or abs(effect) < LEAST_EFFECT:
        return 2 if np.isinf(effect) else None
    low, high = 2, 2
    while _power(abs(effect), high, level) < power:  # from below: far out nct is no longer exact
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while low < high:  # power grows with the number of runs
        middle = (low + high) // 2
        low, high = (low, middle) if _power(abs(effect), middle, level) >= power else (middle + 1, high)
    return low


def _power(effect: float, runs: int, level: float) -> float:
    """Return the chance that a two-sided t test of `runs` runs a side finds an effect (noncentral t)."""
    freedom, shift = 2 * runs - 2, effect * np.sqrt(runs / 2)
    beyond = t_quantile((1 + level) / 2, freedom)
    distribution = _scipy_stats().nct(freedom, shift)
    return float(distribution.sf(beyond) + distribution.cdf(-beyond))


def t_quantile(share: float, freedom: float) -> float:
    """Return the quantile of Student's t."""
    return float(_scipy_stats().t.ppf(share, freedom))


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise ConfigError('intervals of a few runs need scipy: pip install "rlsuite[report]"') from error
    return stats
