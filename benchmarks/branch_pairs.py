"""How much narrower a change's interval is over pairs of a branch and its parent than over separate runs.

One run of several seeds of SAC on Pendulum is branched: another learning rate of the actor from a step on. A
pair shares all that came before, and its evaluation episodes. The same numbers, not taken as pairs, are what
two groups of runs would give. About a CPU minute.

    python benchmarks/branch_pairs.py --out benchmarks/results/branch_pairs.csv
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import rlsuite
from rlsuite.report.pairs import read_pairs
from rlsuite.report.statistics import difference, paired_difference
from rlsuite.runs.files import staged
from rlsuite.training.branching import branch

COLUMNS = (
    "step",
    "seeds",
    "parent",
    "branch",
    "difference",
    "paired_low",
    "paired_high",
    "low",
    "high",
    "ratio",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is branched where."""

    out: Path = Path("benchmarks/results/branch_pairs.csv")
    """CSV of both intervals at every evaluation after the branching."""
    runs: Path = Path("runs/branch_pairs")
    """Folder of the parent and the branch, new."""
    seeds: int = 8
    """Pairs."""
    steps: int = 4_000
    """Env steps of each."""
    at: int = 3_000
    """Env step at which the learning rate changes."""
    lr_actor: float = 1e-4
    """The new one."""


def measure(settings: Settings) -> list[dict[str, float]]:
    """Train, branch, and return a row for every evaluation after the branching."""
    parent = rlsuite.train(
        "sac",
        "gym:Pendulum-v1",
        steps=settings.steps,
        seeds=settings.seeds,
        warmup_steps=500,
        eval_every=500,
        checkpoint_every=settings.at,
        threads=1,
        loggers=(),
        out=settings.runs / "parent",
        agent_options={"hidden": (64, 64), "lr_actor": 1e-3, "lr_critic": 1e-3},
    )
    other = settings.runs / "branch"
    branch(parent.folder, settings.at, other, {"agent": {"lr_actor": settings.lr_actor}}, console=False)
    pairs = read_pairs([(parent.folder, other)], settings.at)
    rows = []
    for place, step in enumerate(pairs[0].steps):
        one, two = (np.array([getattr(pair, arm)[place] for pair in pairs]) for arm in ("branch", "parent"))
        paired, apart = paired_difference(one, two), difference(one, two)
        ratio = (paired.high - paired.low) / (apart.high - apart.low)
        numbers = (step, len(pairs), two.mean(), one.mean(), *paired, apart.low, apart.high, ratio)
        rows.append(dict(zip(COLUMNS, map(float, numbers), strict=True)))
    return rows


def main(settings: Settings) -> None:
    """Measure and write the table."""
    rows = measure(settings)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    with staged(settings.out) as stage, stage.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: round(value, 3) for name, value in row.items()} for row in rows)
    for row in rows:
        print(
            f"step {row['step']:,.0f}: {row['difference']:+.1f}, paired [{row['paired_low']:+.1f}, "
            f"{row['paired_high']:+.1f}], unpaired [{row['low']:+.1f}, {row['high']:+.1f}], "
            f"ratio {row['ratio']:.2f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings))
