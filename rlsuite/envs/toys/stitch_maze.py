"""StitchMaze: from one corner of a maze like an H to the far one; for recorded routes that must be joined.

A point walks at most 0.25 along each axis and slips. Every step costs 1 until the goal ends the episode, so
minus the return is the number of steps, and an episode of 100 has failed. The recorded routes of
`rlsuite data make stitch` lead from corner to corner, none of them from the start to the goal. Our choice.

Legend: B envs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.base import EnvFacts, Outcome, VectorEnv, take
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.seeding import WORDS, Seeds, make_generators, pack_generators, unpack_generators

SIZE = 5.0  # of the square: corridors of width 1 along its left and right sides, a passage between them
CORRIDOR, PASSAGE = 1.0, (2.0, 3.0)
STRIDE, SLIP = 0.25, 0.02  # largest move and largest random move along each axis in a step
CORNERS = {"home": (0.5, 0.5), "top_left": (0.5, 4.5), "bottom_right": (4.5, 0.5), "goal": (4.5, 4.5)}
GOAL_RADIUS = 0.5
START_SPREAD = 0.25  # of starts around a corner, along each axis
MAX_EPISODE_STEPS = 100
RETURNS = (-64.0, 0.0)  # discounted by 0.99
PICTURE = 200  # pixels of a picture's sides


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Constructor arguments."""

    start: Literal["home", "top_left", "bottom_right"] = "home"
    """The corner around which episodes begin; the task's is `home`."""


def free(position: np.ndarray) -> np.ndarray:
    """Return whether positions `[..., 2]` are in the maze, `[...]` bool."""
    x, y = position[..., 0], position[..., 1]
    inside = (x >= 0) & (x <= SIZE) & (y >= 0) & (y <= SIZE)
    corridor = (x <= CORRIDOR) | (x >= SIZE - CORRIDOR)
    return inside & (corridor | ((y >= PASSAGE[0]) & (y <= PASSAGE[1])))


def move(position: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return positions `[B, 2]` after a step `[B, 2]`, without what leads into a wall, axis by axis."""
    for axis in range(2):
        wanted = position.copy()
        wanted[:, axis] += step[:, axis]
        position = np.where(free(wanted)[:, None], wanted, position)
    return position


def reached(position: np.ndarray) -> np.ndarray:
    """Return whether positions `[B, 2]` are at the goal, `[B]` bool."""
    return np.linalg.norm(position - CORNERS["goal"], axis=-1) < GOAL_RADIUS


class Env(VectorEnv):
    """B mazes; see `VectorEnv` for the contract. Observation: the place, from -1 to 1 along both axes.

    Args:
        env_id: the name that makes this environment again.
        arguments: where episodes begin.
        num_envs: B.
        options: see `EnvOptions`; the time limit is 100 unless one is given.
    """

    def __init__(self, env_id: str, arguments: Options, num_envs: int, options: EnvOptions) -> None:
        facts = EnvFacts(
            env_id=env_id,
            engine_name="none",
            num_envs=num_envs,
            observation_size=2,
            action_low=-np.ones(2),
            action_high=np.ones(2),
            max_episode_steps=options.max_episode_steps or MAX_EPISODE_STEPS,
            packages=(),
            return_range=RETURNS,
        )
        super().__init__(facts, options)
        self.arguments = arguments
        self._position = np.zeros((num_envs, 2))
        self._set_seed(options.seed)

    def frame(self, index: int = 0) -> np.ndarray:
        """Return a picture of one env, uint8 `[height, width, 3]`: walls grey, goal green, point black."""
        places = (np.arange(PICTURE) + 0.5) / PICTURE * SIZE
        grid = np.stack(np.meshgrid(places, places[::-1]), axis=-1)
        picture = np.full((PICTURE, PICTURE, 3), 150, np.uint8)
        picture[free(grid)] = 255
        picture[free(grid) & reached(grid)] = (60, 170, 60)
        picture[np.linalg.norm(grid - self._position[index], axis=-1) < 2.5 * SIZE / PICTURE] = 0
        return picture

    def _set_seed(self, seed: Seeds) -> None:
        self._generators = make_generators(seed, self.num_envs)

    def _advance(self, action: np.ndarray) -> Outcome:
        slip = SLIP * np.stack([generator.uniform(-1, 1, 2) for generator in self._generators])
        self._position = move(self._position, STRIDE * action + slip)
        return Outcome(self._seen(), -np.ones(self.num_envs), reached(self._position))

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        for index in np.flatnonzero(mask):
            spread = self._generators[index].uniform(-START_SPREAD, START_SPREAD, 2)
            self._position[index] = CORNERS[self.arguments.start] + spread
        return self._seen()

    def _seen(self) -> np.ndarray:
        return self._position * (2 / SIZE) - 1

    def _own_state(self) -> dict[str, Tensor]:
        return {
            "position": torch.from_numpy(self._position.copy()),
            "generators": pack_generators(self._generators),
        }

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        position = take(state, "position", self._position.shape)
        self._generators = unpack_generators(take(state, "generators", (self.num_envs, WORDS)))
        self._position = position.double().numpy().copy()
