"""Environments whose state cannot be read: an episode is its seed and the actions since.

Every episode starts from a seed of its own; to resume, a world is reset with that seed and the actions
taken since are played again, which is exact wherever the environment is deterministic given its seed.

Legend: B worlds, O observation, A action, T env steps of one episode so far.
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

    Subclasses implement `_begin`, `_play`, `_replay` and `frame`. World i draws the seeds of its episodes
    from a generator of its own, so no world's episodes depend on when another one was reset.
    """

    @abstractmethod
    def _begin(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start episodes from `seeds` `[B]` in the worlds of `mask`; return `[B, O]`, other rows free."""

    @abstractmethod
    def _play(self, action: np.ndarray) -> Outcome:
        """Step all worlds under actions `[B, A]` in the environment's units."""

    @abstractmethod
    def _replay(self, world: int, seed: int, actions: np.ndarray) -> None:
        """Reset one world with `seed`, then take `actions` `[T, A]`."""

    def episode_seeds(self) -> list[int]:
        """Return the seed of every world's running episode."""
        return self._seeds.tolist()

    def _set_seed(self, seed: Seeds) -> None:
        worlds = self.num_envs
        self._generators = make_generators(seed, worlds)
        self._seeds = np.zeros(worlds, np.int64)
        self._actions: list[list[np.ndarray]] = [[] for _ in range(worlds)]
        self._ended = np.ones(worlds, np.bool_)  # nothing can be stepped before the first reset
        self._observation = torch.zeros(worlds, self._observation_size, dtype=torch.float64)

    def _advance(self, action: Tensor) -> Outcome:
        if self._ended.any():
            worlds = np.flatnonzero(self._ended).tolist()
            raise EnvironmentFailure(f"{self.env_id}: episode over in world(s) {worlds}; reset them first")
        taken = action.numpy()
        for history, row in zip(self._actions, taken, strict=True):
            history.append(row.copy())
        outcome = self._play(taken)
        self._observation = outcome.observation.clone()  # what is handed out may be written to
        ended = outcome.terminated
        self._ended = (ended if outcome.truncated is None else ended | outcome.truncated).numpy().copy()
        return outcome

    def _restart(self, mask: Tensor) -> Tensor:
        chosen = mask.numpy()
        for world in np.flatnonzero(chosen):
            self._seeds[world] = self._generators[world].integers(EPISODE_SEEDS)
            self._actions[world] = []
        fresh = torch.from_numpy(self._begin(chosen, self._seeds))
        self._observation = torch.where(mask.unsqueeze(-1), fresh, self._observation)
        self._ended = self._ended & ~chosen
        return self._observation.clone()

    def _own_state(self) -> dict[str, Tensor]:
        lengths = [len(history) for history in self._actions]
        rows = [row for history in self._actions for row in history]
        actions = np.stack(rows) if rows else np.zeros((0, self._action_shape[1]))
        return {
            "generators": pack_generators(self._generators),
            "episode_seed": torch.from_numpy(self._seeds.copy()),
            "episode_length": torch.tensor(lengths, dtype=torch.int64),
            "episode_ended": torch.from_numpy(self._ended.copy()),
            "episode_actions": torch.from_numpy(actions),
            "observation": self._observation.clone(),
        }

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        worlds, width = self._action_shape
        generators = unpack_generators(take(state, "generators", (worlds, WORDS)))
        seeds = take(state, "episode_seed", (worlds,)).numpy().copy()
        lengths = take(state, "episode_length", (worlds,)).tolist()
        ended = take(state, "episode_ended", (worlds,)).numpy().copy()
        if min(lengths) < 0:
            raise DataError("environment state episode_length: a length is negative")
        actions = take(state, "episode_actions", (sum(lengths), width)).numpy()
        observation = take(state, "observation", (worlds, self._observation_size)).clone()
        cuts = np.cumsum(lengths)[:-1]
        for world, history in enumerate(np.split(actions, cuts)):
            self._replay(world, int(seeds[world]), history)
            self._actions[world] = [row.copy() for row in history]
        self._generators, self._seeds, self._ended = generators, seeds, ended
        self._observation = observation
