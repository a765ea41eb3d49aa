"""The measures of the stock benchmarks, on policies whose values are known."""

import pytest
import torch
from stock import ENV, OBJECTIVES, best_tail, measure
from stock_risk import TASKS, tail_mean

from rlsuite.launch.plan import resolve
from rlsuite.returns.examples import GRID_HORIZON, risky_grid
from rlsuite.returns.objectives import Lower
from rlsuite.returns.tabular import Solver


def test_an_optimal_policy_loses_nothing_and_a_fixed_one_does():
    grid = risky_grid()
    solver = Solver(grid, Lower())
    stocks = (0, -6, -12)
    best = measure(solver.policy, Lower(), stocks, grid)
    assert [value for value, _ in best.values()] == [0, -1, -6.5]
    north = measure(lambda state, stock, steps: 0, Lower(), stocks, grid)
    assert north[0][1] == {10: 0.5, -3: 0.5} and north[0][0] == -1.5
    assert best_tail(1, False).value == 5.5 and GRID_HORIZON == 8


def test_the_tail_of_a_sample():
    returns = torch.arange(100.0)
    assert tail_mean(returns, 0.1) == 4.5 and tail_mean(returns, 1.0) == 49.5


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_a_command_line(name):
    plan = resolve("d_eta_n", ["--env", ENV, *OBJECTIVES[name][1]])
    assert plan.config.agent.shaped == (name == "shaped")


@pytest.mark.parametrize("name", TASKS)
def test_every_risky_task_is_a_command_line(name):
    assert resolve("d_eta_n", TASKS[name]).config.train.env.startswith("stock:")
