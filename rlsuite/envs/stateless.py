"""Environments whose state can neither be read nor brought about again: a resumed run begins new episodes.

What is saved are the seeds and how often episodes have begun. After a load all envs start over, from a seed
that follows from both; the first step then gives the episodes up that the checkpoint was in the middle of:
truncated, and not valid, so that nothing is learnt from a transition between two episodes.

Legend: B envs, O observation, A action.
"""

import hashlib
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.arrays import Array
from rlsuite.envs.base import EnvFacts, Outcome, VectorEnv, take
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.seeding import EPISODE_SEEDS, Seeds


class StatelessEnv(VectorEnv):
    """A `VectorEnv` that cannot be saved in the middle of an episode.

    Subclasses implement `_reseed`, `_play`, `_begin` and `frame`, and call `_set_seed` when they are made.
    """

    def __init__(self, facts: EnvFacts, options: EnvOptions) -> None:
        super().__init__(facts, options)
        self._seed = 0
        self._begun = [0]  # how often episodes began; a list: a module's attributes cost more to write
        self._lost = [False]

    @abstractmethod
    def _reseed(self, seed: int) -> None:
        """Let all that comes follow from `seed`; the next call is `_begin` of all envs."""

    @abstractmethod
    def _play(self, action: Array) -> Outcome:
        """Step all envs under actions `[B, A]` in the environment's units."""

    @abstractmethod
    def _begin(self, mask: Array) -> Array:
        """Start episodes in the envs of `mask` `[B]`; return observations `[B, O]` of all envs."""

    def _set_seed(self, seed: Seeds) -> None:
        self._seed = one_seed(seed)
        self._begun[0], self._lost[0] = 0, False
        self._reseed(self._seed)

    def _restart(self, mask: Array) -> Array:
        self._begun[0] += 1
        self._lost[0] = False
        return self._begin(mask)

    def _advance(self, action: Array) -> Outcome:
        if not self._lost[0]:
            return self._play(action)
        self._nan_resets -= self.num_envs  # the guard counts what is not valid; these broke no number
        zeros: Any = np.zeros if isinstance(action, np.ndarray) else torch.zeros
        place = {} if isinstance(action, np.ndarray) else {"device": action.device}
        count, flag = self.num_envs, {**place, "dtype": bool if not place else torch.bool}
        observation = zeros((count, self.facts.observation_size), **place)
        none = zeros(count, **flag)
        return Outcome(
            observation, zeros(count, **place), none, ~none, sane=none.copy() if not place else none
        )

    def _own_state(self) -> dict[str, Tensor]:
        return {"episodes_begun": torch.tensor(self._begun), "seed": torch.tensor([self._seed])}

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        begun, seed = (int(take(state, name, (1,))) for name in ("episodes_begun", "seed"))
        self._seed = seed
        self._reseed(one_seed([seed, begun]))
        self._begin(self._every if self.facts.on_device else self._every_array)
        self._begun[0], self._lost[0] = begun + 1, True


def one_seed(seed: Seeds) -> int:
    """Return a seed for all envs, below 2^31; of several their hash, None gives any."""
    if seed is None:
        return int(np.random.default_rng().integers(EPISODE_SEEDS))
    if isinstance(seed, int):
        return seed % EPISODE_SEEDS
    digest = hashlib.sha256(np.array(seed, np.int64).tobytes()).digest()
    return int.from_bytes(digest[:8], "little") % EPISODE_SEEDS
