"""Exact dynamic programming over return distributions with a stock, for finite Markov decision processes.

Distributional value iteration (`Solver`) and policy iteration (`policy_iteration`) of Ávila Pires et al. 2025
(arXiv 2501.13028), in rationals: no grid of stocks and no projection, as finitely many stocks are reachable
within a horizon. With gamma = 1 stocks meet again and long horizons are cheap; with gamma < 1 the work grows
exponentially (horizons up to about 8). `rlsuite.returns.vectorised` is for what is larger.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from rlsuite.errors import ConfigError
from rlsuite.returns.laws import Choice, Law, best_cvar, best_mean_cvar, check_level
from rlsuite.returns.mdp import MDP, State, Transition, exact
from rlsuite.returns.objectives import Lower, MeanCVaR, Upper, Utility, check_discount, next_stock, plus

Policy = Callable[[State, Any, int], int]
"""(state, stock, steps left) -> index of an action."""

MAX_LAWS = 1_000_000  # of the brute-force enumeration


class Step(NamedTuple):
    """Result of `Solver` for a state, a stock and steps left: law of the return, value, action."""

    law: Law
    value: Any
    action: int | None


@dataclass
class Solver:
    """Distributional value iteration, exact: n sweeps from the law `initial` at every state and stock.

    Sweep n gives eta_n = T_* eta_{n-1}. With gamma = 1, or an MDP that ends within n steps, that is the
    optimum; otherwise |F eta_n - F eta*| <= L gamma^n w, w the greatest W1 distance of the initial law to the
    optimal ones (`contraction_bound`).

    Args:
        mdp: the process.
        utility: what to maximise of stock + return.
        gamma: discount, in (0, 1].
        initial: eta_0, the same everywhere but at terminal states; None is a return of zero.

    Raises:
        ConfigError: the utility is not right under this discount.
    """

    mdp: MDP
    utility: Utility
    gamma: Any = 1
    initial: Law | None = None
    _memo: dict[tuple[State, Any, int], Step] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse utilities that cannot be discounted."""
        self.gamma = exact(self.gamma)
        check_discount(self.utility, self.gamma)
        if self.utility.vector != (self.mdp.reward_size is not None):
            raise ConfigError(
                f"{self.utility} takes {'vector' if self.utility.vector else 'plain'} rewards, "
                f"and this process has {'vectors' if self.mdp.reward_size else 'plain numbers'}"
            )

    def __call__(self, state: State, stock: Any, steps: int) -> Step:
        """Return law, value and greedy action; of equally good actions the first."""
        key = (state, exact(stock), steps)
        if key not in self._memo:
            self._memo[key] = self._solve(*key)
        return self._memo[key]

    def _solve(self, state: State, stock: Any, steps: int) -> Step:
        options = self.mdp.options(state)
        if not options or steps == 0:
            zero = {self.mdp.zero: Fraction(1)}
            law: Law = zero if not options or self.initial is None else self.initial
            return Step(law, self.utility.mean(law, stock), None)
        best: Step | None = None
        for action in range(len(options)):
            law = self.after(state, stock, action, steps)
            value = self.utility.mean(law, stock)
            if best is None or value > best.value:
                best = Step(law, value, action)
        assert best is not None
        return best

    def after(self, state: State, stock: Any, action: int, steps: int) -> Law:
        """Return the law of taking `action` now and greedy ones for the `steps` - 1 others."""

        def next_law(state: State, stock: Any, steps: int) -> Law:
            return self(state, stock, steps).law

        outcomes = self.mdp.options(state)[action]
        return backed_up(outcomes, next_law, exact(stock), self.gamma, steps)

    def policy(self, state: State, stock: Any, steps: int) -> int:
        """Return the greedy action, as a `Policy`."""
        action = self(state, stock, steps).action
        return 0 if action is None else action

    def start_value(self, stock: Any, steps: int) -> Any:
        """Return the optimal value of a first stock that is chosen before the first state is seen."""
        return sum(p * self(state, stock, steps).value for state, p in self.mdp.start.items())


def backed_up(
    outcomes: Sequence[Transition],
    next_law: Callable[[State, Any, int], Law],
    stock: Any,
    gamma: Any,
    steps: int,
) -> Law:
    """Return the law of R + gamma G(S', C') over the outcomes, C' = (c + R) / gamma."""
    law: dict[Any, Any] = {}
    for chance, reward, state in outcomes:
        for value, weight in next_law(state, next_stock(stock, reward, gamma), steps - 1).items():
            total = plus(
                reward, tuple(gamma * part for part in value) if isinstance(value, tuple) else gamma * value
            )
            law[total] = law.get(total, Fraction(0)) + chance * weight
    return law


def run_policy(mdp: MDP, policy: Policy, state: State, stock: Any, steps: int, gamma: Any = 1) -> Law:
    """Return the exact law of the return of a policy from (state, stock) within `steps` steps."""
    gamma = exact(gamma)
    memo: dict[tuple[State, Any, int], Law] = {}

    def law(state: State, stock: Any, steps: int) -> Law:
        key = (state, stock, steps)
        if key not in memo:
            options = mdp.options(state)
            if not options or steps == 0:
                memo[key] = {mdp.zero: Fraction(1)}
            else:
                memo[key] = backed_up(options[policy(state, stock, steps)], law, stock, gamma, steps)
        return memo[key]

    return law(state, exact(stock), steps)


def start_law(mdp: MDP, policy: Policy, stock: Any, steps: int, gamma: Any = 1) -> Law:
    """Return the law of the return over the first states, all with the same first stock."""
    total: dict[Any, Any] = {}
    for state, chance in mdp.start.items():
        for value, weight in run_policy(mdp, policy, state, stock, steps, gamma).items():
            total[value] = total.get(value, Fraction(0)) + chance * weight
    return total


def policy_iteration(
    mdp: MDP, utility: Utility, policy: Policy, steps: int, gamma: Any = 1
) -> Iterable[tuple[Policy, Callable[[State, Any, int], Any]]]:
    """Yield policies and their values (state, stock, steps left) -> E f(c + G), each better than the last.

    Each policy is greedy for the one before. The value never falls at any state and stock; with a horizon
    the optimum is reached after at most `steps` improvements. An endless
    iterator: stop when the values of interest no longer rise.
    """
    gamma = exact(gamma)
    check_discount(utility, gamma)
    while True:
        current = policy
        laws = _laws_of(mdp, current, gamma)
        yield current, lambda s, c, n, laws=laws: utility.mean(laws(s, exact(c), n), exact(c))  # type: ignore[misc]
        policy = _greedy_for(mdp, utility, laws, current, gamma)


def _laws_of(mdp: MDP, policy: Policy, gamma: Any) -> Callable[[State, Any, int], Law]:
    return lambda state, stock, steps: run_policy(mdp, policy, state, stock, steps, gamma)


def _greedy_for(
    mdp: MDP, utility: Utility, laws: Callable[[State, Any, int], Law], current: Policy, gamma: Any
) -> Policy:
    memo: dict[tuple[State, Any, int], int] = {}

    def greedy(state: State, stock: Any, steps: int) -> int:
        key = (state, stock, steps)
        if key not in memo:
            values = [
                utility.mean(backed_up(outcomes, laws, stock, gamma, steps), stock)
                for outcomes in mdp.options(state)
            ]
            held = current(state, stock, steps)  # ties keep the action: the iteration comes to rest
            memo[key] = held if values[held] == max(values) else values.index(max(values))
        return memo[key]

    return greedy


def reachable_returns(mdp: MDP, steps: int, gamma: Any = 1, state: State | None = None) -> list[Any]:
    """Return every return that a policy may bring within `steps`, in order: the kinks of optimal values."""
    gamma = exact(gamma)
    memo: dict[tuple[State, int], frozenset[Any]] = {}

    def returns(state: State, steps: int) -> frozenset[Any]:
        key = (state, steps)
        if key not in memo:
            options = mdp.options(state)
            if not options or steps == 0:
                memo[key] = frozenset({Fraction(0)})
            else:
                memo[key] = frozenset(
                    o.reward + gamma * x
                    for outcomes in options
                    for o in outcomes
                    for x in returns(o.state, steps - 1)
                )
        return memo[key]

    first = mdp.start if state is None else {state: 1}
    return sorted(set().union(*(returns(s, steps) for s in first)))


def optimal_cvar(
    mdp: MDP, tau: Any, steps: int, gamma: Any = 1, *, upper: bool = False
) -> tuple[Choice, Law]:
    """Return the best CVaR_tau of the return over history-dependent policies, and the law that attains it.

    Args:
        mdp: the process; the first stock is chosen before the first state is seen.
        tau: level of the tail.
        steps: horizon.
        gamma: discount.
        upper: the highest tau instead of the lowest. The law may be that of a mixture of two policies, which
            `optimal_upper_cvar` returns.
    """
    if upper:
        best = optimal_upper_cvar(mdp, tau, steps, gamma)
        return best.choice, best.law
    solver = Solver(mdp, Lower(), gamma)
    choice = best_cvar(_values(solver, steps), exact(tau))
    return choice, start_law(mdp, solver.policy, choice.stock, steps, gamma)


class Mixture(NamedTuple):
    """Policies of (state, stock, steps left), one of which is drawn before the first step and then kept.

    Attributes:
        choice: the value, the first stock of every policy, and the expected utility from there.
        weights: probability of each policy.
        policies: one or two.
        law: of the return, over the draw of the policy too.
    """

    choice: Choice
    weights: tuple[Any, ...]
    policies: tuple[Policy, ...]
    law: Law


@dataclass(frozen=True)
class _UpperBeside(Upper):
    """`Upper` at a stock an infinitesimal step above (side 1) or below it (side -1).

    Its value is a pair, compared in order: E max(c + G, 0), then what the step adds, side times the slope in
    c on that side: P(c + G >= 0) above, P(c + G > 0) below. (c + G) keeps its sign along an episode, so
    dynamic programming may maximise the pair as it may the first number.
    """

    side: int = 1

    def mean(self, law: Law, stock: Any = 0) -> tuple[Any, Any]:
        """Return the pair for G of the law."""
        return super().mean(law, stock), self.side * self.slope(law, stock)

    def slope(self, law: Law, stock: Any) -> Any:
        """Return the slope of E max(c + G, 0) in c on this side of the stock."""
        return sum(
            (p for x, p in law.items() if stock + x > 0 or (self.side > 0 and stock + x == 0)), Fraction(0)
        )


class _Tangent(NamedTuple):
    """A policy optimal at a stock and on one side of it; its line touches the optimal values there."""

    stock: Any
    policy: Policy
    law: Law
    utility: Any
    slope: Any


def optimal_upper_cvar(mdp: MDP, tau: Any, steps: int, gamma: Any = 1) -> Mixture:
    """Return the best mean of the highest tau of the return, and the mixture of policies that attains it.

    The value is the minimum over first stocks c of -c + V(c) / tau, V the optimal E max(c + G, 0). V is a
    maximum of convex curves, one a policy, so the minimum lies at minus a reachable return or where two
    curves cross. There no single policy need attain it: by the minimax theorem a mixture of two does, one
    optimal below the stock and one above, mixed so that -c + E max(c + G, 0) / tau is level. Found by cutting
    planes: V is piecewise linear, and every stock that is tried ends the search or shows a new piece of it.

    Args:
        mdp: the process; the first stock, and the policy of the mixture, are chosen before the first state
            is seen.
        tau: level of the tail, in (0, 1].
        steps: horizon.
        gamma: discount.
    """
    tau = exact(tau)
    check_level(tau)
    sides = {side: Solver(mdp, _UpperBeside(side), gamma) for side in (-1, 1)}

    def tangent(stock: Any, side: int) -> _Tangent:
        utility = _UpperBeside(side)
        law = start_law(mdp, sides[side].policy, stock, steps, gamma)
        return _Tangent(
            stock, sides[side].policy, law, utility.mean(law, stock)[0], utility.slope(law, stock)
        )

    returns = reachable_returns(mdp, steps, gamma)
    low, high = tangent(-returns[-1], 1), tangent(-returns[0], -1)
    if low.slope >= tau:
        return _mixed(tangent(low.stock, -1), low, tau)
    if high.slope <= tau:
        return _mixed(high, tangent(high.stock, 1), tau)
    while True:  # the objective falls from low.stock on and rises up to high.stock
        crossing = (low.utility - low.slope * low.stock - high.utility + high.slope * high.stock) / (
            high.slope - low.slope
        )
        below, above = tangent(crossing, -1), tangent(crossing, 1)
        if below.slope <= tau <= above.slope:
            return _mixed(below, above, tau)
        if above.slope < tau:
            low = above
        else:
            high = below


def _mixed(below: _Tangent, above: _Tangent, tau: Any) -> Mixture:
    """Return the mixture of two policies, optimal at one stock, whose highest tau begins at minus that stock.

    It does where P(G > -c) <= tau <= P(G >= -c).
    """
    stock, utility = below.stock, below.utility
    reached = _UpperBeside(1).slope(below.law, stock)
    exceeded = _UpperBeside(-1).slope(above.law, stock)
    if reached >= tau:
        weight = Fraction(0)
    elif exceeded <= tau:
        weight = Fraction(1)
    else:
        weight = (tau - reached) / (above.slope - reached)
    law: dict[Any, Any] = {}
    parts = [(p, part) for p, part in ((1 - weight, below), (weight, above)) if p]
    for chance, part in parts:
        for value, p in part.law.items():
            law[value] = law.get(value, Fraction(0)) + chance * p
    choice = Choice(-stock + utility / tau, stock, utility)
    return Mixture(choice, tuple(p for p, _ in parts), tuple(part.policy for _, part in parts), law)


def optimal_mean_cvar(mdp: MDP, weight: Any, tau: Any, steps: int, gamma: Any = 1) -> tuple[Choice, Law]:
    """Return the best weight * mean + (1 - weight) * CVaR_tau, and the law that attains it."""
    solver = Solver(mdp, MeanCVaR(exact(weight), exact(tau)), gamma)
    choice = best_mean_cvar(_values(solver, steps))
    return choice, start_law(mdp, solver.policy, choice.stock, steps, gamma)


def _values(solver: Solver, steps: int) -> dict[Any, Any]:
    stocks = [-x for x in reachable_returns(solver.mdp, steps, solver.gamma)]
    return {stock: solver.start_value(stock, steps) for stock in stocks}


def contraction_bound(utility: Utility, gamma: Any, sweeps: int, reward_bound: Any) -> float:
    """Return L gamma^n w, how far value iteration from a return of zero may be off after n sweeps.

    w = r_max / (1 - gamma) is the greatest distance of zero to any law of returns.

    Raises:
        ConfigError: the utility has no Lipschitz constant, or gamma is 1.
    """
    if utility.lipschitz is None:
        raise ConfigError(f"{utility} has no Lipschitz constant: only a finite horizon makes it exact")
    if not 0 < gamma < 1:
        raise ConfigError(
            f"gamma = {gamma}: the bound is of gamma in (0, 1); with gamma = 1 horizons are finite"
        )
    return float(utility.lipschitz * gamma**sweeps * reward_bound / (1 - gamma))


def every_law(mdp: MDP, steps: int, gamma: Any = 1, state: State | None = None) -> list[Law]:
    """Return the law of every deterministic history-dependent policy, by brute force: the oracle of tests.

    Raises:
        ConfigError: there are more than a million.
    """
    gamma = exact(gamma)

    @cache
    def laws(state: State, steps: int) -> list[Law]:
        options = mdp.options(state)
        if not options or steps == 0:
            return [{mdp.zero: Fraction(1)}]
        collected: list[Law] = []
        for outcomes in options:
            below = [laws(outcome.state, steps - 1) for outcome in outcomes]
            count = 1
            for each in below:
                count *= len(each)
            if count + len(collected) > MAX_LAWS:
                raise ConfigError(f"more than {MAX_LAWS} history-dependent policies: lower the horizon")
            for chosen in product(*below):
                after = dict(enumerate(chosen))
                numbered = [Transition(o.probability, o.reward, index) for index, o in enumerate(outcomes)]
                collected.append(
                    backed_up(numbered, lambda i, _c, _n, after=after: after[i], mdp.zero, gamma, steps)  # type: ignore[misc]
                )
        return collected

    first = next(iter(mdp.start)) if state is None else state
    return laws(first, steps)
