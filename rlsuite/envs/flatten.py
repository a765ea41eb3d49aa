"""Dictionaries of observations as one vector, in an order of our own: the state first, the goal last.

Gymnasium's flattening sorts all names, which puts goals before the state. Data sets are flattened in the same
order (`rlsuite.offline`), so a policy trained on them meets in the environment what it has learnt from.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlsuite.errors import ConfigError

FIRST_KEYS = ("observation", "achieved_goal", "desired_goal")
MASK_KEY = "action_mask"  # of a dictionary, or of Gymnasium's info: which discrete actions are allowed

Path = tuple[str, ...]


def key_order(name: str) -> tuple[int, str]:
    """Sort key of the names of one dictionary: the three above, then the others in alphabetical order."""
    return (FIRST_KEYS.index(name) if name in FIRST_KEYS else len(FIRST_KEYS), name)


def choose(paths: Sequence[Path], keys: Sequence[str] | None, where: str) -> list[Path]:
    """Return the leaves that `keys` name, in the order of `keys`; None takes all.

    Args:
        paths: names on the way to every leaf, in the order of `key_order`.
        keys: "observation", "achieved_goal/kettle", or "achieved_goal" for all below it.
        where: for the message.

    Raises:
        ConfigError: a key names nothing.
    """
    if keys is None:
        return list(paths)
    chosen: list[Path] = []
    for key in keys:
        way = tuple(key.split("/"))
        matching = [path for path in paths if path[: len(way)] == way]
        if not matching:
            known = ", ".join("/".join(path) for path in paths)
            raise ConfigError(f'{where}: the observation has no part "{key}"; allowed are {known}')
        chosen += matching
    return chosen


class FlatObservation(gymnasium.ObservationWrapper):
    """Shows the chosen parts of a dictionary side by side, each flattened as Gymnasium does.

    Args:
        env: shows a `Dict`, nested or not.
        keys: which parts, in this order; None takes all, state first.

    Raises:
        ConfigError: a key names nothing, or a part cannot be a vector.
    """

    def __init__(self, env: gymnasium.Env, keys: Sequence[str] | None = None) -> None:
        super().__init__(env)
        leaves = dict(_leaves(env.observation_space, ()))
        paths = choose(list(leaves), keys, str(env.spec.id if env.spec else env))
        self._paths = sorted(paths, key=lambda path: path == (MASK_KEY,))  # a mask stands last
        self._parts = [leaves[path] for path in self._paths]
        boxes: list[Any] = [spaces.flatten_space(part) for part in self._parts]
        if not all(isinstance(box, spaces.Box) for box in boxes):
            raise ConfigError(f"observations {env.observation_space} cannot be flattened to a vector")
        low = np.concatenate([box.low.ravel() for box in boxes])
        high = np.concatenate([box.high.ravel() for box in boxes])
        self.observation_space = spaces.Box(low, high, dtype=np.result_type(*(box.dtype for box in boxes)))

    @property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Names and sizes of what is shown, in its order."""
        parts = zip(self._paths, self._parts, strict=True)
        return tuple(("/".join(path), int(spaces.flatdim(part))) for path, part in parts)

    @property
    def only_part(self) -> spaces.Space | None:
        """The part that is shown, where it is one alone."""
        return self._parts[0] if len(self._parts) == 1 else None

    def masks(self, actions: int) -> bool:
        """Return whether a mask of so many actions stands last."""
        return self._paths[-1] == (MASK_KEY,) and spaces.flatdim(self._parts[-1]) == actions

    def columns(self, name: str) -> slice | None:
        """Return where a part of the first level stands; None unless it is shown, as a vector."""
        start = 0
        for path, part in zip(self._paths, self._parts, strict=True):
            size = spaces.flatdim(part)
            if path == (name,):
                return slice(start, start + size)
            start += size
        return None

    def observation(self, observation: Any) -> np.ndarray:
        """Return the vector of one observation."""
        parts = zip(self._parts, self._paths, strict=True)
        return np.concatenate([spaces.flatten(part, _follow(observation, path)) for part, path in parts])


def _leaves(space: spaces.Space, path: Path) -> list[tuple[Path, Any]]:
    if not isinstance(space, spaces.Dict):
        return [(path, space)]
    names = sorted(space.spaces, key=key_order)
    return [leaf for name in names for leaf in _leaves(space.spaces[name], (*path, name))]


def _follow(observation: Any, path: Path) -> Any:
    for name in path:
        observation = observation[name]
    return observation


class MaskedObservation(gymnasium.Wrapper):
    """Shows, behind the vector of an environment, the mask of actions that its infos bring.

    Args:
        env: shows vectors; `info["action_mask"]` of every reset and step has one number an action.
        actions: A.
    """

    def __init__(self, env: gymnasium.Env, actions: int) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        low, high = (
            np.append(side, np.full(actions, end)) for side, end in ((space.low, 0), (space.high, 1))
        )
        self._actions = actions
        self.observation_space = spaces.Box(low, high, dtype=np.float64)

    def reset(self, **arguments: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(**arguments)
        return self._joined(observation, info), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Take one action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._joined(observation, info), reward, terminated, truncated, info

    def _joined(self, observation: Any, info: Any) -> np.ndarray:
        mask = np.asarray(info[MASK_KEY]) if MASK_KEY in info else None
        if mask is None or mask.shape != (self._actions,):
            came = "nothing" if mask is None else f"shape {mask.shape}"
            raise ValueError(f'info["{MASK_KEY}"]: {came} came, after a first one of {self._actions} numbers')
        return np.append(observation, mask)
