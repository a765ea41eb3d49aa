"""Every exact number of the specification: four small processes, a grid, vectors, and brute force."""

import random
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from oracles import every_law
from processes import COUNTER, HALF, MDP_A, MDP_B, MDP_C, MDP_D, RISKY, SAFE

from rlsuite.errors import ConfigError
from rlsuite.returns.examples import homeostasis, risky_grid
from rlsuite.returns.laws import best_cvar, cvar, mean, upper_cvar
from rlsuite.returns.mdp import build, exact, from_arrays
from rlsuite.returns.objectives import Custom, Exponential, Lower, Mean, Norm, Range, Target, Upper
from rlsuite.returns.tabular import (
    Solver,
    contraction_bound,
    optimal_cvar,
    optimal_mean_cvar,
    policy_iteration,
    reachable_returns,
    run_policy,
    start_law,
)

F = Fraction


def near(value, wanted, digits=4):
    return abs(float(value) - wanted) <= 0.5 * 10**-digits + 1e-12


def after(four, zero):
    """The history policy of MDP-A that takes `four` after a reward of 4 and `zero` after one of 0."""
    return lambda state, stock, steps: (four if stock == 4 else zero) if state == "s1" else 0


@pytest.mark.parametrize(
    ("actions", "law", "average", "tails"),
    [
        ((RISKY, RISKY), {-2: 1, 2: 1, 5: 1, 9: 1}, 3.5, (-2, -2, 0, 1.6667, 2.7143)),
        ((RISKY, SAFE), {1: 2, 2: 1, 9: 1}, 3.25, (1, 1, 1, 1.3333, 2.4286)),
        ((SAFE, RISKY), {-2: 1, 5: 3}, 3.25, (-2, -2, 1.5, 2.6667, 3.0)),
        ((SAFE, SAFE), {1: 2, 5: 2}, 3.0, (1, 1, 1, 2.3333, 2.7143)),
    ],
)
def test_a_the_four_policies_of_the_first_process(actions, law, average, tails):
    found = run_policy(MDP_A, after(*actions), "s0", 0, 2)
    assert found == {value: F(weight, 4) for value, weight in law.items()}
    assert mean(found) == F(average)
    for tau, wanted in zip((F(1, 8), F(1, 4), HALF, F(3, 4), F(7, 8)), tails, strict=True):
        assert near(cvar(found, tau), wanted)


@pytest.mark.parametrize(
    ("tau", "best", "stock", "value", "actions"),
    [
        (F(1, 8), 1, -1, 0, (None, SAFE)),
        (F(1, 4), 1, -1, 0, (None, SAFE)),
        (HALF, F(3, 2), -5, F(-7, 4), (SAFE, RISKY)),
        (F(3, 4), F(8, 3), -5, F(-7, 4), (SAFE, RISKY)),
        (F(7, 8), 3, -5, F(-7, 4), (SAFE, RISKY)),
        (F(1), F(7, 2), -9, F(-11, 2), (RISKY, RISKY)),
    ],
)
def test_a_cvar(tau, best, stock, value, actions):
    choice, law = optimal_cvar(MDP_A, tau, 2)
    assert choice == (best, stock, value)
    assert cvar(law, tau) == best
    solver = Solver(MDP_A, Lower())
    for reward, action in zip((4, 0), actions, strict=True):
        assert action is None or solver("s1", stock + reward, 1).action == action


@pytest.mark.parametrize(
    ("stock", "safe", "risky"),
    [
        (-7, -6, -5.5),
        (-5, -4, -3.5),
        (-3, -2, -2.5),
        (-1, 0, -1.5),
        (0, 0, -1),
        (1, 0, -0.5),
        (2, 0, 0),
        (3, 0, 0),
    ],
)
def test_a_action_values_by_stock(stock, safe, risky):
    solver = Solver(MDP_A, Lower())
    found = [Lower().mean(solver.after("s1", stock, action, 1), F(stock)) for action in (SAFE, RISKY)]
    assert found == [F(safe), F(risky)]


@pytest.mark.parametrize(
    ("tau", "best", "stocks", "value"),
    [
        (F(1, 8), 0.5, (-0.5,), 0),
        (F(1, 4), 0.5, (-0.5,), 0),
        (HALF, 0.75, (-2.5, -3, -4.5), -0.875),
        (F(3, 4), 2, (-4.5,), -1.875),
        (F(7, 8), 2.357143, (-4.5,), -1.875),
        (F(1), 2.75, (-6.5,), -3.75),
    ],
)
def test_a_cvar_discounted(tau, best, stocks, value):
    choice, law = optimal_cvar(MDP_A, tau, 2, HALF)
    assert near(choice.value, best, 6) and choice.stock in stocks
    assert cvar(law, tau) == choice.value
    solver = Solver(MDP_A, Lower(), HALF)
    for stock in stocks:  # all of them are optimal
        assert -exact(stock) + solver.start_value(exact(stock), 2) / tau == choice.value
    assert solver.start_value(exact(stocks[0]), 2) == exact(value)


@pytest.mark.parametrize(
    ("gamma", "tau", "best", "stock"),
    [
        (1, F(1, 4), 9, -9),
        (1, HALF, 7, -5),
        (1, F(3, 4), F(16, 3), -2),
        (HALF, F(1, 4), F(13, 2), F(-13, 2)),
        (HALF, HALF, F(19, 4), -3),
        (HALF, F(3, 4), 4, F(-5, 2)),
    ],
)
def test_a_upper_tail(gamma, tau, best, stock):
    choice, _ = optimal_cvar(MDP_A, tau, 2, gamma, upper=True)
    assert choice.value == best
    solver = Solver(MDP_A, Upper(), gamma)
    assert -stock + solver.start_value(stock, 2) / tau == best
    assert max(upper_cvar(law, tau) for law in every_law(MDP_A, 2, gamma)) <= best


@pytest.mark.parametrize(
    ("weight", "tau", "best", "stock"),
    [
        (HALF, F(1, 4), F(17, 8), -1),
        (F(1, 4), F(1, 4), F(25, 16), None),
        (F(1, 10), F(1, 4), F(49, 40), None),
        (F(4, 5), F(1, 4), F(14, 5), None),
        (HALF, HALF, F(19, 8), -5),
    ],
)
def test_a_mean_cvar(weight, tau, best, stock):
    choice, law = optimal_mean_cvar(MDP_A, weight, tau, 2)
    assert choice.value == best
    assert stock is None or choice.stock == stock
    assert weight * mean(law) + (1 - weight) * cvar(law, tau) == best


@pytest.mark.parametrize(
    ("gamma", "misses"),
    [
        (1, {0: 3, 1: 2, 2: 2, 3: 2, 4: 2, 5: 1.75, 6: 2.75, 9: 5.5}),
        (HALF, {0: 2.5, 1: 2, 2: 2, 3: 1.875, 4: 1.875, 5: 2.375, 6: 3.375, 9: 6.25}),
    ],
)
def test_a_targets(gamma, misses):
    solver = Solver(MDP_A, Target(), gamma)
    for goal, miss in misses.items():
        assert solver("s0", -goal, 2).value == -F(miss)
        law = start_law(MDP_A, solver.policy, -goal, 2, gamma)
        assert sum(p * abs(x - goal) for x, p in law.items()) == F(miss)


@pytest.mark.parametrize(
    ("rate", "safe", "risky"),
    [(0.01, -0.990050, -0.985715), (0.05, -0.951229, -0.941986), (0.1, -0.904837, -0.913967)],
)
def test_a_exponential_utility_does_not_look_at_the_stock(rate, safe, risky):
    solver = Solver(MDP_A, Exponential(rate))
    found = [Exponential(rate).mean(solver.after("s1", 0, action, 1)) for action in (SAFE, RISKY)]
    assert near(found[0], safe, 6) and near(found[1], risky, 6)
    assert {solver("s1", c, 1).action for c in (-9, -1, 0, 4)} == {SAFE if safe > risky else RISKY}
    assert Solver(MDP_A, Exponential(0.5))("s1", 0, 1).action == SAFE


def test_a_policy_iteration():
    steps = policy_iteration(MDP_A, Lower(), lambda *_: SAFE, 2)
    values = [value("s0", -5, 2) for (_, value), _ in zip(steps, range(4), strict=False)]
    assert values == [-2, F(-7, 4), F(-7, 4), F(-7, 4)]


@pytest.mark.parametrize("gamma", [1, HALF])
def test_policy_iteration_reaches_value_iteration_and_never_falls(gamma):
    solver = Solver(MDP_D, Lower(), gamma)
    stocks = [F(k, 2) for k in range(-8, 4)]
    steps = policy_iteration(MDP_D, Lower(), lambda *_: 0, 3, gamma)
    rounds = [
        [value(s, c, 3) for s in range(3) for c in stocks]
        for (_, value), _ in zip(steps, range(4), strict=False)
    ]
    for before, later in pairwise(rounds):
        assert all(a <= b for a, b in zip(before, later, strict=True))
    assert rounds[0] != rounds[-1] == [solver(s, c, 3).value for s in range(3) for c in stocks]


def test_b_closed_form_and_bound():
    wanted = {
        F(13, 10): (-1.3, -0.3, -0.2, -0.05, -0.075, -0.0125, -0.01875, -0.003125, -0.0046875),
        F(1, 4): (-0.25, -0.75, -0.25, 0, -0.125, -0.0625, -0.03125, -0.015625, -0.0078125),
        F(3): (-3, -2, -1.5, -1.25, -1.125),
    }
    solver = Solver(MDP_B, Target(), HALF)
    for stock, values in wanted.items():
        assert [solver("s", stock, n).value for n in range(len(values))] == [exact(float(v)) for v in values]
    for k in range(-16, 17):
        stock = F(k, 4)
        optimum = -max(abs(stock) - 2, F(0))
        for n in range(9):
            bound = contraction_bound(Target(), HALF, n, 1)
            assert bound == 2 * 0.5**n
            assert abs(solver("s", stock, n).value - optimum) <= bound


def test_b_the_optimal_run():
    stock, total, signs, stocks = F(13, 10), F(0), "", []
    for t in range(8):
        reward = -1 if stock > 0 else 1
        signs += "-" if reward < 0 else "+"
        stocks.append(float(stock))
        total += HALF**t * reward
        stock = (stock + reward) / HALF
    assert stocks == [1.3, 0.6, -0.8, 0.4, -1.2, -0.4, 1.2, 0.4] and signs == "--+-++--"
    assert float(total) == -1.3046875
    assert F(13, 10) + total == HALF**8 * stock == F(-46875, 10**7)


@pytest.mark.parametrize(
    ("low", "high", "best"), [(4, 5, F(3, 4)), (5, 6, F(5, 8)), (3, 3, F(1)), (6, 9, HALF)]
)
def test_c_ranges(low, high, best):
    solver = Solver(MDP_C, Range(low, high))
    assert solver(0, 0, 3).value == best
    assert max(Range(low, high).mean(law) for law in every_law(MDP_C, 3)) == best


def test_c_actions_and_law():
    solver = Solver(MDP_C, Range(5, 6))
    gamble, step = 0, 1
    assert solver(0, 0, 3).action == gamble
    assert Range(5, 6).mean(solver.after(0, 0, step, 3)) == HALF
    for (t, stock), (action, value) in {
        (1, 0): (gamble, F(1, 4)),
        (1, 1): (gamble, HALF),
        (1, 3): (step, 1),
        (2, 2): (gamble, HALF),
        (2, 3): (gamble, HALF),
        (2, 4): (step, 1),
        (2, 6): (gamble, HALF),
    }.items():
        found = solver(t, stock, 3 - t)
        assert (found.action, found.value) == (action, value), (t, stock)
    assert start_law(MDP_C, solver.policy, 0, 3) == {0: F(1, 8), 3: F(1, 4), 5: HALF, 6: F(1, 8)}
    first = Solver(MDP_C, Range(4, 5))
    values = [Range(4, 5).mean(first.after(0, 0, action, 3)) for action in (step, gamble)]
    assert values[0] == values[1] == F(3, 4)


@pytest.mark.parametrize(
    ("state", "stock", "values"),
    [
        (0, -2, (-2, -1, -0.5, -0.5, -0.4375, -0.36743)),
        (1, -2, (-2, -1, -1, -0.875, -0.78125, -0.73108)),
        (1, -1, (-1, -0.5, -0.25, -0.25, -0.21875, -0.18372)),
        (2, -1, (-1, -2, -1.5, -1.25, -1.25, -1.18604)),
        (2, 0, (0, -1, -0.5, -0.25, -0.25, -0.18604)),
    ],
)
def test_d_value_iteration(state, stock, values):
    solver = Solver(MDP_D, Lower(), HALF)
    for n, wanted in zip((0, 1, 2, 3, 4, 8), values, strict=True):
        found = solver(state, stock, n).value
        assert near(found, wanted, 5)
        assert abs(float(found) - values[-1]) <= 6 * 0.5**n + 6 * 0.5**8


def test_d_mean_values_and_the_linear_branch():
    solver = Solver(MDP_D, Mean(), HALF)
    limit = {0: 18 / 11, 1: 14 / 11, 2: -2 / 11}
    actions = {0: 0, 1: 1, 2: 0}
    for state in range(3):
        found = solver(state, 0, 8)
        assert abs(float(found.value) - limit[state]) < 6 * 0.5**8
        assert found.action == actions[state]
        low = Solver(MDP_D, Lower(), HALF)(state, -6, 8)
        assert low.value == -6 + found.value


@pytest.mark.parametrize(
    ("horizon", "policies", "tails"),
    [
        (4, 1806, {F(1, 8): F(5, 4), F(1, 4): F(5, 4), HALF: F(5, 4), F(3, 4): F(35, 24), F(1): F(25, 16)}),
        (3, 42, {F(1, 8): F(5, 4), F(1, 4): F(5, 4), HALF: F(5, 4), F(3, 4): F(17, 12), F(1): F(3, 2)}),
    ],
)
def test_d_cvar_against_every_history_dependent_policy(horizon, policies, tails):
    laws = every_law(MDP_D, horizon, HALF)
    assert len(laws) == policies
    for tau, best in tails.items():
        choice, law = optimal_cvar(MDP_D, tau, horizon, HALF)
        assert choice.value == best == max(cvar(law, tau) for law in laws) == cvar(law, tau)


def grid_values(utility, stocks, gamma=1):
    solver = Solver(risky_grid(), utility, gamma)
    return [solver((0, 0, 8), stock, 8).value for stock in stocks]


def test_grid_lower_and_target():
    stocks = list(range(5, -15, -1))
    lower = [0] * 11 + [-1, -2, -3, -4, -5, -6, -6.5, -7.5, -8.5]
    assert grid_values(Lower(), stocks) == [F(v) for v in lower]
    assert grid_values(Target(), stocks) == [-2, -1, *([0] * 9), *(F(v) for v in lower[11:])]


def test_grid_mean_and_cvar():
    grid = risky_grid()
    solver = Solver(grid, Mean())
    assert start_law(grid, solver.policy, 0, 8) == {12: HALF, -1: HALF}
    for tau, best in {
        F(1, 4): 5,
        HALF: 5,
        F(9, 10): 5,
        F(93, 100): 5.010753,
        F(95, 100): 5.157895,
        F(1): 5.5,
    }.items():
        choice, law = optimal_cvar(grid, tau, 8)
        assert near(choice.value, best, 6) and cvar(law, tau) == choice.value
        if tau == F(93, 100):
            assert choice[1:] == (-12, F(-13, 2))


def test_grid_discounted():
    gamma = F(9, 10)
    lower = {-8: -4.510956, -6: -2.902945, -4: -0.936109, -3: 0, -2: 0, 1: 0}
    target = {-8: -4.510956, -6: -2.936109, -4: -0.936109, -3: -0.063891, -2: -0.002459, -1: -0.012193}
    target |= {0: 0, 1: -0.068787, 2: -0.202213}
    for utility, values in ((Lower(), lower), (Target(), target)):
        for found, wanted in zip(grid_values(utility, values, gamma), values.values(), strict=True):
            assert near(found, wanted, 6), (utility, wanted)


def test_vector_stock():
    plane = homeostasis()
    solver = Solver(plane, Norm())

    def values(stock, steps):
        return [solver(left or "end", stock, left).value for left in range(steps + 1)]

    assert values((2, -1), 4) == [-3, -2, -1, 0, 0]
    assert values((-3, 2), 6) == [-5, -4, -3, -2, -1, 0, 0]


def random_process(seed):
    """Three states, two actions of one and two outcomes."""
    draw = random.Random(seed)
    table = {}
    for state in range(3):
        p = F(draw.randint(1, 3), 4)
        rewards = [draw.randint(-3, 3) for _ in range(3)]
        after = [draw.randrange(3) for _ in range(3)]
        table[state] = [(rewards[0], after[0]), [(p, rewards[1], after[1]), (1 - p, rewards[2], after[2])]]
    return build(table, 0), (F(1), F(3, 4), HALF)[seed % 3]


def test_two_hundred_random_processes_against_brute_force():
    for seed in range(200):
        mdp, gamma = random_process(seed)
        laws = every_law(mdp, 3, gamma)
        assert len(laws) == 42
        solver = Solver(mdp, Lower(), gamma)
        values = {-x: solver(0, -x, 3).value for x in reachable_returns(mdp, 3, gamma)}
        for tau in (F(1, 4), HALF, F(4, 5)):
            choice = best_cvar(values, tau)
            assert choice.value == max(cvar(law, tau) for law in laws), (seed, tau)
            assert cvar(solver(0, choice.stock, 3).law, tau) == choice.value, (seed, tau)


def wrong_values(function, gamma, processes=12):
    """How many values of plain recursion are below the best history-dependent policy's."""
    wrong = 0
    for seed in range(processes):
        mdp, _ = random_process(seed)
        laws = every_law(mdp, 3, gamma)
        solver = Solver(mdp, Mean(), gamma)
        solver.utility = Custom(function)  # past the check, to see what it is for
        for stock in (F(-2), F(0), F(1)):
            best = max(solver.utility.mean(law, stock) for law in laws)
            wrong += solver(0, stock, 3).value != best
    return wrong


@pytest.mark.parametrize(
    ("function", "right"),
    [
        (lambda x: min(x, 0), True),
        (lambda x: -abs(x), True),
        (lambda x: -x * x, True),
        (lambda x: -((x - 1) ** 2), False),
        (lambda x: int(0 <= x <= 1), False),
        (lambda x: min(x, 1), False),
    ],
)
def test_which_utilities_may_be_discounted(function, right):
    assert wrong_values(function, 1) == 0
    assert (wrong_values(function, HALF) == 0) == right
    assert Custom(function).indifferent == right


def test_the_smallest_counterexample_and_its_valid_form():
    solver = Solver(COUNTER, Mean(), HALF)
    solver.utility = Custom(lambda x: -((x - 1) ** 2))
    assert solver("s0", 0, 2).law == {HALF: 1} and solver("s0", 0, 2).value == F(-1, 4)
    right = Solver(COUNTER, Target(), HALF)("s0", -1, 2)
    assert right.law == {1: 1} and right.value == 0


@pytest.mark.parametrize("utility", [Target(1), Range(0, 1), Exponential(0.1), Custom(lambda x: min(x, 1))])
def test_a_wrong_utility_is_refused_with_the_valid_form(utility):
    with pytest.raises(ConfigError, match=r"gamma = 1|into the stock"):
        Solver(MDP_A, utility, HALF)
    Solver(MDP_A, utility, 1)


def test_cvar_itself_is_no_objective_of_recursion():
    """It violates mixture indifference: better in both branches, worse in their mixture."""
    tau = F(3, 4)
    laws = {
        actions: run_policy(MDP_A, after(*actions), "s0", 0, 2)
        for actions in [(0, 0), (0, 1), (1, 0), (1, 1)]
    }
    branch = {r: [cvar({r + 1: F(1)}, tau), cvar({r + 5: HALF, r - 2: HALF}, tau)] for r in (4, 0)}
    assert all(safe > risky for safe, risky in branch.values())
    assert near(cvar(laws[SAFE, SAFE], tau), 2.3333) and near(cvar(laws[SAFE, RISKY], tau), 2.6667)


@pytest.mark.parametrize(
    ("gamma", "cases"),
    [
        (1, {F(-5): F(-7, 4), F(-9, 2): F(-13, 8), F(-1): F(0)}),
        (HALF, {F(-5): F(-19, 8), F(-9, 2): F(-15, 8), F(-1): F(-1, 4)}),
    ],
)
def test_the_shaped_reward_makes_an_ordinary_task(gamma, cases):
    """gamma f(c') - f(c) summed up is V*(s, c) - f(c): solved by plain value iteration on (s, c)."""
    from rlsuite.returns.objectives import next_stock, shaped_reward

    f, solver = Lower(), Solver(MDP_A, Lower(), gamma)

    def value(state, stock, steps):
        options = MDP_A.options(state)
        if not options or not steps:
            return F(0)
        best = []
        for outcomes in options:
            total = F(0)
            for p, r, s in outcomes:
                after = next_stock(stock, r, F(gamma))
                total += p * (shaped_reward(f, stock, after, F(gamma)) + gamma * value(s, after, steps - 1))
            best.append(total)
        return max(best)

    for stock, wanted in cases.items():
        assert value("s0", stock, 2) + f(stock) == wanted == solver("s0", stock, 2).value


def test_reachable_returns_are_those_of_all_policies():
    laws = every_law(MDP_A, 2)
    assert reachable_returns(MDP_A, 2) == sorted(set().union(*laws)) == [-2, 1, 2, 5, 9]


def test_bad_tables_are_refused():
    with pytest.raises(ConfigError, match="sum to 1"):
        build({"s": [[(HALF, 1, "end")]]})
    with pytest.raises(ConfigError, match="vectors of one size"):
        build({"s": [(1, "end"), ((1, 0), "end")]})
    with pytest.raises(ConfigError, match="vector"):
        Solver(MDP_A, Norm())


@pytest.mark.parametrize("each_transition", [False, True])
def test_arrays_make_the_process_of_the_plain_table(each_transition):
    probability = np.array([[[0.5, 0.5, 0], [0, 0, 1]], [[0, 0.25, 0.75], [1, 0, 0]], [[0, 0, 1], [0, 0, 1]]])
    reward = np.array([[2, -1], [3, 0], [9, 9]])
    table = {
        0: [[(0.5, 2, 0), (0.5, 2, 1)], (-1, 2)],
        1: [[(0.25, 3, 1), (0.75, 3, 2)], (0, 0)],
    }
    paid = np.repeat(reward[..., None], 3, 2) if each_transition else reward
    assert from_arrays(probability, paid, terminal=[2], start=1) == build(table, 1)
