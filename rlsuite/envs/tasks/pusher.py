"""Pusher: an arm with seven joints pushes an object to a goal on a table; never terminates.

Source: Gymnasium's pusher_v5.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.arrays import Array, join, norm, sum_of_squares
from rlsuite.envs.tasks.base import Fields, Infos, Start, Task, Values, gymnasium_model, symmetric
from rlsuite.envs.tasks.common import TaskOptions, body_id, step_seconds

VERSIONS = {"v5": frozenset[str]()}
REFUSED = {
    "v4": "has a model that MuJoCo 3 simulates differently, and Gymnasium refuses it, too "
    "(https://github.com/Farama-Foundation/Gymnasium/issues/950); use Pusher-v5."
}
JOINTS = 7
OBJECT, GOAL = slice(-4, -2), slice(-2, None)  # their places among the positions
OBJECT_X, OBJECT_Y = (-0.3, 0.0), (-0.2, 0.2)  # metres from its rest pose
FREE_RADIUS = 0.17  # metres around the goal where no object starts
VELOCITY_NOISE = 5e-3  # rad/s, half width, of the joints
# Of all objects 62 % are far enough from the goal: all of 32 are too near once in 3e13 starts.
CANDIDATES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TaskOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "pusher_v5.xml"
    frame_skip: int = 5
    reward_near_weight: float = 0.5
    """Cost per metre between fingertip and object."""
    reward_dist_weight: float = 1.0
    """Cost per metre between object and goal."""
    reward_control_weight: float = 0.1
    """Cost per squared unit of action."""


@dataclass(frozen=True, slots=True)
class ArmAndObject:
    """Initial states: the arm at rest, the object somewhere on the table but not too near to the goal."""

    def draw(self, rng: np.random.Generator, qpos0: np.ndarray, qvel0: np.ndarray) -> Start:
        """Return one state; objects are drawn until one is far enough from the goal."""
        qpos = qpos0.copy()
        while True:
            place = np.concatenate((rng.uniform(*OBJECT_X, size=1), rng.uniform(*OBJECT_Y, size=1)))
            if np.linalg.norm(place) > FREE_RADIUS:
                break
        qpos[OBJECT], qpos[GOAL] = place, 0
        qvel = qvel0 + rng.uniform(low=-VELOCITY_NOISE, high=VELOCITY_NOISE, size=qvel0.shape)
        qvel[-4:] = 0
        return Start(qpos, qvel)

    def sample(self, count: int, qpos0: Tensor, qvel0: Tensor, generator: torch.Generator) -> Start:
        """Return `count` states; the first of 32 objects that is far enough from the goal is taken."""
        uniform = torch.rand(
            count, CANDIDATES, 2, dtype=qpos0.dtype, device=qpos0.device, generator=generator
        )
        low_x, high_x = OBJECT_X
        low_y, high_y = OBJECT_Y
        places = torch.stack(
            (low_x + (high_x - low_x) * uniform[..., 0], low_y + (high_y - low_y) * uniform[..., 1]), dim=-1
        )
        first = (torch.linalg.vector_norm(places, dim=-1) > FREE_RADIUS).byte().argmax(dim=-1)
        qpos = qpos0.repeat(count, 1)
        qpos[:, OBJECT] = places.take_along_dim(first[:, None, None], dim=1).squeeze(1)
        qpos[:, GOAL] = 0
        qvel = qvel0 + VELOCITY_NOISE * symmetric(count, qvel0, generator)
        qvel[:, -4:] = 0
        return Start(qpos, qvel)


def build(version: str, options: Options) -> Task:
    """Build the task.

    Observations are positions and velocities of the arm's joints, and the places of fingertip, object and
    goal, `[B, 23]`.
    """
    load = gymnasium_model(options.xml_file)
    model = load()
    tip, thing, goal = (body_id(model, name) for name in ("tips_arm", "object", "goal"))

    def observation(fields: Fields) -> Array:
        places = [fields["xpos"][:, body] for body in (tip, thing, goal)]
        return join(fields["qpos"][:, :JOINTS], fields["qvel"][:, :JOINTS], *places)

    def infos(_: Array, fields: Fields, action: Array, ended: Array) -> Values:
        places = fields["xpos"]
        return {
            "reward_dist": -norm(places[:, thing] - places[:, goal]) * options.reward_dist_weight,
            "reward_ctrl": -sum_of_squares(action) * options.reward_control_weight,
            "reward_near": -norm(places[:, thing] - places[:, tip]) * options.reward_near_weight,
        }

    def reward(_: Array, fields: Fields, action: Array, ended: Array) -> Array:
        return paid(infos(_, fields, action, ended))

    def paid(said: Values) -> Array:
        return said["reward_dist"] + said["reward_ctrl"] + said["reward_near"]

    return Task(
        name="Pusher",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=step_seconds(model, options),
        max_episode_steps=100,
        fields=("qpos", "qvel", "xpos"),
        initial=ArmAndObject(),
        observation=observation,
        reward=reward,
        camera={"distance": 4.0},
        infos=Infos(step=infos, reward=paid),
        arrays="any",
    )
