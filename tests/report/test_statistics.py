"""Statistics of a few runs against SciPy's and against counting by hand."""

import numpy as np
import pytest
from scipy import stats

from rlsuite.report.statistics import bootstrap, interquartile_mean, probability_of_improvement


def normal(*shape, mean=0.0, seed=0):
    return mean + np.random.default_rng(seed).standard_normal(shape)


def test_interquartile_mean_cuts_a_quarter_at_either_end():
    scores = np.array([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -900.0])
    assert interquartile_mean([scores]) == np.mean([2.0, 3.0, 4.0, 5.0])
    assert interquartile_mean([scores[:4], scores[4:]]) == interquartile_mean([scores])


def test_interquartile_mean_of_curves_is_that_of_every_point():
    curves = normal(8, 3)
    expected = [interquartile_mean([curves[:, k]]) for k in range(3)]
    np.testing.assert_allclose(interquartile_mean([curves]), expected)
    pooled = interquartile_mean([curves], axis=None)
    np.testing.assert_allclose(pooled, stats.trim_mean(curves.ravel(), 0.25))


def test_three_runs_are_not_cut():
    assert interquartile_mean([np.array([0.0, 0.0, 9.0])]) == 3.0


def test_probability_of_improvement_is_mann_and_whitneys():
    x, y = normal(6, mean=0.5), normal(9, seed=1)
    expected = stats.mannwhitneyu(x, y).statistic / (6 * 9)
    assert probability_of_improvement([x], [y]) == pytest.approx(expected)
    assert probability_of_improvement([x], [x]) == 0.5
    assert probability_of_improvement([x, np.ones(2)], [y, np.zeros(3)]) == pytest.approx((expected + 1) / 2)


def test_bootstrap_interval_is_scipys():
    scores = normal(20)
    found = bootstrap(interquartile_mean, [scores], resamples=4_000)
    oracle = stats.bootstrap(
        (scores,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        method="percentile",
        n_resamples=4_000,
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert found.value == interquartile_mean([scores])
    assert found.low == pytest.approx(oracle.low, abs=0.05)
    assert found.high == pytest.approx(oracle.high, abs=0.05)


def test_bootstrap_draws_runs_within_their_task():
    """Two tasks without spread: whatever is drawn, the mean is the same."""
    scores = [np.full(3, 1.0), np.full(5, 9.0)]
    found = bootstrap(lambda tasks: np.mean([task.mean() for task in tasks]), scores, resamples=50)
    assert (found.low, found.value, found.high) == (5.0, 5.0, 5.0)


def test_bootstrap_draws_whole_curves_and_repeats_itself():
    curves = np.arange(4.0)[:, None] + np.array([0.0, 100.0])
    found = bootstrap(interquartile_mean, [curves], resamples=200)
    np.testing.assert_allclose(found.high - found.low, (found.high - found.low)[0])
    again = bootstrap(interquartile_mean, [curves], resamples=200)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


def test_intervals_of_groups_of_different_size():
    chance = bootstrap(probability_of_improvement, [normal(5, mean=4.0)], [normal(3, seed=1)], resamples=100)
    assert chance.value == 1.0 and 0.5 < chance.low <= chance.high == 1.0
    single = bootstrap(interquartile_mean, [np.array([7.0])], resamples=10)
    assert (single.low, single.value, single.high) == (7.0, 7.0, 7.0)
