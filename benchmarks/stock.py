"""DηN on the grid whose optimal values are known: one agent for every first stock, against the exact optimum.

Trains one run of several seeds for each objective. The learnt policies are then played exactly: the law of
the return of every first stock is computed from the grid's table, without sampling. Results: `values.csv`
(stock by stock), `cvar.csv` (levels, from one run each), and pictures.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlsuite.agents.d_eta_n import DEtaN
from rlsuite.command.arguments import parse
from rlsuite.envs.make import make_env
from rlsuite.envs.toys.risky_grid import features
from rlsuite.errors import ConfigError
from rlsuite.launch.plan import resolve, run_here
from rlsuite.returns.examples import GRID_HORIZON, risky_grid
from rlsuite.returns.laws import Choice, Law, cvar, mean, upper_cvar
from rlsuite.returns.mdp import MDP, State
from rlsuite.returns.objectives import Lower, Mean, Target, Upper, Utility
from rlsuite.returns.tabular import Policy, Solver, optimal_cvar, start_law
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import load_run

ENV = "stock:RiskyGrid"
TOLERANCE = 0.3  # of achieved utilities to the optimum; specification of the experiment
STOCKS = tuple(range(5, -15, -1))
LEVELS = (Fraction(1, 4), Fraction(1, 2), Fraction(9, 10), Fraction(93, 100), Fraction(95, 100), Fraction(1))
OBJECTIVES: Mapping[str, tuple[Utility, tuple[str, ...]]] = {
    "lower": (Lower(), ("--agent.utility", "lower", "--agent.level", "0.5")),
    "target": (Target(), ("--agent.utility", "target")),
    "upper": (Upper(), ("--agent.utility", "upper", "--agent.level", "0.5")),
    "mean": (Mean(), ("--agent.utility", "mean")),
    "shaped": (Lower(), ("--agent.utility", "lower", "--agent.shaped")),
}


@dataclass(frozen=True, kw_only=True)
class StockArgs:
    """Trains DηN on RiskyGrid for several objectives and measures it against dynamic programming."""

    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    """Of lower, target, upper, mean (QR-DQN) and shaped (the baseline without distributions)."""
    seeds: int = 3
    """Agents of each objective, trained together."""
    steps: int = 150_000
    """Env steps of every agent."""
    threads: int = 1
    """CPU threads."""
    runs: Path = Path("runs/risky_grid")
    """Folder of the runs; what is finished is kept."""
    out: Path = Path("runs/risky_grid/result")
    """Folder of tables and pictures."""

    def __post_init__(self) -> None:
        """Raise ConfigError for an objective that is none of the above."""
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown or not self.objectives:
            raise ConfigError(f"objectives {', '.join(unknown)}: allowed are {', '.join(OBJECTIVES)}")


class Played:
    """A learnt policy as a function of state, stock and steps left, for exact evaluation.

    Args:
        agent: a single DηN agent.
        shown: state -> what the environment shows of it.
    """

    def __init__(self, agent: DEtaN, shown: Callable[[State], Sequence[float]]) -> None:
        self.agent, self.shown = agent, shown
        self.memo: dict[tuple[State, Any], int] = {}

    def observation(self, state: State, stock: Any) -> Tensor:
        """Return one row `[1, O]`."""
        return torch.tensor([[*self.shown(state), float(stock)]])

    def __call__(self, state: State, stock: Any, steps: int) -> int:
        """Return the greedy action."""
        key = (state, stock)
        if key not in self.memo:
            self.memo[key] = int(self.agent.worth(self.observation(state, stock)).argmax())
        return self.memo[key]


def measure(policy: Policy, utility: Utility, stocks: Sequence[int], mdp: MDP) -> dict[int, tuple[Any, Law]]:
    """Return, for every first stock, the expected utility that a policy attains and the law of its return."""
    found = {}
    for stock in stocks:
        law = start_law(mdp, policy, stock, GRID_HORIZON)
        found[stock] = utility.mean(law, Fraction(stock)), law
    return found


def agents_of(run: Path) -> list[DEtaN]:
    """Return every seed's agent of a finished run."""
    saved = load_run(run, "last")
    train = saved.config.train
    env = make_env(train.env, 1, options=train.env_options)
    try:
        agents = [saved.agent(env, SeedStreams([train.seed + k]), k) for k in range(train.seeds)]
    finally:
        env.close()
    return [agent for agent in agents if isinstance(agent, DEtaN)]


@cache
def best_tail(tau: Fraction, upper: bool) -> Choice:
    """Return the exact optimum of a level on the grid."""
    return optimal_cvar(risky_grid(), tau, GRID_HORIZON, upper=upper)[0]


def cvar_rows(name: str, seed: int, agent: DEtaN, policy: Played, mdp: MDP) -> list[dict[str, Any]]:
    """Return, for every level, the CVaR that the agent attains from the first stock it chooses itself.

    The level enters at evaluation alone: the run was trained for the utility and all stocks.
    """
    rows = []
    upper = name == "upper"
    start = policy.observation(next(iter(mdp.start)), 0)
    for tau in LEVELS:
        agent.level = float(tau)
        stock = agent.first_stock(start)
        assert stock is not None
        # Rational, so that the grid's returns stay exact.
        chosen = Fraction(float(stock)).limit_denominator(10_000)
        law = start_law(mdp, policy, chosen, GRID_HORIZON)
        best = best_tail(tau, upper)
        found = (upper_cvar if upper else cvar)(law, tau)
        rows.append(
            {
                "objective": name,
                "seed": seed,
                "tau": float(tau),
                "stock": float(chosen),
                "best_stock": float(best.stock),
                "optimum": float(best.value),
                "achieved": float(found),
                "mean": float(mean(law)),
            }
        )
    return rows


def value_rows(name: str, seed: int, agent: DEtaN, policy: Played, mdp: MDP) -> list[dict[str, Any]]:
    """Return one row for every first stock: the optimum, what the agent attains, what it expects."""
    utility, _ = OBJECTIVES[name]
    solver = Solver(mdp, utility)
    found = measure(policy, utility, STOCKS, mdp)
    rows = []
    for stock, (achieved, law) in found.items():
        average = mean(law)
        spread = float(sum(p * (x - average) ** 2 for x, p in law.items())) ** 0.5
        optimum = solver.start_value(stock, GRID_HORIZON)
        start = policy.observation(next(iter(mdp.start)), stock)
        rows.append(
            {
                "objective": name,
                "seed": seed,
                "stock": stock,
                "optimum": float(optimum),
                "achieved": float(achieved),
                "gap": float(optimum - achieved),
                "expected": float(agent.expected_utility(start)),
                "mean_return": float(average),
                "return_std": spread,
                "law": " ".join(f"{float(x):g}:{float(p):g}" for x, p in sorted(law.items())),
            }
        )
    return rows


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, floats with four digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()})


def plot(rows: Sequence[Mapping[str, Any]], tails: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw achieved against requested return, utilities against the optimum, and CVaR against its level."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4), dpi=150)
    colours = dict(zip(OBJECTIVES, ("#0072b2", "#d55e00", "#009e73", "0.5", "#cc79a7"), strict=True))
    for name, colour in colours.items():
        own = [row for row in rows if row["objective"] == name]
        if name in ("target", "mean") and own:
            label = "target return" if name == "target" else "mean (QR-DQN)"
            left.errorbar(
                [-row["stock"] + 0.1 * row["seed"] for row in own],
                [row["mean_return"] for row in own],
                yerr=[row["return_std"] for row in own],
                fmt="o",
                markersize=3,
                color=colour,
                label=label,
                linewidth=0.8,
            )
        if own:
            marker = {"marker": "o", "linestyle": "", "markersize": 3, "color": colour, "label": name}
            middle.plot([row["stock"] for row in own], [row["gap"] for row in own], **marker)
        tail = [row for row in tails if row["objective"] == name]
        for seed in sorted({row["seed"] for row in tail}):
            mine = [row for row in tail if row["seed"] == seed]
            right.plot(
                [row["tau"] for row in mine], [row["achieved"] for row in mine], "o", color=colour, ms=4
            )
        if tail:
            mine = [row for row in tail if row["seed"] == tail[0]["seed"]]
            label = f"{name}: exact"
            right.plot(
                [row["tau"] for row in mine], [row["optimum"] for row in mine], color=colour, label=label
            )
    left.plot([-5, 14], [-5, 14], color="0.7", linewidth=0.8)
    left.set(xlabel="requested return", ylabel="achieved return, mean and deviation")
    middle.axhline(TOLERANCE, color="0.7", linewidth=0.8)
    middle.set(xlabel="first stock", ylabel="optimum minus achieved utility")
    right.set(xlabel="level of the tail", ylabel="CVaR of the return")
    for axes in (left, middle, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Software": None})
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, play exactly, measure, write."""
    import sys

    line = parse(StockArgs, sys.argv[1:] if argv is None else argv, prog="benchmarks/stock.py")
    line.out.mkdir(parents=True, exist_ok=True)
    mdp = risky_grid()
    rows: list[dict[str, Any]] = []
    tails: list[dict[str, Any]] = []
    for name in line.objectives:
        words = ["--env", ENV, "--steps", str(line.steps), "--seeds", str(line.seeds)]
        words += [
            "--threads",
            str(line.threads),
            "--eval-every",
            "0",
            "--checkpoint-every",
            "10_000",
            *OBJECTIVES[name][1],
        ]
        if code := run_here(resolve("d_eta_n", words), line.runs / name):
            raise SystemExit(code)
        for seed, agent in enumerate(agents_of(line.runs / name)):
            policy = Played(agent, lambda state: features(state, GRID_HORIZON))
            rows += value_rows(name, seed, agent, policy, mdp)
            if name in ("lower", "upper"):
                tails += cvar_rows(name, seed, agent, policy, mdp)
        own = [row["gap"] for row in rows if row["objective"] == name]
        print(
            f"{name}: greatest gap to the optimum {max(own):.3f} over {len(own)} stocks and seeds", flush=True
        )
    write(line.out / "values.csv", rows)
    if tails:
        write(line.out / "cvar.csv", tails)
    plot(rows, tails, line.out / "risky_grid.png")


if __name__ == "__main__":
    main()
