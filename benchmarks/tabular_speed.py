"""How fast the vectorised solver sweeps, and how its cost grows with states, actions, stocks and atoms.

One row per size: sweeps of a random process, with states x actions x stocks x atoms x objectives per second.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from races import write_csv

from rlsuite.command.arguments import parse
from rlsuite.returns.objectives import Lower, Target, Upper
from rlsuite.returns.table import Table
from rlsuite.returns.vectorised import Grid, GridSolver

OUTCOMES = 2  # of every action
REWARDS = 4  # different ones
BASE = {"states": 64, "actions": 4, "stocks": 64, "atoms": 64, "objectives": 1}
GROWTH = (1, 2, 4)  # each size in turn, the others as above


@dataclass(frozen=True, kw_only=True)
class SpeedArgs:
    """Times sweeps of the vectorised solver."""

    rounds: int = 5
    """Sweeps timed per size, after one to warm up; the median counts."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """cpu or cuda."""
    out: Path = Path("runs/tabular_speed.csv")
    """CSV of the result."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result."""

    representation: str
    dtype: str
    varied: str
    states: int
    actions: int
    stocks: int
    atoms: int
    objectives: int
    milliseconds: float
    cells_per_second: float


def random_table(states: int, actions: int, seed: int = 0) -> Table:
    """Return a process of two random outcomes per action and rewards -1, ..., 2, none terminal."""
    generator = torch.Generator().manual_seed(seed)
    shape = (states, actions, OUTCOMES)
    probability = torch.rand(shape, generator=generator, dtype=torch.float64)
    reward = torch.randint(REWARDS, shape, generator=generator).double() - 1
    start = torch.zeros(states, dtype=torch.float64)
    start[0] = 1
    return Table(
        list(range(states)),
        probability / probability.sum(-1, keepdim=True),
        reward,
        torch.randint(states, shape, generator=generator),
        torch.zeros(states, dtype=torch.bool),
        start,
    )


def time_sweeps(
    line: SpeedArgs, varied: str, sizes: dict[str, int], representation: str, dtype: torch.dtype
) -> Row:
    """Time one size."""
    solver = GridSolver(
        random_table(sizes["states"], sizes["actions"]),
        [Lower(), Target(), Upper(), Lower()][: sizes["objectives"]],
        0.9,
        Grid(low=-25, high=25, count=sizes["stocks"]),
        Grid(low=-25, high=25, count=sizes["atoms"]),
        representation=representation,  # type: ignore[arg-type]
        device=line.device,
        dtype=dtype,
    )
    spent = []
    for _ in range(line.rounds + 1):
        begin = time.perf_counter()
        solver.sweep()
        if line.device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - begin)
    seconds = statistics.median(spent[1:])
    cells = 1
    for size in sizes.values():
        cells *= size
    return Row(
        representation,
        str(dtype).removeprefix("torch."),
        varied,
        **sizes,
        milliseconds=1e3 * seconds,
        cells_per_second=cells / seconds,
    )


def rows(line: SpeedArgs) -> Iterator[Row]:
    """Yield one row per representation, precision and size."""
    for representation, dtype in (
        ("categorical", torch.float64),
        ("categorical", torch.float32),
        ("quantile", torch.float64),
    ):
        for varied in BASE:
            for factor in GROWTH if varied != "states" else (1, 4, 16):
                if factor == 1 and varied != "states":
                    continue  # the base size is timed once
                sizes = {**BASE, varied: factor * BASE[varied]}
                yield time_sweeps(line, varied if factor > 1 else "base", sizes, representation, dtype)


def main(argv: Sequence[str] | None = None) -> None:
    """Time all sizes, print and write them."""
    import sys

    line = parse(SpeedArgs, sys.argv[1:] if argv is None else argv, prog="benchmarks/tabular_speed.py")
    torch.set_num_threads(line.threads)
    found = []
    for row in rows(line):
        found.append(row)
        size = " x ".join(str(getattr(row, name)) for name in BASE)
        speed = f"{row.milliseconds:9.1f} ms {row.cells_per_second:.3g}/s"
        print(f"{row.representation:12} {row.dtype} {size:24} {speed}")
    write_csv(line.out, found, line.threads)


if __name__ == "__main__":
    main()
