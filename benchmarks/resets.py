"""Trains agents with and without a plug-in: neuron resets at a high replay ratio, or early stopping.

    python benchmarks/resets.py grama --task HalfCheetah-v5 --out runs/grama
    python benchmarks/resets.py least --task Walker2d-v5 --out runs/least

Both arms of an experiment are ordinary runs, all seeds of an arm in one process: interrupted, the same
command goes on; finished runs are left alone. Further flags of `rlsuite train` may follow. Leaves
`curves.csv`, `arms.csv` (shares of inactive units or stop rates over env steps), `lengths.csv` (episodes of
the last replay by length), `terminals.csv` (rows of it that terminated, by env steps) and a picture.
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pictures
import torch
from curves import collect, copy_origin

from rlsuite.launch.plan import resolve, run_here
from rlsuite.replay.packed import chunk_columns
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import METRICS_FILE, RunFolder

LENGTH_BIN = 50  # env steps; a time limit of 1,000 makes twenty bins
BLOCK = 10_000  # env steps of a seed in which terminal rows are counted


class Experiment(NamedTuple):
    """Flags of both arms, what tells them apart, what to draw beside the returns, and what else to keep."""

    common: tuple[str, ...]
    arms: Mapping[str, tuple[str, ...]]
    steps: int
    metrics: tuple[str, ...]
    kept: tuple[str, ...] = ()


EXPERIMENTS = {
    "grama": Experiment(
        ("--updates-per-step", "2", "--plugins", "grama"),
        {"plain": ("--grama.measure-only",), "grama": ()},
        50_000,
        ("grama/inactive_critic", "grama/inactive_actor"),
    ),
    "redo": Experiment(
        ("--updates-per-step", "2"),
        {"plain": ("--plugins", "redo", "--redo.measure-only"), "redo": ("--plugins", "redo")},
        50_000,
        ("redo/inactive_critic", "redo/inactive_actor"),
    ),
    "least": Experiment(
        (),
        {"plain": (), "least": ("--plugins", "least")},
        80_000,
        ("least/stop_rate", "least/noise"),
        ("least/ended_within_30", "q/mean", "eval/value_error"),
    ),
}


def words_of(experiment: Experiment, arm: str, line: argparse.Namespace, extra: Sequence[str]) -> list[str]:
    """Return the command line of one arm, without the agent.

    A flag of the experiment's plug-in goes to the arms that have it: `least` has none in its plain arm.
    """
    words = ["--env", line.task, "--steps", str(line.steps or experiment.steps), "--seeds", str(line.seeds)]
    words += ["--seed", str(line.seed), "--threads", str(line.threads)]
    own = [*experiment.common, *experiment.arms[arm]]
    return [*words, *own, *(extra if line.experiment in own else without_fields(extra, line.experiment))]


def without_fields(words: Sequence[str], plugin: str) -> list[str]:
    """Leave out the fields of a plug-in, with their values."""
    kept, left_out = [], False
    for word in words:
        if word.startswith("--"):  # else a value of the flag before it
            left_out = word.startswith(f"--{plugin}.")
        if not left_out:
            kept.append(word)
    return kept


def traces(runs: Mapping[str, Path], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return arm, seed, env step and the named metrics of every line of metrics that has one of them."""
    rows = []
    for arm, path in runs.items():
        first = RunFolder.open(path).config()["train"]["seed"]
        for record in read_metrics(path / METRICS_FILE):
            if any(name in record for name in names):
                numbers = {name: record.get(name, "") for name in names}
                rows.append(
                    {"arm": arm, "seed": record.get("seed", first), "env_step": record["step"], **numbers}
                )
    return rows


def lengths(path: Path) -> Counter[int]:
    """Count the episodes in the last checkpoint's replay by length, in bins of 50 env steps.

    Of a ring that has forgotten rows, each world's first end is left out: its episode's start may be gone.
    """
    replay, done = flags(path, "next/done")
    if done is None:
        return Counter()
    forgotten = replay["total"] > replay["rows"]
    done = done.roll(-(replay["total"] // replay["num_envs"]) % len(done), 0) if forgotten else done
    found: Counter[int] = Counter()
    for world in done.T:
        ends = np.flatnonzero(world.numpy())
        each = np.diff(ends if forgotten else np.concatenate(([-1], ends)))
        found.update((each // LENGTH_BIN * LENGTH_BIN).tolist())
    return found


def flags(path: Path, column: str) -> tuple[dict[str, Any], torch.Tensor | None]:
    """Return the counts of the replay in the last checkpoint, and a column of it, `[steps, envs]`."""
    loaded = CheckpointStore(path / "ckpt").load(config_digest=None)
    if loaded is None:
        return {}, None
    replay = loaded.documents["counters"]["replay"]
    rows = torch.cat([chunk_columns(rows)[column].flatten() for _, rows in loaded.chunks()])
    return replay, rows.view(-1, replay["num_envs"])


def terminals(path: Path) -> list[dict[str, int]]:
    """Count the rows in the last checkpoint's replay that terminated, by seed and 10,000 env steps of it."""
    replay, terminated = flags(path, "next/terminated")
    if terminated is None or replay["total"] > replay["rows"]:  # a ring that has forgotten has no env steps
        return []
    train = RunFolder.open(path).config()["train"]
    of_seed = terminated.view(len(terminated), train["seeds"], -1)
    each = max(1, BLOCK // of_seed.shape[-1])
    return [
        {
            "seed": train["seed"] + seed,
            "from_env_step": BLOCK * number,
            "env_steps": block[:, seed].numel(),
            "terminal_rows": int(block[:, seed].sum()),
        }
        for number, block in enumerate(of_seed.split(each))
        for seed in range(train["seeds"])
    ]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, then report; return 0, or the exit code of the run that was interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--agent", default="sac")
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument(
        "--steps", type=int, default=0, help="env steps of each seed; 0: the experiment's own"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    line, extra = parser.parse_known_args(argv)
    experiment = EXPERIMENTS[line.experiment]
    plans = {arm: resolve(line.agent, words_of(experiment, arm, line, extra)) for arm in experiment.arms}
    runs = {arm: line.out / arm for arm in plans}
    for arm, plan in plans.items():
        if code := run_here(plan, runs[arm]):
            return code
    returns = [{"arm": arm, **row} for arm, path in runs.items() for row in collect([path])]
    shares = traces(runs, (*experiment.metrics, *experiment.kept))
    tables = {"curves.csv": returns, "arms.csv": shares}
    tables["lengths.csv"] = [
        {"arm": arm, "from_length": start, "episodes": count}
        for arm, path in runs.items()
        for start, count in sorted(lengths(path).items())
    ]
    tables["terminals.csv"] = [{"arm": arm, **row} for arm, path in runs.items() for row in terminals(path)]
    for name, rows in tables.items():
        if rows:
            write_rows(line.out / name, rows)
    for arm, path in runs.items():
        copy_origin(path, line.out, f"{arm}.")
    if returns and shares:
        pictures.arms(line.out, line.experiment, experiment.metrics)
    last = max((row["env_step"] for row in returns), default=0)
    for arm in runs:
        ends = [row["return_mean"] for row in returns if row["arm"] == arm and row["env_step"] == last]
        print(f"{arm}: returns of the last evaluation {ends}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
