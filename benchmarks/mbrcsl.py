"""Measures MBRCSL on its own maze beside BC and IQL: success, return, and what imagined plans really bring.

For every seed it trains the agents, plays episodes of each last checkpoint, and plays the actions that MBRCSL
kept, from the states from which they were imagined, in the real maze. Legend: K plans, T env steps.
"""

import csv
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rlsuite
from rlsuite.agents.mbrcsl import MBRCSL
from rlsuite.bounds import AtLeastOne, NotNegative, check_bounds
from rlsuite.command.arguments import parse
from rlsuite.envs.make import make_env
from rlsuite.offline import detour
from rlsuite.offline.load import load_dataset
from rlsuite.training.evaluate import evaluate
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import load_run

RADIUS = 0.45  # of success; Gymnasium-Robotics
EVAL_SEED = 1_000
COLUMNS = ("agent", "seed", "success", "return_mean", "imagined", "real", "real_above", "cpu_seconds")


@dataclass(frozen=True, kw_only=True)
class MBRCSLArgs:
    """Trains MBRCSL, BC and IQL on pointmaze/mbrcsl, and writes a table of how they do."""

    dataset: str = "rlsuite/pointmaze/mbrcsl-v0"
    """The data: `rlsuite data make pointmaze/mbrcsl`."""
    seeds: AtLeastOne = 4
    """Seeds, from `first` on."""
    first: NotNegative = 0
    """The first seed."""
    episodes: AtLeastOne = 20
    """Episodes that every last policy plays."""
    plans: AtLeastOne = 20
    """Kept roll-outs of each MBRCSL that are played in the real maze."""
    preset: str = "default"
    """Of MBRCSL; `small` is too small for this maze (docs/mbrcsl.md)."""
    others: AtLeastOne = 5_000
    """Updates of BC and IQL."""
    runs: Path = Path("runs/mbrcsl")
    """Where the runs lie; those that are finished there are not trained again."""
    out: Path = Path("benchmarks/results/mbrcsl.csv")
    """The table; rows are written as they come."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


def real_returns(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Return what action sequences `[K, T, 2]` bring in the real maze from states `[K, 4]`, `[K]`."""
    env, returns = detour.make(), []
    for start, plan in zip(observation, action, strict=True):
        env.reset(seed=EVAL_SEED)
        maze: Any = env.unwrapped
        maze.goal = maze.maze.cell_rowcol_to_xy(np.array(detour.mazes.GOAL))  # without its jitter
        maze.point_env.set_state(start[:2].astype(np.float64), start[2:].astype(np.float64))
        returns.append(sum(float(env.step(each)[1]) for each in plan))
    env.close()
    return np.array(returns)


def recorded(dataset: str) -> Iterator[dict[str, Any]]:
    """Yield what the data's best episode and the straight way bring."""
    data, returns = load_dataset(dataset), recorded_returns(dataset)
    best = int(np.argmax(returns))
    place = data.rows["next", "observation"][int(data.episodes[best, 1]) - 1, :2].numpy()
    goal = detour.make().unwrapped.maze.cell_rowcol_to_xy(np.array(detour.mazes.GOAL))
    near = float(np.linalg.norm(place - goal) <= RADIUS)
    yield {"agent": "best recorded", "seed": "", "success": near, "return_mean": returns[best]}
    yield {"agent": "mean recorded", "seed": "", "success": "", "return_mean": float(np.mean(returns))}
    reference = data.reference
    if reference is not None:
        yield {"agent": "straight way", "seed": "", "success": "", "return_mean": reference.high}
        yield {"agent": "random actions", "seed": "", "success": "", "return_mean": reference.low}


def measured(agent: str, seed: int, args: MBRCSLArgs) -> dict[str, Any]:
    """Train an agent unless it is there, and play its policy, and its plans where it has some."""
    folder, begun = args.runs / f"{agent}-s{seed}", time.process_time()
    if not (folder / "ckpt").exists():
        fields: dict[str, Any] = {"preset": args.preset} if agent == "mbrcsl" else {"steps": args.others}
        rlsuite.train(agent, dataset=args.dataset, out=folder, seed=seed, eval_every=0, threads=1, **fields)
    spent = time.process_time() - begun
    run = load_run(folder, "last")
    env = make_env(run.config.train.env, args.episodes)
    learner = run.agent(env, SeedStreams([seed]))
    played = evaluate(learner.policy, env, seeds=[EVAL_SEED + k for k in range(args.episodes)])
    env.close()
    row = {
        "agent": agent,
        "seed": seed,
        "success": float(np.mean(played["success"])),
        "return_mean": float(np.mean(played["returns"])),
        "cpu_seconds": round(spent, 1),
    }
    if isinstance(learner, MBRCSL):
        kept, steps, chosen = int(learner.plans), learner.config.horizon, args.plans
        asked = learner.plan_input[: kept * steps].unflatten(0, (kept, steps))[:chosen].numpy()
        action = learner.plan_action[: kept * steps].unflatten(0, (kept, steps))[:chosen].numpy()
        real, bar = real_returns(asked[:, 0, :4], action), max(recorded_returns(args.dataset))
        row |= {
            "imagined": float(asked[:, 0, 4].mean()),
            "real": float(real.mean()),
            "real_above": float((real > bar).mean()),
        }
    return row


def recorded_returns(dataset: str) -> list[float]:
    """Return what every recorded episode brought."""
    data = load_dataset(dataset)
    reward = data.rows["next", "reward"].squeeze(-1).double()
    return [float(reward[first:last].sum()) for first, last in data.episodes.tolist()]


def main(words: list[str]) -> None:
    """Write the table, row by row."""
    args = parse(MBRCSLArgs, words, prog="benchmarks/mbrcsl.py", description=str(MBRCSLArgs.__doc__))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in recorded(args.dataset):
            table.writerow(rounded(row))
        for seed in range(args.first, args.first + args.seeds):
            for agent in ("mbrcsl", "bc", "iql"):
                row = measured(agent, seed, args)
                table.writerow(rounded(row))
                file.flush()
                print(rounded(row), flush=True)


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose numbers have two decimals."""
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
