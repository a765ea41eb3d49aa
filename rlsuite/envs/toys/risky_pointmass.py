"""RiskyPointMass: walk to the origin, through a disc where every step may cost 10, or around it.

The risk task of the STAC paper (arXiv 2601.00737, its section on risk sensitivity), after Ma et al. 2021
(arXiv 2107.06106). A point in the unit square moves by at most 0.1 along each axis and slips; a step costs
its distance to the origin and 0.1 more.

Legend: B envs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.arrays import Array, clip, constant, namespace, norm
from rlsuite.envs.base import EnvFacts, Outcome, VectorEnv, take
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.seeding import WORDS, Seeds, make_generators, pack_generators, unpack_generators

STRIDE = 0.1  # largest move along each axis in a step
SLIP = 0.02  # largest random move along each axis in a step
CENTER, RADIUS = (0.5, 0.5), 0.3  # of the disc
GOAL_RADIUS = 0.05
START_RANGE = (0.3, 1.0)  # of both coordinates
STEP_COST = 0.1
PENALTY = 10.0
RISK, RISK_DECAY = 0.1, 4.0  # chance of the penalty in the disc: RISK exp(-RISK_DECAY (distance / RADIUS)^2)
MAX_EPISODE_STEPS = 200  # of the author's code; the text names none
RETURNS = (-40.0, 0.0)  # discounted by 0.99, of policies that walk
PICTURE = 200  # pixels of a picture's sides

_center = constant(np.array(CENTER))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Constructor arguments."""

    variant: Literal["paper", "code"] = "paper"
    """`paper` is its text: starts outside the disc, a slip of at most 0.02, reward and end of the place
    reached (on which the text is silent: our choice). `code` is the author's: starts inside, too, a slip of
    at most 0.002, reward and end of the place left."""


def distance_to_center(position: Array) -> Array:
    """Distance of positions `[..., 2]` to the middle of the disc, `[...]`."""
    return norm(position - _center(position))


def risk(position: Array) -> Array:
    """Chance of the penalty at positions `[..., 2]`, `[...]`: zero outside the disc."""
    distance, functions = distance_to_center(position), namespace(position)
    inside = RISK * functions.exp(-RISK_DECAY * (distance / RADIUS) ** 2)
    return functions.where(distance <= RADIUS, inside, 0.0)


def move(position: Array, action: Array, slip: Array) -> Array:
    """Next positions `[B, 2]`: at most a stride, and the slip, kept in the unit square."""
    return clip(position + STRIDE * action + slip, 0.0, 1.0)


def reward(position: Array, draw: Array) -> Array:
    """Reward at positions `[B, 2]`, `[B]`; `draw` is uniform in [0, 1), `[B]`, and decides the penalty."""
    return -norm(position) - STEP_COST - PENALTY * (draw < risk(position))


def reached(position: Array) -> Array:
    """Return whether positions `[B, 2]` are at the goal, `[B]` bool."""
    return norm(position) < GOAL_RADIUS


class Env(VectorEnv):
    """B points in unit squares of their own; see `VectorEnv` for the contract. Observation: the position.

    Args:
        env_id: the name that makes this environment again.
        arguments: which of the two descriptions to follow.
        num_envs: B.
        options: see `EnvOptions`; the time limit is the 200 of the author's code unless one is given.
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
        """Return a picture of one env, uint8 `[height, width, 3]`: disc red, goal green, point black."""
        places = (np.arange(PICTURE) + 0.5) / PICTURE
        grid = np.stack(np.meshgrid(places, places[::-1]), axis=-1)
        picture = np.full((PICTURE, PICTURE, 3), 255, np.uint8)
        picture[distance_to_center(grid) <= RADIUS] = (230, 120, 120)
        picture[reached(grid)] = (60, 170, 60)
        picture[norm(grid - self._position[index]) < 2.5 / PICTURE] = 0
        return picture

    def _set_seed(self, seed: Seeds) -> None:
        self._generators = make_generators(seed, self.num_envs)

    def _advance(self, action: np.ndarray) -> Outcome:
        draws = np.stack([generator.random(3) for generator in self._generators])
        as_told = self.arguments.variant == "paper"
        slip = SLIP * (2 * draws[:, :2] - 1)
        left = self._position
        self._position = move(left, action, slip if as_told else STRIDE * slip)
        judged = self._position if as_told else left
        return Outcome(self._position, reward(judged, draws[:, 2]), reached(judged))

    def _restart(self, mask: np.ndarray) -> np.ndarray:
        for index in np.flatnonzero(mask):
            self._position[index] = self._start(self._generators[index])
        return self._position

    def _start(self, generator: np.random.Generator) -> np.ndarray:
        while True:
            place = generator.uniform(*START_RANGE, size=2)
            if self.arguments.variant == "code" or distance_to_center(place) > RADIUS:
                return place

    def _own_state(self) -> dict[str, Tensor]:
        return {
            "position": torch.from_numpy(self._position.copy()),
            "generators": pack_generators(self._generators),
        }

    def _load_own_state(self, state: dict[str, Tensor]) -> None:
        position = take(state, "position", self._position.shape)
        self._generators = unpack_generators(take(state, "generators", (self.num_envs, WORDS)))
        self._position = position.double().numpy().copy()
