"""Runs the turns of a race: every contender is a process that waits, and works when it is told to.

The standard library alone, so that contenders may live in environments of their own. A contender is a
command; its process claims its standard output, builds what it needs, and answers every line of its standard
input, a number of units, with what they cost:

    claim_output()
    ...                        # build
    for count in turns():
        ...                    # do `count` units
"""

import contextlib
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path
from typing import Any, TextIO

PACKAGES = (
    "rlsuite",
    "torch",
    "torchrl",
    "tensordict",
    "stable-baselines3",
    "sbx-rl",
    "jax",
    "jaxlib",
    "mujoco",
    "gymnasium",
    "envpool",
    "numpy",
)
LEAVE_SECONDS = 10.0  # for a contender to end when the race is over


class Unavailable(Exception):
    """A contender that cannot run here; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one turn cost a contender.

    Attributes:
        units: of work done.
        cpu_seconds: of all threads, children that ended included.
        wall_seconds: from the first unit to the last.
        peak_mib: largest resident memory of the process since it began.
    """

    units: int
    cpu_seconds: float
    wall_seconds: float
    peak_mib: float

    def __add__(self, other: "Cost") -> "Cost":
        """Join the costs of two processes that worked at the same time."""
        return Cost(
            self.units + other.units,
            self.cpu_seconds + other.cpu_seconds,
            max(self.wall_seconds, other.wall_seconds),
            self.peak_mib + other.peak_mib,
        )


# The contender's end.


_answers: list[TextIO] = []  # the real standard output, once it is claimed


def claim_output() -> None:
    """Keep the standard output for answers; what libraries print there is dropped, errors are not."""
    _answers.append(os.fdopen(os.dup(1), "w"))
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (a device)
        os.dup2(nowhere.fileno(), 1)


def answer(facts: Mapping[str, Any]) -> None:
    """Write one answer."""
    _answers[-1].write(f"{json.dumps(dict(facts))}\n")
    _answers[-1].flush()


def turns() -> Iterator[int]:
    """Say that the contender is ready, then yield the units of every turn and answer with their cost."""
    answer({"versions": versions()})
    for line in sys.stdin:
        count = int(line)
        cpu, wall = cpu_seconds(), time.perf_counter()
        yield count
        cost = Cost(count, cpu_seconds() - cpu, time.perf_counter() - wall, peak_mib())
        answer(dataclasses.asdict(cost))


class Gate:
    """Turns of a loop that keeps control: it says how far it is, and waits here between turns.

    Args:
        warm_up: units before the first turn, which cost nobody anything.
    """

    def __init__(self, warm_up: int) -> None:
        self.goal = warm_up
        self._turns: Iterator[int] | None = None

    def passed(self, units: int) -> bool:
        """Take the units done so far; return whether the loop may go on."""
        while units >= self.goal:
            if self._turns is None:
                self._turns = turns()
            count = next(self._turns, None)
            if count is None:
                return False
            self.goal += count
        return True


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended (a compiler's)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_mib() -> float:
    """Return the peak of the resident memory of this process, in MiB."""
    try:  # ru_maxrss would count what the parent had when it started this process
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def versions() -> dict[str, str]:
    """Return the version of Python and of every package of `PACKAGES` that is installed here."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


# The race's end.


class Process:
    """A contender's process.

    Args:
        command: starts it.
        cores: what it is pinned to.
        variables: of its environment, besides ours.

    Raises:
        Unavailable: it cannot run here.
    """

    def __init__(
        self, command: Sequence[str], cores: Sequence[int], variables: Mapping[str, str] | None = None
    ) -> None:
        self.command = tuple(command)
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(variables or {})},
            text=True,
            preexec_fn=partial(_pin, tuple(cores)),
        )
        ready = self._read()
        if "unavailable" in ready:
            self.close()
            raise Unavailable(ready["unavailable"])
        self.versions: dict[str, str] = ready["versions"]

    def start(self, units: int) -> None:
        """Ask for `units` units."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{units}\n")
        self.process.stdin.flush()

    def finish(self) -> Cost:
        """Wait until they are done; return what they cost."""
        return Cost(**self._read())

    def close(self) -> None:
        """End the process: nothing of it is wanted any more."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise RuntimeError(
                f"a contender ended with exit code {code}, its error is above: {' '.join(self.command)}"
            )
        facts: dict[str, Any] = json.loads(line)
        return facts


def _pin(cores: tuple[int, ...]) -> None:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@dataclass(slots=True)
class Contender:
    """One way of doing the same work: a process, or several that share the work and run at the same time.

    Attributes:
        name: in tables.
        processes: started, waiting.
        grain: units come in multiples of it.
    """

    name: str
    processes: list[Process]
    grain: int = 1

    def work(self, units: int) -> Cost:
        """Do `units` units, a multiple of the grain, and wait; return the cost."""
        share = units // len(self.processes)
        for process in self.processes:
            process.start(share)
        first, *others = [process.finish() for process in self.processes]
        return sum(others, first)

    def fill(self, seconds: float, clock: str) -> int:
        """Warm up; return how many units take about `seconds` of `clock` (a field of `Cost`)."""
        grain = self.grain * len(self.processes)
        count = grain * ceil(8 / grain)
        while True:
            spent = getattr(self.work(count), clock)
            if spent > seconds / 2:
                return grain * max(1, round(count * seconds / spent / grain))
            count *= 2

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.close()
