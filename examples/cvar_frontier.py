"""Risk on a frozen lake, exactly: CVaR frontier, actions by stock, histograms of the return.

    python examples/cvar_frontier.py --out docs/pictures

A slippery FrozenLake pays 20 at the goal, -20 in a hole and -1 for every other step, for at most 16 steps.
All rewards are whole numbers and nothing is discounted, so the grids below hold every stock and every return:
the vectorised solver is exact. One solution, of min(x, 0), gives the best policies for all tail levels: the
level only chooses the first stock.
"""

import argparse
from pathlib import Path

import gymnasium
import matplotlib
import torch

from rlsuite.returns.laws import Law, best_cvar, cvar, mean
from rlsuite.returns.mdp import from_toy_text
from rlsuite.returns.objectives import Lower, Mean
from rlsuite.returns.table import tabulate
from rlsuite.returns.vectorised import Grid, GridSolver

matplotlib.use("Agg")
from matplotlib import pyplot

pyplot.style.use("rlsuite.report.style")

HORIZON = 16  # steps
REWARDS = (20, -20, -1)  # goal, hole, ice
SLIP = 0.8  # chance to go where one wants to
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
SHOWN = (1.0, 0.1)  # levels of the histograms
ARROWS = ("left", "down", "right", "up")


def solve() -> tuple[GridSolver, tuple[int, int]]:
    """Return the solution for min(x, 0) and the mean, and the first state."""
    lake = gymnasium.make("FrozenLake-v1", map_name="4x4", reward_schedule=REWARDS, success_rate=SLIP)
    process = from_toy_text(lake, horizon=HORIZON)
    returns = Grid(low=-36, high=20, count=57)
    stocks = Grid(low=-20, high=60, count=81)
    solver = GridSolver(tabulate(process), [Lower(), Mean()], 1.0, stocks, returns).solve(HORIZON)
    assert solver.error_bound(Lower()) < 1e-9  # every number fits the grids
    (start,) = process.start
    return solver, start


def best_law(solver: GridSolver, start: tuple[int, int], level: float) -> tuple[float, Law]:
    """Return the first stock for the best CVaR at a level, and the law of the return from it."""
    values = dict(zip(solver.stocks.tolist(), solver.start_values()[0].tolist(), strict=True))
    choice = best_cvar(values, level)
    law = solver.law(0, start, choice.stock)
    assert abs(cvar(law, level) - choice.value) < 1e-6  # the policy keeps the promise
    return choice.stock, law


def main() -> None:
    """Solve and draw."""
    parser = argparse.ArgumentParser(description="CVaR frontier of a slippery lake")
    parser.add_argument("--out", type=Path, default=Path("runs/cvar_frontier"))
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    solver, start = solve()
    found = {level: best_law(solver, start, level) for level in LEVELS}
    plain = solver.law(1, start, 0)

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.6))
    left.plot(LEVELS, [cvar(found[level][1], level) for level in LEVELS], "o-", label="best CVaR")
    left.plot(LEVELS, [cvar(plain, level) for level in LEVELS], "s--", label="policy of the best mean")
    left.set(xlabel="level of the tail", ylabel="CVaR of the return", title="Best tails, by level")
    left.legend()

    shown = [0, 4, 8, 9, 10, 13, 14]  # cells on the way to the goal
    rows = [solver.table.states.index((cell, HORIZON // 2)) for cell in shown]
    picture = middle.imshow(
        solver.actions[0][rows].numpy(),
        aspect="auto",
        interpolation="nearest",
        cmap=pyplot.get_cmap("Set2", len(ARROWS)),
        vmin=-0.5,
        vmax=len(ARROWS) - 0.5,
        extent=(solver.stock_grid.low - 0.5, solver.stock_grid.high + 0.5, len(shown) - 0.5, -0.5),
    )
    middle.set(xlabel=f"stock, {HORIZON // 2} steps before the end", ylabel="cell", yticks=range(len(shown)))
    middle.set_title("Best action, by what is still to be earned")
    middle.grid(visible=False)
    middle.set_yticklabels(shown)
    bar = figure.colorbar(picture, ax=middle, ticks=range(len(ARROWS)))
    bar.ax.set_yticklabels(ARROWS)

    for place, level in enumerate(SHOWN):
        law = found[level][1]
        label = f"CVaR {level:g}: mean {mean(law):.2f}"
        right.bar([x + 0.4 * place - 0.2 for x in law], list(law.values()), width=0.4, label=label)
    right.set(
        xlabel="return", ylabel="probability", yscale="log", ylim=(1e-4, 30), title="Returns of two levels"
    )
    right.legend(loc="upper left")
    figure.savefig(folder / "cvar_frontier.png", metadata={"Software": None})
    for level, (stock, law) in found.items():
        tails = f"CVaR {cvar(law, level):7.3f} (best mean's: {cvar(plain, level):7.3f})"
        print(f"level {level:4g}  first stock {stock:6.1f}  {tails}  mean {mean(law):7.3f}")


if __name__ == "__main__":
    main()
