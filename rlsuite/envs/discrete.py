"""Discrete actions: an action is a vector of A scores, of which the greatest counts.

So replay, loop and seeds carry them as they carry continuous ones, and uniform scores are uniform actions.
Continuous actions become discrete by a grid of values along each axis.

Legend: B envs, A actions, D length of the inner environment's action vector.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch

from rlsuite.envs.arrays import Array
from rlsuite.envs.base import Outcome, VectorEnv
from rlsuite.envs.wrapped import WrappedEnv
from rlsuite.errors import ConfigError

MOST_ACTIONS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscreteOptions:
    """Options of `discrete:ID`, each written with the prefix `discrete_`."""

    bins: int = 5
    """Values along each axis of a continuous action, both ends of its range included; odd has the middle."""


def action_grid(length: int, bins: int) -> np.ndarray:
    """Return every combination of `bins` values in [-1, 1] along `length` axes, `[bins ** length, length]`.

    Raises:
        ConfigError: fewer than two values, or more than 1,024 actions.
    """
    if bins < 2 or bins**length > MOST_ACTIONS:
        raise ConfigError(
            f"discrete_bins = {bins} for actions of length {length} makes {bins**length} actions: from 2 "
            f"bins up to {MOST_ACTIONS} actions are allowed; agents of continuous actions need no bins"
        )
    values = np.linspace(-1, 1, bins)
    return np.array(list(product(values, repeat=length)))


def chosen_action(scores: Array) -> Array:
    """Return the index of the greatest of scores `[*, A]`, `[*]` int64; of equal ones the first."""
    return scores.argmax(-1)


class DiscretisedEnv(WrappedEnv):
    """An environment of continuous actions that offers a grid of them.

    Args:
        inner: the environment of continuous actions.
        options: how fine the grid is.

    Raises:
        ConfigError: the grid is too small or too large, or the actions are discrete already.
    """

    def __init__(self, inner: VectorEnv, options: DiscreteOptions) -> None:
        if inner.discrete:
            raise ConfigError(f"{inner.env_id} has discrete actions already")
        grid = action_grid(len(inner.half_range), options.bins)
        ones = np.ones(len(grid))
        facts = inner.facts
        env_id = f"discrete:{inner.env_id}"
        super().__init__(
            inner, replace(facts, env_id=env_id, action_low=-ones, action_high=ones, discrete=True)
        )
        values = facts.middle + facts.half_range * grid
        self._values: Array = values
        if facts.on_device:
            self._values = torch.from_numpy(values).to(facts.simulation_device, facts.simulation_dtype)

    def _advance(self, action: Array) -> Outcome:
        return self.inner._advance(self._values[chosen_action(action)])
