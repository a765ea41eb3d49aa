"""Branches beside their parents: the same run to a step, so that differences are those of the change."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlsuite.report.statistics import difference, paired_difference
from rlsuite.report.study import SeedCurve, seed_curves

MOST_ROWS = 12  # of the table


class Pair(NamedTuple):
    """One seed's returns after the branching, at the steps that both arms have evaluated.

    Attributes:
        steps: `[K]`.
        parent, branch: returns, `[K]`.
    """

    steps: np.ndarray
    parent: np.ndarray
    branch: np.ndarray


def read_pairs(runs: Sequence[tuple[Path, Path]], at: int) -> list[Pair]:
    """Return every seed of every run with its branch, as far as both have evaluations after `at`."""
    pairs = []
    for parent, branch in runs:
        curves = {curve.seed: curve for curve in seed_curves(branch)}
        for curve in seed_curves(parent):
            if curve.seed in curves:
                pairs.append(_joined(curve, curves[curve.seed], at))
    return [pair for pair in pairs if len(pair.steps)]


def _joined(parent: SeedCurve, branch: SeedCurve, at: int) -> Pair:
    steps, first, second = np.intersect1d(
        parent.along("env_steps"), branch.along("env_steps"), return_indices=True
    )
    later = steps > at
    return Pair(steps[later], parent.returns[first][later], branch.returns[second][later])


def report_pairs(runs: Sequence[tuple[Path, Path]], at: int) -> str:
    """Return a table of both arms after the branching, and the difference at the end with its interval."""
    pairs = read_pairs(runs, at)
    if not pairs:
        return f"no evaluation of both arms after {at:,} yet: nothing to compare"
    common = sorted(set.intersection(*(set(pair.steps.tolist()) for pair in pairs)))
    if not common:
        return "the pairs share no evaluation step: nothing to compare"
    rows: list[tuple[str, ...]] = [("step", "parent", "branch", "difference")]
    for step in common[:: -(-len(common) // MOST_ROWS)] + common[-1:]:
        parent, branch = scores(pairs, step)
        cells = (parent.mean(), branch.mean(), (branch - parent).mean())
        row = (f"{int(step):,}", *(f"{cell:,.1f}" for cell in cells[:2]), f"{cells[2]:+,.1f}")
        if row not in rows:
            rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    parent, branch = scores(pairs, common[-1])
    if len(pairs) < 3:
        count = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
        lines.append(f"{count}: too few for an interval; branch more runs, of other seeds")
        return "\n".join(lines)
    together, apart = paired_difference(branch, parent), difference(branch, parent)
    intervals = [f"[{estimate.low:+,.1f}, {estimate.high:+,.1f}]" for estimate in (together, apart)]
    lines.append(
        f"difference at {int(common[-1]):,}: {together.value:+,.1f} {intervals[0]} over {len(pairs)} pairs; "
        f"the same numbers unpaired: {intervals[1]}"
    )
    return "\n".join(lines)


def scores(pairs: Sequence[Pair], step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the returns of both arms at a step, `[pairs]` each."""
    parents = [float(pair.parent[pair.steps == step][0]) for pair in pairs]
    branches = [float(pair.branch[pair.steps == step][0]) for pair in pairs]
    return np.array(parents), np.array(branches)
