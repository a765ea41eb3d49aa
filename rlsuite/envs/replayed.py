"""Environments whose state cannot be read: an episode is its seed and the actions since.

Every episode starts from a seed of its own; to resume, an env is reset with that seed and the actions
taken since are played again, which is exact wherever the environment is deterministic given its seed.

Legend: B envs, O observation, A action, T env steps of one episode so far.
"""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.base import Outcome, VectorEnv, take
from rlsuite.envs.seeding import (
    EPISODE_SEEDS,
    WORDS,
    Seeds,
    make_generators,
    pack_generators,
    unpack_generators,
)
from rlsuite.errors import DataError, EnvironmentFailure


class ReplayedEnv(VectorEnv):
    """A `VectorEnv` that resumes by playing the running episodes again.

    Subclasses implement `_begin`, `_play`, `_replay` and `frame`. Env i draws the seeds of its episodes
    from a generator of its own, so no env's episodes depend on when another one was reset.
    """

    @abstractmethod
    def _begin(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start episodes from `seeds` `[B]` in the envs of `mask`; return `[B, O]`, other rows free."""

    @abstractmethod
    def _play(self, action: np.ndarray) -> Outcome:
        """Step all envs under actions `[B, A]` in the environment's units."""

    @abstractmethod
    def _replay(self, index: int, seed: int, actions: np.ndarray) -> None:
        """Reset one env with `seed`, then take `actions` `[T, A]`."""

    def episode_seeds(self) -> list[int]:
        """Return the seed of every env's running episode."""
        return self._seeds.tolist()

    def _set_seed(self, seed: Seeds) -> None:
        count = self.num_envs
        self._generators = make_generators(seed, count)
        self._seeds = np.zeros(count, np.int64)
        self._history: list[list[np.ndarray]] = [[] for _ in range(count)]
        self._ended = np.ones(count, np.bool_)  # nothing can be stepped before the first reset
        self._observation = np.zeros((count, self.facts.observation_size))

    def _advance(self, action: np.ndarray) -> Outcome:
        if self._ended.any():
            over = np.flatnonzero(self._ended).tolist()
            raise EnvironmentFailure(f"{self.env_id}: episode over in env(s) {over}; reset them first")
        for history, row in zip(self._history, action, strict=True):
            history.append(row.copy())
        outcome = self._play(action)
        self._observation[...] = outcome.observation
        ended = outcome.terminated
        self._ended[...] = ended if outcome.truncated is None else ended | outcome.truncated
        return outcome

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        for index in np.flatnonzero(mask):
            self._seeds[index] = self._generators[index].integers(EPISODE_SEEDS)
            self._history[index] = []
        fresh = self._begin(mask, self._seeds)
        self._observation[mask] = fresh[mask]
        self._ended[mask] = False
        return self._observation

    def _own_state(self) -> dict[str, Tensor]:
        lengths = [len(history) for history in self._history]
        rows = [row for history in self._history for row in history]
        actions = np.stack(rows) if rows else np.zeros((0, self._action_shape[1]))
        return {
            "generators": pack_generators(self._generators),
            "episode_seed": torch.from_numpy(self._seeds.copy()),
            "episode_length": torch.tensor(lengths, dtype=torch.int64),
            "episode_ended": torch.from_numpy(self._ended.copy()),
            "episode_actions": torch.from_numpy(actions),
            "observation": torch.from_numpy(self._observation.copy()),
        }

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        count, width = self._action_shape
        generators = unpack_generators(take(state, "generators", (count, WORDS)))
        seeds = take(state, "episode_seed", (count,)).numpy().copy()
        lengths = take(state, "episode_length", (count,)).tolist()
        ended = take(state, "episode_ended", (count,)).numpy().copy()
        if min(lengths) < 0:
            raise DataError("environment state episode_length: a length is negative")
        actions = take(state, "episode_actions", (sum(lengths), width)).numpy()
        observation = take(state, "observation", (count, self.facts.observation_size)).numpy().copy()
        cuts = np.cumsum(lengths)[:-1]
        for index, history in enumerate(np.split(actions, cuts)):
            self._replay(index, int(seeds[index]), history)
            self._history[index] = [row.copy() for row in history]
        self._generators, self._seeds, self._ended = generators, seeds, ended
        self._observation = observation
