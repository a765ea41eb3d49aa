"""Finite decision processes in rationals: built from tables, arrays or Gymnasium's toy-text environments."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from rlsuite.errors import ConfigError

State = Hashable
LARGEST_DENOMINATOR = 10**9  # of numbers that come as floats: 0.1 means 1/10


class Transition(NamedTuple):
    """One possible outcome of an action: its probability, reward (a number or a tuple) and next state."""

    probability: Fraction
    reward: Any
    state: State


def exact(number: Any) -> Any:
    """Return a number, or a tuple of them, as `Fraction`; floats as the simplest one near them."""
    if isinstance(number, tuple):
        return tuple(exact(part) for part in number)
    fraction = Fraction(number)
    return fraction.limit_denominator(LARGEST_DENOMINATOR) if isinstance(number, float) else fraction


@dataclass(frozen=True)
class MDP:
    """A finite Markov decision process in rationals.

    Attributes:
        actions: state -> outcomes of each action, in the order of the actions; states without actions, or
            not named at all, are terminal.
        start: first state -> probability.

    Raises:
        ConfigError: probabilities are negative or do not sum to one, or rewards mix numbers and vectors.
    """

    actions: Mapping[State, Sequence[Sequence[Transition]]]
    start: Mapping[State, Fraction]

    def __post_init__(self) -> None:
        """Check every distribution."""
        sizes = set()
        for state, options in self.actions.items():
            for index, outcomes in enumerate(options):
                where = f"state {state!r}, action {index}"
                _check_distribution([outcome.probability for outcome in outcomes], where)
                sizes |= {_size(outcome.reward) for outcome in outcomes}
        _check_distribution(list(self.start.values()), "start")
        if len(sizes) > 1:
            raise ConfigError(
                f"rewards have sizes {sorted(sizes)}: all must be numbers, or vectors of one size"
            )

    @property
    def reward_size(self) -> int | None:
        """Return the number of components of a vector reward; None for plain numbers."""
        sizes = {_size(o.reward) for options in self.actions.values() for os in options for o in os}
        size = sizes.pop() if sizes else 0
        return size or None

    @property
    def zero(self) -> Any:
        """Return the reward, and return, of nothing at all."""
        size = self.reward_size
        return Fraction(0) if size is None else (Fraction(0),) * size

    def options(self, state: State) -> Sequence[Sequence[Transition]]:
        """Return the outcomes of each action; none where the state is terminal."""
        return self.actions.get(state, ())

    @property
    def states(self) -> list[State]:
        """Return every state that is named, in the order of the actions, terminal ones last."""
        named = dict.fromkeys(self.actions)
        ends = (o.state for options in self.actions.values() for os in options for o in os)
        return list(named | dict.fromkeys(ends) | dict.fromkeys(self.start))


def build(
    table: Mapping[State, Iterable[Any]],
    start: State | None = None,
    *,
    starts: Mapping[State, Any] | None = None,
) -> MDP:
    """Make an MDP of a plain table.

    Args:
        table: state -> its actions; an action is a list of (probability, reward, next state), or one
            (reward, next state) that is certain. Floats are read as the simplest fractions near them.
        start: the first state; by default the first of the table.
        starts: a distribution of first states instead.
    """
    actions = {}
    for state, options in table.items():
        rows = []
        for option in options:
            outcomes = [option] if isinstance(option, tuple) else list(option)
            full = [(1, *outcome) if len(outcome) == 2 else outcome for outcome in outcomes]
            rows.append(tuple(Transition(exact(p), exact(r), s) for p, r, s in full))
        actions[state] = tuple(rows)
    if starts is None:
        starts = {next(iter(table)) if start is None else start: 1}
    return MDP(actions, {state: exact(p) for state, p in starts.items()})


def from_arrays(probability: Any, reward: Any, terminal: Iterable[int] = (), start: int = 0) -> MDP:
    """Make an MDP of arrays: `probability` and `reward` are `[S, A, S]`; rewards also `[S, A]`.

    Args:
        probability: of the next state; any array with `tolist`.
        reward: for every transition, or for every state and action.
        terminal: states without actions.
        start: the first state.
    """
    chances, rewards = probability.tolist(), reward.tolist()
    ended = set(terminal)
    table: dict[State, list[Any]] = {}
    for state, rows in enumerate(chances):
        if state in ended:
            continue
        table[state] = []
        for action, row in enumerate(rows):
            paid = rewards[state][action]
            each = paid if isinstance(paid, list) else [paid] * len(row)
            table[state].append([(p, each[after], after) for after, p in enumerate(row) if p])
    return build(table, start)


def from_toy_text(env: Any, *, horizon: int | None = None) -> MDP:
    """Import a Gymnasium toy-text environment (FrozenLake, CliffWalking, Taxi) from its table `P`.

    Args:
        env: the environment, or what `gymnasium.make` returned.
        horizon: makes the state a pair (state, steps left): with gamma = 1 a time limit that ends the return
            must be seen. None leaves time out.

    Raises:
        ConfigError: it has no such table.
    """
    bare = getattr(env, "unwrapped", env)
    table = getattr(bare, "P", None)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{env} has no table P of transitions: toy-text environments have one")
    rows: dict[State, list[Any]] = {}
    for left in (None,) if horizon is None else range(horizon, 0, -1):
        for state, options in table.items():
            here: State = state if left is None else (state, left)
            rows[here] = [_merged(options[action], left) for action in sorted(options)]
    weights = [exact(float(p)) for p in bare.initial_state_distrib]
    total = sum(weights)
    firsts: dict[State, Any] = {
        (s if horizon is None else (s, horizon)): w / total for s, w in enumerate(weights) if w
    }
    return build(rows, starts=firsts)


def _merged(outcomes: Any, left: int | None) -> list[tuple[Fraction, Any, State]]:
    """Join equal outcomes of one toy-text action; ends become one terminal state."""
    joined: dict[tuple[Any, State], Fraction] = {}
    for chance, after, reward, ended in outcomes:
        over = ended or left == 1
        state: State = "end" if over else (int(after) if left is None else (int(after), left - 1))
        key = (exact(float(reward)), state)
        joined[key] = joined.get(key, Fraction(0)) + exact(float(chance))
    total = sum(joined.values())  # thirds that came as floats
    return [(p / total, reward, state) for (reward, state), p in joined.items()]


def _check_distribution(chances: Sequence[Any], where: str) -> None:
    if any(chance < 0 for chance in chances) or sum(chances) != 1:
        raise ConfigError(
            f"{where}: probabilities {', '.join(map(str, chances))} must not be negative and must sum to 1"
        )


def _size(reward: Any) -> int:
    """Return the number of components of a reward, 0 for a plain number."""
    return len(reward) if isinstance(reward, tuple) else 0
