"""What rliable says of a score matrix, with the draws it made, for tests/bench/test_rliable.py.

Run in an environment of its own (`make test-rliable`): rliable 1.2 needs arch < 8, and that pandas < 3.

    python benchmarks/rliable_reference.py --out tests/report/rliable_reference.json    # write it
    python benchmarks/rliable_reference.py --check tests/report/rliable_reference.json  # or compare

The scores rliable's paper publishes lie in a storage bucket and not in its package. These are drawn instead:
eight tasks of scales from 1 to 10,000 with heavy tails, as its Atari scores have, five runs of one algorithm
and three of another.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

TASKS, RUNS, OTHER_RUNS = 8, 5, 3
RESAMPLES = 200
TAUS = 21
TOLERANCE = 1e-9  # between two machines; the test itself asks for 1e-6


def matrices() -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of two algorithms, `[runs, tasks]`; `RandomState` never changes (numpy)."""
    drawn = np.random.RandomState(7)
    scale = np.logspace(0, 4, TASKS)
    one = drawn.lognormal(0.0, 1.0, (RUNS, TASKS)) * scale
    other = drawn.lognormal(-0.3, 1.2, (OTHER_RUNS, TASKS)) * scale - 0.1 * scale
    other[0, 0] = one[0, 0]  # a tie
    return one.round(4), other.round(4)


def reference() -> dict[str, Any]:
    """Return scores, rliable's estimates and intervals, and the runs that it drew, as digits."""
    from rliable import library, metrics

    scores, others = matrices()
    choice = np.random.choice
    drawn: list[np.ndarray] = []

    def recorded(*arguments: Any, **named: Any) -> np.ndarray:
        drawn.append(choice(*arguments, **named))
        return drawn[-1]

    found: dict[str, Any] = {"scores": scores.tolist(), "others": others.tolist()}
    statistics = {
        "iqm": (scores, lambda x: np.array([metrics.aggregate_iqm(x)])),
        "mean": (scores, lambda x: np.array([metrics.aggregate_mean(x)])),
        "improvement": (
            [scores, others],
            lambda x, y: np.array([metrics.probability_of_improvement(x, y)]),
        ),
    }
    np.random.seed(11)
    for name, (given, statistic) in statistics.items():
        drawn.clear()
        with mock.patch.object(np.random, "choice", recorded):
            points, intervals = library.get_interval_estimates({"x": given}, statistic, reps=RESAMPLES)
        found[name] = {
            "value": float(points["x"][0]),
            "low": float(intervals["x"][0, 0]),
            "high": float(intervals["x"][1, 0]),
            "draws": ["".join(map(str, one.ravel())) for one in drawn],
        }
    taus = np.geomspace(0.1, 1e4, TAUS)
    profile, _ = library.create_performance_profile({"x": scores}, taus, reps=2)
    found["profile"] = {"taus": taus.tolist(), "value": profile["x"].tolist()}
    return found


def main() -> None:
    """Write the reference, or compare it with one that was written before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", type=Path)
    line = parser.parse_args()
    found = reference()
    if line.out is not None:
        line.out.write_text(json.dumps(found) + "\n")
    if line.check is not None:
        known = json.loads(line.check.read_text())
        for name in ("iqm", "mean", "improvement"):
            for part in ("value", "low", "high"):
                np.testing.assert_allclose(found[name][part], known[name][part], rtol=TOLERANCE)
            assert found[name]["draws"] == known[name]["draws"], f"{name}: other draws"
        np.testing.assert_allclose(found["profile"]["value"], known["profile"]["value"], rtol=TOLERANCE)
        print(f"{line.check} is what rliable says")


if __name__ == "__main__":
    main()
