"""Intervals of few runs, seeds needed, and a test that may be looked at after every seed."""

import numpy as np
import pytest

from rlsuite.report.sequential import decided, e_value, running_interval
from rlsuite.report.statistics import difference, paired_difference, seeds_needed, standardised

stats = pytest.importorskip("scipy.stats")


def test_intervals_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 1, 6), rng.normal(1, 4, 6)
    for ours, theirs in (
        (difference(a, b), stats.ttest_ind(a, b, equal_var=False)),
        (paired_difference(a, b), stats.ttest_rel(a, b)),
    ):
        interval = theirs.confidence_interval(0.95)
        np.testing.assert_allclose([ours.low, ours.high], [interval.low, interval.high], rtol=1e-12)
    assert np.isinf(difference(a[:1], b).high)


def test_seeds_needed_are_those_of_the_tables():
    # Cohen 1988, table 2.4.1, two-sided 5 %, power 80 %: 393, 64 and 26 a group for d = 0.2, 0.5, 0.8.
    assert [seeds_needed(effect) for effect in (0.2, -0.5, 0.8)] == [394, 64, 26]
    assert seeds_needed(1e-9) is None and seeds_needed(np.inf) == 2
    assert standardised(np.array([2.0, 4.0]), np.array([0.0, 2.0])) == pytest.approx(2**0.5 * (1 - 3 / 7))


def first_exit(differences, least=4):
    """Seeds at which a study of these differences ends; 0 where it stays undecided."""
    looks = range(least, len(differences) + 1)
    return next((count for count in looks if decided(running_interval(differences[:count]))), 0)


def twin(draw):
    """Differences of two agents whose scores have the same law."""
    return draw(20) - draw(20)


@pytest.mark.parametrize("law", ["normal", "learns or does not", "one in ten fails", "heavy tails"])
def test_equal_agents_are_told_apart_in_at_most_five_of_a_hundred_studies(law):
    rng = np.random.default_rng(1)
    draw = {
        "normal": lambda n: rng.normal(0, 1, n),
        "learns or does not": lambda n: (rng.random(n) < 0.5) + rng.normal(0, 0.1, n),
        "one in ten fails": lambda n: 10.0 * (rng.random(n) < 0.1) + rng.normal(0, 1, n),
        "heavy tails": lambda n: rng.standard_t(2, n),
    }[law]
    wrong = sum(first_exit(twin(draw)) > 0 for _ in range(1_000))
    assert wrong <= 50, wrong
    # Who looks after every seed with Student's interval is wrong far more often, or this shows nothing.
    if law == "normal":

        def naive(gaps):
            bounds = ((gaps[:n].mean() / stats.sem(gaps[:n]), stats.t.ppf(0.975, n - 1)) for n in LOOKS)
            return any(abs(t) > bound for t, bound in bounds)

        assert sum(naive(twin(draw)) for _ in range(200)) > 20


LOOKS = range(4, 21)


def test_an_effect_of_two_stds_is_found_with_few_seeds():
    rng = np.random.default_rng(2)
    exits = np.array([first_exit(rng.normal(2, 1, 20) - rng.normal(0, 1, 20)) for _ in range(200)])
    assert (exits > 0).mean() > 0.95 and exits[exits > 0].mean() < 10


def test_the_interval_has_the_means_whose_e_value_is_small():
    gaps = np.random.default_rng(3).normal(1, 2, 9)
    interval = running_interval(gaps)
    for end in (interval.low, interval.high):
        assert e_value(gaps - end) == pytest.approx(20, rel=1e-9)
    assert e_value(gaps - gaps.mean()) < 1
    assert np.isinf(running_interval(gaps[:2]).high) and e_value(np.zeros(3)) == 1
    assert e_value(1000 * gaps) == pytest.approx(e_value(gaps))  # no scale
