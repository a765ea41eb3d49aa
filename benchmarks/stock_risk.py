"""CVaR against the mean: DηN for min(x, 0) and QR-DQN on two risky tasks, with histograms of the return.

RiskyPointMass with nine actions (a disc where every step may cost 10) and a FrozenLake that pays 20 at the
goal, -20 in a hole and -1 for other steps. Both agents are the same code and differ in the utility alone; the
cautious one chooses its first stock for CVaR at the level of the command line.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlsuite.agents.base import ChoosesStock
from rlsuite.command.arguments import parse
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.launch.plan import resolve, run_here
from rlsuite.training.evaluate import chosen_stocks, evaluate
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import load_run

EPISODES = 500  # of each policy, from the same starts for both
SEED = 20_250_101  # of the starts
TASKS: Mapping[str, tuple[str, ...]] = {
    "RiskyPointMass": ("--env", "stock:discrete:RiskyPointMass", "--env-option", "discrete_bins=3"),
    "FrozenLake": (
        "--env",
        "stock:discrete:gym:FrozenLake-v1",
        *("--env-option", "reward_schedule=[20,-20,-1]", "--env-option", "success_rate=0.8"),
        *("--env-option", "stock_low=-25.0", "--env-option", "stock_high=45.0"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class StockRiskArgs:
    """Trains a cautious and a plain agent on risky tasks and compares the laws of their returns."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """RiskyPointMass, FrozenLake."""
    level: float = 0.1
    """Of the tail that the cautious agent looks at."""
    seeds: int = 2
    """Agents of each kind, trained together."""
    steps: int = 200_000
    """Env steps of every agent."""
    threads: int = 1
    """CPU threads."""
    runs: Path = Path("runs/stock_risk")
    """Folder of the runs; what is finished is kept."""
    out: Path = Path("runs/stock_risk/result")
    """Folder of the table and the pictures."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a task that is none of the above."""
        unknown = [name for name in self.tasks if name not in TASKS]
        if unknown or not self.tasks:
            raise ConfigError(f"tasks {', '.join(unknown)}: allowed are {', '.join(TASKS)}")


class DiscountedTrace:
    """Sums the discounted rewards of evaluation episodes, which is what the stock counts."""

    def __init__(self, gamma: float) -> None:
        self.gamma, self.factor = gamma, 1.0
        self.total: Tensor | None = None

    def add(self, step: TensorDictBase, running: Tensor) -> None:
        """Add one vector step's rewards in the worlds that are running, `[B]` bool."""
        reward = step.get("next").get("reward").squeeze(-1).double()
        if self.total is None:
            self.total = torch.zeros_like(reward)
        self.total += torch.where(running, self.factor * reward, 0)
        self.factor *= self.gamma

    def errors(self) -> dict[str, Tensor]:
        """Return none: value errors are not what this is for."""
        return {}


def tail_mean(returns: Tensor, level: float) -> float:
    """Return the mean of the lowest `level` of returns `[B]`."""
    count = max(1, round(level * len(returns)))
    return returns.sort().values[:count].mean().item()


def play(run: Path, seed_index: int) -> tuple[Tensor, float | None]:
    """Play one agent of a run; return the discounted returns `[B]` and the first stock it chose."""
    saved = load_run(run, "last")
    config = saved.config.train
    env = make_env(config.env, EPISODES, options=config.env_options)
    try:
        agent = saved.agent(env, SeedStreams([config.seed + seed_index]), seed_index)
        trace = DiscountedTrace(agent.config.gamma)
        begin = chosen_stocks(agent, env)
        evaluate(agent.policy, env, seeds=SEED, trace=trace, begin=begin)
        env.seed_worlds(SEED)
        assert isinstance(agent, ChoosesStock)
        stock = agent.first_stock(env.reset().get("observation"))
    finally:
        env.close()
    assert trace.total is not None
    return trace.total, None if stock is None else float(stock)


def plot(returns: Mapping[str, Sequence[Tensor]], level: float, picture: Path) -> None:
    """Draw the histograms of both agents' returns, all seeds together, with their tails marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), dpi=150)
    for (name, found), colour in zip(returns.items(), ("#0072b2", "#d55e00"), strict=True):
        every = torch.cat(list(found))
        label = f"{name}: mean {every.mean():.2f}, CVaR {level:g}: {tail_mean(every, level):.2f}"
        axes.hist(every.numpy(), bins=40, alpha=0.5, density=True, color=colour, label=label)
        axes.axvline(tail_mean(every, level), color=colour, linestyle="--", linewidth=1)
    axes.set(xlabel="discounted return", ylabel="density")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Software": None})
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, play, measure, write."""
    import sys

    line = parse(StockRiskArgs, sys.argv[1:] if argv is None else argv, prog="benchmarks/stock_risk.py")
    line.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for task in line.tasks:
        words = [*TASKS[task], "--steps", str(line.steps), "--seeds", str(line.seeds)]
        words += ["--threads", str(line.threads), "--eval-every", "0", "--checkpoint-every", "10_000"]
        kinds = {
            "cvar": ("--agent.utility", "lower", "--agent.level", str(line.level)),
            "mean": ("--agent.utility", "mean"),
        }
        returns: dict[str, list[Tensor]] = {}
        for kind, own in kinds.items():
            run = line.runs / f"{task}-{kind}"
            if code := run_here(resolve("d_eta_n", [*words, *own]), run):
                raise SystemExit(code)
            for seed in range(line.seeds):
                found, stock = play(run, seed)
                returns.setdefault(kind, []).append(found)
                numbers = {"mean": found.mean().item(), "cvar": tail_mean(found, line.level)}
                numbers |= {
                    "least": found.min().item(),
                    "first_stock": float("nan") if stock is None else stock,
                }
                rows.append({"task": task, "agent": kind, "seed": seed, "level": line.level, **numbers})
                print(f"{task} {kind} seed {seed}: mean {numbers['mean']:.2f}, CVaR {numbers['cvar']:.2f}")
        plot(returns, line.level, line.out / f"{task}.png")
    with (line.out / "stock_risk.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()})


if __name__ == "__main__":
    main()
