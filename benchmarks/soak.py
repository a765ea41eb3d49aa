"""A long run that is stopped and resumed again and again in one process: does anything grow, or slow down?

    python benchmarks/soak.py --minutes 30 --out FILE.csv

DSAC-T trains on HalfCheetah with evaluations and checkpoints; every two minutes it is told to stop, saves,
and is resumed. Each stop and resume builds environments, networks, replay, loggers and threads anew in the
same process, so whatever one of them leaves behind adds up. The replay is small and full after the first
session: from then on the memory should stand still.

One row a session. Memory is told twice: resident, the median of the session's second half, and allocated,
what malloc has given out and not got back when the session is over. A leak grows in both; holes between
allocations grow in the first alone. Speed is updates per second of CPU time (what else the machine does does
not count). The first session, which loads libraries and fills the replay, is the warm-up and no part of the
verdict.
"""

import argparse
import ctypes
import gc
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from races import write_csv

from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.mapping import RunConfig, config_to_dict
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.online import train_online

SESSION_SECONDS = 120.0
SAMPLE_SECONDS = 0.5
MEMORY_SHARE = 0.01  # of change that counts as flat, from the first sessions to the last
SPEED_SHARE = 0.05
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
LEAST_SESSIONS = 3  # one to warm up, two to compare
SETTINGS = TrainConfig(
    env="HalfCheetah",
    steps=10**9,  # never reached
    num_envs=4,
    warmup_steps=1_000,
    replay_size=2_000,  # full within the first session, on a busy machine too
    eval_every=2_000,
    eval_episodes=1,
    checkpoint_every=2_000,
    log_every=500,
    threads=1,
    device="cpu",
    loggers=(),
)


@dataclass(frozen=True, slots=True)
class SoakSession:
    """One stretch between a resume and a stop; descriptors and threads are counted after it."""

    session: int
    seconds: float
    env_steps: int
    updates: int
    updates_per_cpu_second: float
    resident_mib: float
    allocated_mib: float
    descriptors: int
    threads: int


class Sampler(threading.Thread):
    """Notes the resident memory of this process until told to end, and sets a stop flag in time."""

    def __init__(self, stop: StopFlag, seconds: float) -> None:
        super().__init__(name="soak", daemon=True)
        self.samples: list[float] = []
        self.over = threading.Event()
        self._stop_flag, self._end = stop, time.monotonic() + seconds

    def run(self) -> None:
        """Sample; the run saves and returns at the step boundary after the flag is set."""
        while not self.over.wait(SAMPLE_SECONDS):
            self.samples.append(resident_mib())
            if time.monotonic() > self._end:
                self._stop_flag.stop = "SIGTERM"


def resident_mib() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * PAGE_MIB


class _MallInfo(ctypes.Structure):
    """Struct mallinfo2 of glibc: ten sizes."""

    _fields_: ClassVar = [("sizes", ctypes.c_size_t * 10)]


def allocated_mib() -> float:
    """Memory that malloc has given out and not got back; needs glibc 2.33 or newer."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallInfo
    sizes = mallinfo().sizes
    mapped, from_heaps = sizes[4], sizes[7]  # hblkhd, uordblks
    return float(mapped + from_heaps) / 2**20


def soak(path: Path, minutes: float, session_seconds: float = SESSION_SECONDS) -> list[SoakSession]:
    """Train in `path`, stopping and resuming, for so many minutes; return one row a session.

    Raises:
        ConfigError: `path` is in use, or there are too few sessions to compare.
    """
    count = round(minutes * 60 / session_seconds)
    if count < LEAST_SESSIONS:
        raise ConfigError(
            f"{minutes:g} minutes are {count} sessions of {session_seconds:g} s: ask for {LEAST_SESSIONS}"
        )
    kind = agent_class("dsac_t")
    agent = kind.Config()
    whole = RunConfig(agent_name="dsac_t", preset="default", train=SETTINGS, agent=agent)
    RunFolder.create(path, config_to_dict(whole), {}).close()
    rows: list[SoakSession] = []
    steps = updates = 0
    for number in range(count):
        stop = StopFlag()  # not entered: the sampler sets it, and Ctrl-C stays Python's
        sampler = Sampler(stop, session_seconds)
        begin, cpu = time.monotonic(), time.process_time()
        sampler.start()
        with RunFolder.open(path) as folder:
            result = train_online(kind, agent, SETTINGS, folder, stop=stop, resume=number > 0)
        sampler.over.set()
        sampler.join()
        spent = time.process_time() - cpu
        gc.collect()
        rows.append(
            SoakSession(
                session=number,
                seconds=round(time.monotonic() - begin, 1),
                env_steps=result.env_steps - steps,
                updates=result.updates - updates,
                updates_per_cpu_second=round((result.updates - updates) / spent, 2),
                resident_mib=round(statistics.median(sampler.samples[len(sampler.samples) // 2 :]), 1),
                allocated_mib=round(allocated_mib(), 2),
                descriptors=len(list(Path("/proc/self/fd").iterdir())),
                threads=len(list(Path("/proc/self/task").iterdir())),
            )
        )
        steps, updates = result.env_steps, result.updates
        print(rows[-1], flush=True)
    return rows


def verdict(rows: Sequence[SoakSession]) -> dict[str, float]:
    """Return the changes after the warm-up: shares of memory and speed, counts of descriptors and threads.

    Medians of the first and the last third of the sessions are compared.
    """
    later = rows[1:]
    third = max(1, len(later) // 3)
    first, last = later[:third], later[-third:]

    def change(name: str) -> float:
        before, after = (statistics.median(getattr(row, name) for row in part) for part in (first, last))
        return after / before - 1

    return {
        "resident": change("resident_mib"),
        "allocated": change("allocated_mib"),
        "speed": change("updates_per_cpu_second"),
        "descriptors": float(last[-1].descriptors - first[0].descriptors),
        "threads": float(last[-1].threads - first[0].threads),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Soak, print and write; return 1 where something grew or slowed down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--session", type=float, default=SESSION_SECONDS, help="seconds between stops")
    parser.add_argument("--run", type=Path, default=Path("runs/soak"), help="folder of the run, a new one")
    parser.add_argument("--out", type=Path, required=True)
    line = parser.parse_args(argv)
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    rows = soak(line.run, line.minutes, line.session)
    found = verdict(rows)
    write_csv(line.out, rows, threads=1)
    flat = {
        "resident": abs(found["resident"]) <= MEMORY_SHARE,
        "allocated": abs(found["allocated"]) <= MEMORY_SHARE,
        "speed": abs(found["speed"]) <= SPEED_SHARE,
        "descriptors": found["descriptors"] <= 0,
        "threads": found["threads"] <= 0,
    }
    for name, fine in flat.items():
        shown = f"{found[name]:+.2%}" if name in ("resident", "allocated", "speed") else f"{found[name]:+.0f}"
        print(f"{name:12} {shown:>8}  {'flat' if fine else 'NOT FLAT'}")
    return 0 if all(flat.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
