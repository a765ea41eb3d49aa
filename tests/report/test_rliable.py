"""Our statistics are rliable's, to 1e-6, on the same draws (benchmarks/rliable_reference.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlsuite.report import statistics
from rlsuite.report.statistics import (
    bootstrap,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)

REFERENCE = json.loads((Path(__file__).parent / "rliable_reference.json").read_text())
TOLERANCE = 1e-6


def tasks(name):
    """Scores as one array per task; rliable keeps runs as rows of a matrix."""
    return list(np.array(REFERENCE[name]).T)


class Replayed:
    """A generator that repeats what rliable drew: `[runs, tasks]` digits for every matrix and resample."""

    def __init__(self, draws, shapes):
        columns = [
            column
            for number, digits in enumerate(draws)
            for column in np.array([int(digit) for digit in digits]).reshape(shapes[number % len(shapes)]).T
        ]
        self.columns = iter(columns)

    def integers(self, high, size):
        column = next(self.columns)
        assert len(column) == size == high and column.max() < high
        return column


@pytest.mark.parametrize(
    ("name", "statistic", "groups"),
    [
        ("iqm", lambda scores: interquartile_mean(scores), ("scores",)),
        ("mean", lambda scores: np.mean([task.mean() for task in scores]), ("scores",)),
        ("improvement", probability_of_improvement, ("scores", "others")),
    ],
)
def test_estimate_and_interval_are_rliables(name, statistic, groups, monkeypatch):
    known, shapes = REFERENCE[name], [np.shape(REFERENCE[group]) for group in groups]
    replayed = Replayed(known["draws"], shapes)
    monkeypatch.setattr(statistics.np.random, "default_rng", lambda seed: replayed)
    resamples = len(known["draws"]) // len(groups)
    found = bootstrap(statistic, *map(tasks, groups), resamples=resamples)
    for part in ("value", "low", "high"):
        assert getattr(found, part) == pytest.approx(known[part], rel=TOLERANCE), part
    assert next(replayed.columns, None) is None  # every draw was used
    assert known["low"] < known["value"] < known["high"]


def test_profile_is_rliables():
    known = REFERENCE["profile"]
    found = performance_profile(tasks("scores"), np.array(known["taus"]))
    np.testing.assert_allclose(found, known["value"], rtol=TOLERANCE)
    assert 0 < found.min() < found.max() <= 1


def test_the_scores_are_those_of_the_script():
    """The committed matrix is what the script draws, whatever numpy's version."""
    import runpy

    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "rliable_reference.py"))
    for name, matrix in zip(("scores", "others"), script["matrices"](), strict=True):
        np.testing.assert_array_equal(matrix, REFERENCE[name])
