"""How wide a berth STAC gives the danger disc of RiskyPointMass, by its pessimism beta.

Trains one run per beta and seed, plays the learnt policies from the same starts, and measures how near the
disc they come: paths as CSV and picture, one row per run in `berth.csv`. Legend: T steps, B episodes.
"""

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlsuite.bounds import AtLeastOne, check_bounds
from rlsuite.command.arguments import parse
from rlsuite.envs.make import make_env
from rlsuite.envs.toys.risky_pointmass import CENTER, GOAL_RADIUS, RADIUS, distance_to_center, risk
from rlsuite.errors import ConfigError
from rlsuite.launch.plan import resolve, run_here
from rlsuite.training.evaluate import evaluate
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import load_run

ENV = "RiskyPointMass"
NEAR = 0.1  # from the disc's edge
EPISODES = 500  # of the policy, from the same starts for every beta
SEED = 20_260_101  # of the starts
DRAWN = 40  # paths in the picture
PATH_COLUMNS = ("beta", "seed", "episode", "step", "x", "y")


@dataclass(frozen=True, kw_only=True)
class RiskArgs:
    """Trains STAC on RiskyPointMass for several beta and draws how it walks around the disc."""

    betas: tuple[float, ...] = (0.0, 0.125, 0.25, 0.375, 0.5)
    """Deviations that the pessimism takes off; the paper's five."""
    seeds: AtLeastOne = 1
    """Runs per beta; the paper has one."""
    steps: int = 100_000
    """Env steps of every run."""
    variant: str = "paper"
    """Of the task: paper or code, see rlsuite.envs.toys.risky_pointmass."""
    threads: int = 1
    """CPU threads of a run."""
    runs: Path = Path("runs/risky_pointmass")
    """Folder of the runs; what is finished is kept."""
    out: Path = Path("runs/risky_pointmass/result")
    """Folder of the tables and the picture."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)
        if not self.betas:
            raise ConfigError("betas is empty: name at least one, e.g. --betas 0 0.25")


class PathTrace:
    """Keeps the places of evaluation episodes; nan after an episode's end."""

    def __init__(self) -> None:
        self.places: list[Tensor] = []

    def add(self, step: TensorDictBase, running: Tensor) -> None:
        """Keep where the worlds that are running were, and after the last step where they arrived."""
        alive = running.unsqueeze(-1)
        if not self.places:
            self.places.append(step.get("observation").clone())
        self.places.append(torch.where(alive, step.get("next").get("observation"), torch.nan))

    def errors(self) -> dict[str, Tensor]:
        """Return none: value errors are not what this is for."""
        return {}

    def paths(self) -> Tensor:
        """Return the places, `[T + 1, B, 2]` float64."""
        return torch.stack(self.places).double()


def crosses(start: Tensor) -> Tensor:
    """Whether the straight way from `start` `[B, 2]` to the origin leads through the disc, `[B]` bool.

    The way's nearest point to the disc's middle is its foot, as long as that lies between start and origin.
    """
    center = start.new_tensor(CENTER)
    along = (start @ center / start.square().sum(-1)).clamp(0, 1).unsqueeze(-1)
    return distance_to_center(along * start) < RADIUS


def berth(paths: Tensor) -> dict[str, float]:
    """Measure paths `[T + 1, B, 2]` with nan after each end: how near the disc, how long, at what risk.

    Only episodes count that start outside the disc with the disc on their straight way.

    Returns:
        episodes: how many those are.
        nearest: mean over episodes of the least distance to the disc's edge; negative inside.
        inside_share: episodes that enter the disc at all.
        inside_steps, near_steps: mean number of places in the disc, and less than 0.1 from its edge or in it.
        penalties: mean number of penalties to expect, the sum of the risks of all places after the start.
        length: mean number of steps.
    """
    start = paths[0]
    chosen = crosses(start) & (distance_to_center(start) > RADIUS)
    edge = distance_to_center(paths[:, chosen]) - RADIUS
    counted = edge.isfinite()
    return {
        "episodes": int(chosen.sum()),
        "nearest": edge.nan_to_num(torch.inf).amin(0).mean().item(),
        "inside_share": (edge <= 0).any(0).double().mean().item(),
        "inside_steps": (edge <= 0).sum(0).double().mean().item(),
        "near_steps": (edge < NEAR).sum(0).double().mean().item(),
        "penalties": risk(paths[1:, chosen]).nansum(0).mean().item(),
        "length": (counted.sum(0) - 1).double().mean().item(),
    }


def play(run: Path, episodes: int, seed: int = SEED) -> tuple[Tensor, list[float]]:
    """Play a run's policy without exploration; return paths `[T + 1, B, 2]` and returns, `[B]`."""
    saved = load_run(run, "last")
    config = saved.config
    env = make_env(config.train.env, episodes, options=config.train.env_options)
    try:
        agent = saved.agent(env, SeedStreams([config.train.seed]))
        trace = PathTrace()
        found = evaluate(agent.policy, env, seeds=seed, trace=trace)
    finally:
        env.close()
    return trace.paths(), found["returns"]


def write_paths(path: Path, paths: Mapping[tuple[float, int], Tensor]) -> None:
    """Write the paths that the picture shows, one place a row."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(PATH_COLUMNS)
        for (beta, seed), places in paths.items():
            for episode in range(min(DRAWN, places.shape[1])):
                for step, (x, y) in enumerate(places[:, episode].tolist()):
                    if x == x:  # not nan: the episode is running
                        writer.writerow((beta, seed, episode, step, round(x, 4), round(y, 4)))


def plot(paths: Mapping[tuple[float, int], Tensor], rows: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw the first seed's paths around the disc, one panel per beta, the measured distance in its title."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    betas = list(dict.fromkeys(beta for beta, _ in paths))
    figure, panels = pyplot.subplots(1, len(betas), figsize=(2.8 * len(betas), 3.3), dpi=150, squeeze=False)
    for axes, beta in zip(panels[0], betas, strict=True):
        places = next(found for (own, _), found in paths.items() if own == beta)
        axes.add_patch(pyplot.Circle(CENTER, RADIUS, color="#d55e00", alpha=0.25, linewidth=0))
        axes.add_patch(pyplot.Circle((0, 0), GOAL_RADIUS, color="#009e73"))
        for episode in range(min(DRAWN, places.shape[1])):
            axes.plot(*places[:, episode].T.numpy(), color="#0072b2", linewidth=0.7, alpha=0.6)
            axes.plot(*places[0, episode].numpy(), ".", color="0.3", markersize=2)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        nearest = statistics.fmean(row["nearest"] for row in rows if row["beta"] == beta)
        axes.set_title(f"beta {beta:g}\nnearest {nearest:+.3f}", fontsize=9)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Software": None})
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, play, measure, write."""
    import sys

    line = parse(RiskArgs, sys.argv[1:] if argv is None else argv, prog="benchmarks/risk.py")
    line.out.mkdir(parents=True, exist_ok=True)
    paths: dict[tuple[float, int], Tensor] = {}
    rows = []
    for beta in line.betas:
        for seed in range(line.seeds):
            words = ["--env", ENV, "--steps", str(line.steps), "--seed", str(seed), "--agent.beta", str(beta)]
            words += ["--threads", str(line.threads), "--env-option", f"variant={line.variant}"]
            run = line.runs / f"beta{beta:g}-s{seed}"
            if code := run_here(resolve("stac", words), run):
                raise SystemExit(code)
            paths[beta, seed], returns = play(run, EPISODES)
            measured = {"beta": beta, "seed": seed, "steps": line.steps, **berth(paths[beta, seed])}
            rows.append(measured | {"return_mean": statistics.fmean(returns), "return_min": min(returns)})
    with (line.out / "berth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()})
    write_paths(line.out / "paths.csv", paths)
    plot(paths, rows, line.out / "paths.png")
    for row in rows:
        steps = f"in the disc {row['inside_steps']:.2f} steps, near it {row['near_steps']:.2f}"
        head = f"beta {row['beta']:<5g} seed {row['seed']}: nearest {row['nearest']:+.3f}"
        print(f"{head}, {steps}, return {row['return_mean']:.2f}")


if __name__ == "__main__":
    main()
