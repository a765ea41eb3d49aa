"""Observations of any space as one vector: the state first and the goal last, as recorded data have them.

The order of a dictionary's parts, at every level: `observation`, `achieved_goal`, `desired_goal`, then other
names in alphabetical order. Gymnasium's own wrapper would sort all names.
"""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

FIRST_KEYS = ("observation", "achieved_goal", "desired_goal")


def key_order(name: str) -> tuple[int, str]:
    """Sort key of the names of one dictionary."""
    return (FIRST_KEYS.index(name) if name in FIRST_KEYS else len(FIRST_KEYS), name)


def flattened(env: gymnasium.Env) -> gymnasium.Env:
    """Return the environment with vectors as observations; itself where it has them already."""
    space = env.observation_space
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return env
    if not isinstance(space, spaces.Dict):
        return gymnasium.wrappers.FlattenObservation(env)
    low, high = (np.concatenate([getattr(box, side) for box in _boxes(space)]) for side in ("low", "high"))
    flat = spaces.Box(low, high, dtype=np.float64)
    return gymnasium.wrappers.TransformObservation(env, lambda seen: _vector(space, seen), flat)


def _boxes(space: spaces.Space) -> Iterator[spaces.Box]:
    if isinstance(space, spaces.Dict):
        for name in sorted(space.spaces, key=key_order):
            yield from _boxes(space[name])
    else:
        flat = spaces.flatten_space(space)
        assert isinstance(flat, spaces.Box)
        yield flat


def _vector(space: spaces.Space, seen: Any) -> np.ndarray:
    if isinstance(space, spaces.Dict):
        names = sorted(space.spaces, key=key_order)
        return np.concatenate([_vector(space[name], seen[name]) for name in names])
    return np.asarray(spaces.flatten(space, seen), np.float64)
