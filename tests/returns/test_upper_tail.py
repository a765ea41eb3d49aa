"""The best upper tail against the enumeration of history-dependent policies, mixtures of them included."""

import random
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from processes import HALF, MDP_A

from rlsuite.returns.laws import upper_cvar
from rlsuite.returns.mdp import build
from rlsuite.returns.tabular import optimal_cvar, optimal_upper_cvar

F = Fraction
HORIZON = 3


def random_process(seed):
    """Four states, three actions of one and two outcomes, some of which end the episode."""
    draw = random.Random(seed)
    after = [0, 1, 2, 3, "end"]
    table = {}
    for state in range(4):
        options = [(draw.randint(-4, 4), draw.choice(after))]
        for _ in range(2):
            p = F(draw.randint(1, 4), 5)
            options.append(
                [
                    (p, draw.randint(-4, 4), draw.choice(after)),
                    (1 - p, draw.randint(-4, 4), draw.choice(after)),
                ]
            )
        draw.shuffle(options)
        table[state] = options
    return build(table, 0), (F(1), HALF)[seed % 2]


def history_laws(mdp, state, steps, gamma):
    """Every law of the return that a deterministic policy of the whole history can have, each once."""
    if steps == 0 or not mdp.options(state):
        return {frozenset({(F(0), F(1))})}
    laws = set()
    for outcomes in mdp.options(state):
        rest = [history_laws(mdp, outcome.state, steps - 1, gamma) for outcome in outcomes]
        for chosen in product(*rest):
            law = {}
            for outcome, tail in zip(outcomes, chosen, strict=True):
                for value, p in tail:
                    total = outcome.reward + gamma * value
                    law[total] = law.get(total, 0) + outcome.probability * p
            laws.add(frozenset(law.items()))
    return laws


def best_of_mixtures(laws, tau):
    """The minimum over all stocks of the highest curve -c + E max(c + G, 0) / tau, by ternary search."""
    returns = np.array(sorted({value for law in laws for value, _ in law}), dtype=float)
    place = {value: index for index, value in enumerate(returns)}
    chances = np.zeros((len(laws), len(returns)))
    for row, law in enumerate(laws):
        for value, p in law:
            chances[row, place[float(value)]] = float(p)

    def objective(stock):
        return -stock + (chances @ np.maximum(stock + returns, 0)).max() / float(tau)

    low, high = -returns[-1], -returns[0]
    for _ in range(150):
        first, second = low + (high - low) / 3, high - (high - low) / 3
        if objective(first) <= objective(second):
            high = second
        else:
            low = first
    return min(map(objective, (low, high, *-returns)))


def played(mdp, policy, state, stock, steps, gamma):
    """The law of the return of a policy from a stock, by walking every path."""
    if steps == 0 or not mdp.options(state):
        return {F(0): F(1)}
    law = {}
    for outcome in mdp.options(state)[policy(state, stock, steps)]:
        rest = played(mdp, policy, outcome.state, (stock + outcome.reward) / gamma, steps - 1, gamma)
        for value, p in rest.items():
            total = outcome.reward + gamma * value
            law[total] = law.get(total, 0) + outcome.probability * p
    return law


def check(seeds):
    """Hold value and attained law to the oracle; return how often each number of policies was needed."""
    needed = {1: 0, 2: 0}
    for seed in seeds:
        mdp, gamma = random_process(seed)
        laws = history_laws(mdp, 0, HORIZON, gamma)
        for tau in (F(1, 4), HALF):
            best = optimal_upper_cvar(mdp, tau, HORIZON, gamma)
            assert abs(float(best.choice.value) - best_of_mixtures(laws, tau)) <= 1e-9, (seed, tau)
            mixed = {}
            for weight, policy in zip(best.weights, best.policies, strict=True):
                for value, p in played(mdp, policy, 0, best.choice.stock, HORIZON, gamma).items():
                    mixed[value] = mixed.get(value, 0) + weight * p
            assert mixed == best.law and sum(mixed.values()) == sum(best.weights) == 1, (seed, tau)
            assert upper_cvar(mixed, tau) == best.choice.value, (seed, tau)
            assert best.choice.value >= max(upper_cvar(dict(law), tau) for law in laws), (seed, tau)
            needed[len(best.weights)] += 1
    return needed


def test_the_best_upper_tail_is_that_of_all_mixtures_and_is_attained():
    needed = check(range(16))
    assert needed[2] >= 4  # the curves of two policies cross often enough to be tested


@pytest.mark.long
def test_three_hundred_random_processes():
    needed = check(range(300))
    assert needed[1] >= 100 and needed[2] >= 50


SURE_OR_LOTTERY = build({"s": [(8, "end"), [(HALF, 10, "end"), (HALF, 0, "end")]]})


def test_a_crossing_of_two_curves_needs_both_policies():
    """8 for sure against 10 or 0 at even odds, tau 3/4, lambda on the lottery.

    Up to lambda = 1/2 tens and eights fill the tail: (5 lambda + 8 (3/4 - lambda / 2)) / (3/4) rises to 26/3;
    beyond, zeros enter it.
    """
    best = optimal_upper_cvar(SURE_OR_LOTTERY, F(3, 4), 1)
    assert best.choice.value == F(26, 3) == upper_cvar(best.law, F(3, 4))
    assert sorted(best.weights) == [HALF, HALF]
    assert [policy("s", best.choice.stock, 1) for policy in best.policies] == [1, 0]
    assert best.law == {10: F(1, 4), 8: HALF, 0: F(1, 4)}
    single = max(upper_cvar({8: F(1)}, F(3, 4)), upper_cvar({10: HALF, 0: HALF}, F(3, 4)))
    assert single == 8 < best.choice.value


@pytest.mark.parametrize("tau", [F(1, 8), F(1, 4), HALF, F(3, 4), F(1)])
@pytest.mark.parametrize("gamma", [1, HALF])
def test_the_returned_law_attains_the_value(tau, gamma):
    choice, law = optimal_cvar(MDP_A, tau, 2, gamma, upper=True)
    assert upper_cvar(law, tau) == choice.value == -choice.stock + choice.utility / tau


def test_one_sure_return_and_several_first_states():
    assert optimal_upper_cvar(build({"s": [(3, "end")]}), F(1, 3), 4).choice.value == 3
    two = build({"a": [(1, "end"), (2, "end")], "b": [(5, "end")]}, starts={"a": F(3, 4), "b": F(1, 4)})
    best = optimal_upper_cvar(two, HALF, 1)
    assert best.choice.value == F(7, 2) and best.law == {2: F(3, 4), 5: F(1, 4)}
