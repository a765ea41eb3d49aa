"""Finite decision processes as tensors, for environments and for the vectorised solver.

Legend: S states, A actions, J outcomes of an action (padded with probability zero), m reward components.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.errors import ConfigError
from rlsuite.returns.mdp import MDP, State


class Table(NamedTuple):
    """An `MDP` in float64.

    Attributes:
        states: the state of each row, terminal ones included.
        probability: `[S, A, J]`.
        reward: `[S, A, J]`, of vectors `[S, A, J, m]`.
        next_state: index of the next state, `[S, A, J]` int64.
        terminal: `[S]` bool.
        start: probability of each first state, `[S]`.
    """

    states: list[State]
    probability: Tensor
    reward: Tensor
    next_state: Tensor
    terminal: Tensor
    start: Tensor


def tabulate(mdp: MDP) -> Table:
    """Write an MDP as tensors; terminal states stay where they are, for nothing.

    A state of fewer actions than others has its last one several times: no choice is added.

    Raises:
        ConfigError: there is no action at all.
    """
    states = mdp.states
    index = {state: place for place, state in enumerate(states)}
    counts = {len(mdp.options(state)) for state in states} - {0}
    if not counts:
        raise ConfigError("the process has no actions: every state is terminal")
    actions = max(counts)
    width = max(len(outcomes) for state in states for outcomes in mdp.options(state))
    shape = (len(states), actions, width)
    size = mdp.reward_size
    probability = torch.zeros(shape, dtype=torch.float64)
    reward = torch.zeros(shape if size is None else (*shape, size), dtype=torch.float64)
    next_state = torch.arange(len(states)).view(-1, 1, 1).expand(shape).clone()
    terminal = torch.zeros(len(states), dtype=torch.bool)
    for state, row in index.items():
        terminal[row] = not mdp.options(state)
        probability[row, :, 0] = float(bool(terminal[row]))
        options = list(mdp.options(state))
        padded = [*options, *options[-1:] * (actions - len(options))] if options else []
        for action, outcomes in enumerate(padded):
            for place, outcome in enumerate(outcomes):
                where = row, action, place
                probability[where] = float(outcome.probability)
                paid = outcome.reward
                reward[where] = torch.tensor(
                    [float(part) for part in paid] if isinstance(paid, tuple) else float(paid)
                )
                next_state[where] = index[outcome.state]
    start = torch.zeros(len(states), dtype=torch.float64)
    for state, chance in mdp.start.items():
        start[index[state]] = float(chance)
    return Table(states, probability, reward, next_state, terminal, start)
