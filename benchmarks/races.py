"""Times routines in turns, so that a machine whose speed drifts moves both sides of a ratio.

The figure of a contender is the median of its rounds; its ratio is the median of the ratios round by round.
"""

import csv
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "torchrl",
    "tensordict",
    "mujoco",
    "gymnasium",
    "stable-baselines3",
    "numpy",
    "envpool",
    "mujoco-warp",
    "warp-lang",
)


@dataclass(frozen=True, slots=True)
class Routine:
    """One way of doing the same work; `work(n)` does n units, n being a multiple of `grain`."""

    name: str
    work: Callable[[int], None]
    grain: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result: units per second, and the ratio to the first contender of its race."""

    race: str
    contender: str
    unit: str
    per_second: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int


def race(name: str, unit: str, contenders: list[Routine], *, seconds: float, rounds: int) -> Iterator[Row]:
    """Time the contenders in turns of about `seconds` each; the first one is the peer of all ratios."""
    sizes = {}
    for contender in contenders:
        grain = contender.grain
        count = grain * ceil(8 / grain)
        while True:  # warm up, and find a count that fills the turn
            spent = _timed(contender.work, count)
            if spent > seconds / 2:
                break
            count *= 2
        sizes[contender.name] = grain * max(1, round(count * seconds / spent / grain))
    speeds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            count = sizes[contender.name]
            speeds[contender.name].append(count / _timed(contender.work, count))
    peer = speeds[contenders[0].name]
    for contender in contenders:
        ratios = [own / other for own, other in zip(speeds[contender.name], peer, strict=True)]
        yield Row(
            name,
            contender.name,
            unit,
            statistics.median(speeds[contender.name]),
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            rounds,
        )


def _timed(work: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    work(count)
    return time.perf_counter() - start


def median_cpu_ms(works: Mapping[str, Callable[[], object]], turns: int, count: int) -> dict[str, float]:
    """Return CPU milliseconds of each work, the median of its turns of `count`; the works take turns.

    A turn before them builds what has to be built and is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            begun = time.process_time()
            for _ in range(count):
                work()
            if turn:
                times[name].append((time.process_time() - begun) / count * 1e3)
    return {name: statistics.median(each) for name, each in times.items()}


def write_measured(path: Path, rows: Sequence[Any], threads: int) -> None:
    """Write rows of one slotted dataclass with the command, versions and machine that made them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "threads": threads,
        "cpu": _cpu_name(),
        "python": platform.python_version(),
        **_versions(),
    }
    with path.open("w", newline="") as file:
        file.write(f"# command: {Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}\n")
        file.writelines(f"# {key}: {value}\n" for key, value in facts.items())
        writer = csv.writer(file)
        names = rows[0].__slots__
        writer.writerow(names)
        for row in rows:
            writer.writerow(
                [f"{v:.4g}" if isinstance(v, float) else v for v in map(row.__getattribute__, names)]
            )


def _versions() -> Mapping[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # a contender that was not there
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
