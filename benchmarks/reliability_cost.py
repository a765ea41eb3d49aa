"""What reliability costs: guards per update and per env step, and the seconds a checkpoint stops training.

    python benchmarks/reliability_cost.py --out FILE.csv

Guards: an update, and what `LearnerGuard` does after it (its reading included, once in `READ_EVERY`), are
timed in turns in one process, in CPU time of their thread; the ratio of the medians is the guard's share. The
same for an env step of HalfCheetah and the looks at its numbers. Two loops timed against each other would not
show one per cent on a machine that shares its cores.

Checkpoints: DSAC-T's agent and optimisers with a replay of a million transitions of HalfCheetah's sizes,
saved once in full and then again after `NEW_ROWS` new ones, as a run does; all of it is wall time in which
training stands still. The disk of `--folder` is what is measured.
"""

import argparse
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from plugin_cost import microseconds, row_of, sample_agent
from races import write_csv
from workload import filled_replay

from rlsuite.envs.make import make_env
from rlsuite.replay.uniform import UniformReplay
from rlsuite.runs.checkpoint import CheckpointStore, SavedChunk
from rlsuite.training import state
from rlsuite.training.guard import READ_EVERY, LearnerGuard

ROWS = 1_000_000  # transitions of the replay that is saved
NEW_ROWS = 50_000  # between two checkpoints of a run with the default interval
GUARD_ROWS = 10_000  # of the replay that guarded updates draw from
GUARD_GOAL = 0.01  # of an update
SAVE_GOAL = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One measured time, its share of what it is part of, and the goal; NaN where there is none."""

    what: str
    milliseconds: float
    share: float
    goal: float


def guard_rows(name: str, folder: Path, rounds: int) -> list[Row]:
    """Time updates of an agent and the guard's work after each."""
    agent, replay = sample_agent(name), filled_replay(GUARD_ROWS)
    guard = LearnerGuard(folder)
    batch = replay.sample()
    metrics = agent.update(batch)
    guard.check(metrics, batch, 0)
    works: dict[str, tuple[Callable[[], Any], int]] = {
        "update": (lambda: agent.update(replay.sample()), 5),
        "check": (lambda: guard.check(metrics, batch, 0), 100),
        "read": (guard.read, 100),
    }
    found = in_turns(works, rounds)
    spent = found["check"] + found["read"] / READ_EVERY
    return [
        Row(f"{name}: update", found["update"] / 1e3, 1.0, math.nan),
        Row(f"{name}: guard after each update", spent / 1e3, spent / found["update"], GUARD_GOAL),
    ]


def world_rows(rounds: int) -> list[Row]:
    """Time env steps of HalfCheetah and the looks at the numbers of each."""
    env = make_env("HalfCheetah", 1, threads=1)
    carried = env.reset()
    action = torch.zeros(1, env.action_spec.shape[-1])

    def step() -> None:
        nonlocal carried
        carried = env.maybe_reset(env.step_mdp(env.step(carried.set("action", action))))

    row, engine = env.step(carried.set("action", action))["next"], env.engine

    def look() -> None:
        engine.sane()
        math.isfinite(row["observation"].sum() + row["reward"].sum())

    found = in_turns({"step": (step, 50), "look": (look, 100)}, rounds)
    env.close()
    return [
        Row("HalfCheetah: env step", found["step"] / 1e3, 1.0, math.nan),
        Row(
            "HalfCheetah: guard in each env step",
            found["look"] / 1e3,
            found["look"] / found["step"],
            math.nan,
        ),
    ]


def in_turns(works: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> dict[str, float]:
    """Return the median microseconds of one call of every work, all measured in turns."""
    times: dict[str, list[float]] = {what: [] for what in works}
    for _ in range(rounds):
        for what, (work, calls) in works.items():
            times[what].append(microseconds(work, calls))
    return {what: statistics.median(each) for what, each in times.items()}


def checkpoint_rows(folder: Path, rows: int, saves: int) -> list[Row]:
    """Time a full save, saves of what changed, and a load."""
    agent, replay = sample_agent("dsac_t"), filled_replay(rows)
    agent.update(replay.sample())
    store = CheckpointStore(folder)
    full = seconds(partial(save, store, 0, agent, replay))
    step, partly = row_of(1), []
    for number in range(1, saves + 1):
        for _ in range(NEW_ROWS):
            replay.extend(step)
        partly.append(seconds(partial(save, store, number, agent, replay)))

    def load() -> None:
        loaded = CheckpointStore(folder).load(config_digest="")
        assert loaded is not None
        fresh = UniformReplay(rows, num_envs=1, batch_size=replay.batch_size)
        fresh.load(loaded.documents["replay"], (chunk for _, chunk in loaded.chunks()))

    size = f"{rows:,} transitions"
    return [
        Row(f"checkpoint of {size}, all written", full * 1e3, math.nan, SAVE_GOAL * 1e3),
        Row(
            f"checkpoint of {size}, {NEW_ROWS:,} of them new",
            statistics.median(partly) * 1e3,
            math.nan,
            SAVE_GOAL * 1e3,
        ),
        Row(f"load of {size}, verified", seconds(load) * 1e3, math.nan, math.nan),
    ]


def save(store: CheckpointStore, step: int, agent: Any, replay: UniformReplay) -> None:
    """Write one checkpoint as the training loop does."""
    chunks = [
        SavedChunk(
            name=chunk.name,
            version=chunk.version,
            rows=partial(dict, chunk.rows),
            nbytes=sum(t.numel() * t.element_size() for t in chunk.rows.values()),
        )
        for chunk in replay.chunks()
    ]
    store.save(
        step,
        tensors={"agent": state.agent_tensors(agent), "optim": state.optimizer_tensors(agent)},
        documents={"replay": replay.state_dict()},
        chunks=chunks,
        config_digest="",
    )


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one by default")
    parser.add_argument("--rows", type=int, default=ROWS, help="transitions of the replay")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--saves", type=int, default=3)
    line = parser.parse_args(argv)
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="reliability-", dir=line.folder))
    try:
        rows = [row for name in ("sac", "dsac_t") for row in guard_rows(name, work, line.rounds)]
        rows += world_rows(line.rounds)
        rows += checkpoint_rows(work / "ckpt", line.rows, line.saves)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for row in rows:
        share = "" if math.isnan(row.share) else f"{row.share:8.2%}"
        print(f"{row.what:56} {row.milliseconds:10.3f} ms {share}")
    write_csv(line.out, rows, threads=1)


if __name__ == "__main__":
    main()
