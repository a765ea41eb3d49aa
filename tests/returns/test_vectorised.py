"""The solver on grids against the exact one: equal where grids fit, within its bound where they do not."""

from fractions import Fraction

import pytest
import torch
from processes import HALF, MDP_A, MDP_B, MDP_D

from rlsuite.errors import ConfigError
from rlsuite.returns.examples import risky_grid
from rlsuite.returns.laws import best_cvar, cvar
from rlsuite.returns.mdp import MDP
from rlsuite.returns.objectives import Lower, Mean, Norm, Range, Target, Upper
from rlsuite.returns.table import tabulate
from rlsuite.returns.tabular import Solver, run_policy
from rlsuite.returns.vectorised import Grid, GridSolver, longest_path

UTILITIES = (Lower(), Target(), Upper(), Mean())


def test_the_grid_world_is_exact_for_four_objectives_at_once():
    grid = risky_grid()
    table = tabulate(grid)
    assert longest_path(table) == 8
    found = GridSolver(
        table, UTILITIES, 1.0, Grid(low=-30, high=20, count=51), Grid(low=-20, high=30, count=51)
    ).solve(8)
    for place, utility in enumerate(UTILITIES):
        exact = Solver(grid, utility)
        assert found.error_bound(utility) == 0
        for stock in range(-14, 6):
            wanted = exact((0, 0, 8), stock, 8)
            assert found.value(place, (0, 0, 8), stock) == pytest.approx(float(wanted.value), abs=1e-9)
            law = run_policy(grid, found.policy(place), (0, 0, 8), stock, 8)
            assert utility.mean(law, stock) == wanted.value  # the policy keeps what the value says
    values = dict(zip(found.stocks.tolist(), found.start_values()[0].tolist(), strict=True))
    assert best_cvar(values, 0.95).value == pytest.approx(5.157895, abs=1e-6)
    assert cvar(found.law(0, (0, 0, 8), -5), 0.25) == pytest.approx(5)


def test_probabilities_of_ranges_need_a_grid_that_fits_and_have_no_bound():
    table = tabulate(MDP_A)
    found = GridSolver(
        table, (Range(0, 3),), 1.0, Grid(low=-9, high=9, count=19), Grid(low=-9, high=9, count=19)
    )
    found.solve(2)
    for stock in range(-5, 5):
        assert found.value(0, "s0", stock) == pytest.approx(
            float(Solver(MDP_A, Range(0, 3))("s0", stock, 2).value)
        )
    with pytest.raises(ConfigError, match="Lipschitz"):
        found.error_bound(Range(0, 3))


@pytest.mark.parametrize("representation", ["categorical", "quantile"])
@pytest.mark.parametrize(("mdp", "sweeps", "reach"), [(MDP_B, 8, 2), (MDP_D, 6, 6), (MDP_A, 2, 9)])
def test_values_are_within_the_bound_of_the_exact_ones(mdp: MDP, sweeps, reach, representation):
    """Discounted, on grids that fit nothing; the exact solver with as many sweeps has the same start."""
    utilities = (Lower(), Target())
    worst = []
    for count in (41, 161):
        stocks = Grid(low=-reach - 0.03, high=reach + 0.05, count=count)
        atoms = Grid(low=-reach - 0.07, high=reach + 0.01, count=count)
        found = GridSolver(tabulate(mdp), utilities, 0.5, stocks, atoms, representation=representation)
        found.solve(sweeps)
        errors = []
        for place, utility in enumerate(utilities):
            bound = found.error_bound(utility, start=0.0)  # to value iteration with as many sweeps
            exact = Solver(mdp, utility, HALF)
            for state in list(mdp.actions):
                for stock in found.stocks[:: count // 8].tolist():
                    error = abs(
                        found.value(place, state, stock) - float(exact(state, Fraction(stock), sweeps).value)
                    )
                    assert error <= bound + 1e-9, (state, stock, error, bound)
                    errors.append(error)
            assert 0 < bound < 2.0
        worst.append(max(errors))
    assert worst[1] < worst[0]  # finer grids are nearer


def test_the_distance_to_the_optimum_shrinks_by_gamma():
    grid = Grid(low=-4, high=4, count=65)
    found = GridSolver(tabulate(MDP_B), (Target(),), 0.5, grid, grid)
    for sweep in range(10):
        bound = found.error_bound(Target())
        assert bound >= 2 * 0.5**sweep
        for stock in found.stocks.tolist():
            assert abs(found.value(0, "s", stock) + max(abs(stock) - 2, 0)) <= bound + 1e-9
        found.sweep()


def test_single_precision_and_terminal_states():
    found = GridSolver(
        tabulate(MDP_A),
        (Lower(),),
        1.0,
        Grid(low=-12, high=6, count=19),
        Grid(low=-9, high=9, count=19),
        dtype=torch.float32,
    ).solve(2)
    assert found.laws.dtype == torch.float32
    assert found.value(0, "s0", -5) == pytest.approx(-1.75)
    assert found.law(0, "end", -5) == {0.0: 1.0}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_same():
    grid = Grid(low=-20, high=20, count=41)
    cpu, gpu = (
        GridSolver(tabulate(risky_grid()), UTILITIES, 1.0, grid, grid, device=d).solve(8)
        for d in ("cpu", "cuda")
    )
    torch.testing.assert_close(gpu.values.cpu(), cpu.values)


def test_what_has_no_grid_is_refused():
    table, grid = tabulate(MDP_D), Grid(low=-1, high=1, count=3)
    with pytest.raises(ConfigError, match="gamma = 1"):
        GridSolver(table, (Range(0, 1),), 0.5, grid, grid)
    with pytest.raises(ConfigError, match="vectors"):
        GridSolver(table, (Norm(),), 0.5, grid, grid)
    with pytest.raises(ConfigError, match="at least two"):
        Grid(low=1, high=1, count=5)
    with pytest.raises(ConfigError, match="`start`"):
        GridSolver(table, (Lower(),), 1.0, grid, grid).error_bound(Lower())
