"""Statistics of a few runs, as in Agarwal et al. 2021 (arXiv 2108.13264), as pure functions.

Scores are a list with one array per task, runs along its first axis. Legend: R runs; further axes (blocks of
a curve, evaluations of a run) may follow.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

Scores = Sequence[np.ndarray]
TRIMMED = 0.25  # share cut off at either end for the interquartile mean
RESAMPLES = 2_000  # of the bootstrap; our choice, as that paper's
LEVEL = 0.95  # of the intervals


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
