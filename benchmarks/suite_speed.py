"""Env steps of dm_control's tasks per second of processor time: its own environments and the native engine.

    python benchmarks/suite_speed.py --out FILE.csv

One thread, random actions, with the whole TorchRL environment around. Contenders take turns, and the median
of the turns counts. Processor time, because it says more than the clock's on a machine with other work.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from rlsuite.envs.make import make_env
from rlsuite.envs.tasks.dmc.base import load_suite_task

TASKS = (
    "cheetah-run",
    "walker-walk",
    "cartpole-swingup",
    "finger-turn_hard",
    "humanoid-run",
    "quadruped-run",
    "dog-run",
)
CONTENDERS = {"dm_control": ("dmc", 1), "native, 1 world": ("native", 1), "native, 64 worlds": ("native", 64)}
DRAWS = 200  # initial states that are timed


def env_steps_per_second(task: str, engine: str, worlds: int, seconds: float) -> float:
    """Play random actions for so many seconds of processor time."""
    env = make_env(f"dmc:{task}", worlds, engine=engine, threads=1)
    row, steps = env.reset(), 0
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        row = env.step(row.set("action", env.action_spec.rand()))
        row = env.maybe_reset(env.step_mdp(row))
        steps += worlds
    env.close()
    return steps / spent


def milliseconds_per_draw(task: str) -> float:
    """Time the drawing of initial states."""
    initial, rng, rest = load_suite_task(task).initial, np.random.default_rng(0), np.zeros(0)
    initial.draw(rng, rest, rest)  # loads the model
    start = time.process_time()
    for _ in range(DRAWS):
        initial.draw(rng, rest, rest)
    return 1000 * (time.process_time() - start) / DRAWS


def main() -> None:
    """Write and print one line a task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0, help="of processor time, each turn")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", *CONTENDERS, "milliseconds per initial state"])
        for task in TASKS:
            turns = [
                [env_steps_per_second(task, *who, arguments.seconds) for who in CONTENDERS.values()]
                for _ in range(arguments.turns)
            ]
            speeds = [round(statistics.median(speed)) for speed in zip(*turns, strict=True)]
            line = [task, *speeds, round(milliseconds_per_draw(task), 2)]
            writer.writerow(line)
            print(*line, sep="\t", flush=True)


if __name__ == "__main__":
    main()
