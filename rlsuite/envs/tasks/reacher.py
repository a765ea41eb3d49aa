"""Reacher: an arm with two joints moves its fingertip to a random target in the plane; never terminates.

Source: Gymnasium's reacher_v5; reacher_v4 pays for the distance before the step instead of after it, and also
observes the difference in height (always zero).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.arrays import Array, circle, join, norm, sum_of_squares
from rlsuite.envs.tasks.base import Fields, Infos, Start, Task, Values, gymnasium_model, nothing, symmetric
from rlsuite.envs.tasks.common import TaskOptions, body_id, option_names, step_seconds

TARGET_RADIUS = 0.2  # metres; targets are uniform in this disc
POSITION_NOISE = 0.1  # radians, half width
VELOCITY_NOISE = 5e-3  # rad/s, half width
TARGET = 2  # the last positions and velocities are the target's


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TaskOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "reacher.xml"
    frame_skip: int = 2
    reward_dist_weight: float = 1.0
    """Cost per metre between fingertip and target."""
    reward_control_weight: float = 1.0
    """Cost per squared unit of action."""


VERSIONS = {"v5": frozenset[str](), "v4": option_names(Options)}


@dataclass(frozen=True, slots=True)
class ArmAndTarget:
    """Initial states: the arm near its rest pose, the target anywhere in its disc and at rest."""

    def draw(self, rng: np.random.Generator, qpos0: np.ndarray, qvel0: np.ndarray) -> Start:
        """Return one state; targets are drawn from the square around the disc until one lies inside."""
        qpos = rng.uniform(low=-POSITION_NOISE, high=POSITION_NOISE, size=qpos0.shape) + qpos0
        while True:
            target = rng.uniform(low=-TARGET_RADIUS, high=TARGET_RADIUS, size=TARGET)
            if np.linalg.norm(target) < TARGET_RADIUS:
                break
        qpos[-TARGET:] = target
        qvel = qvel0 + rng.uniform(low=-VELOCITY_NOISE, high=VELOCITY_NOISE, size=qvel0.shape)
        qvel[-TARGET:] = 0
        return Start(qpos, qvel)

    def sample(self, count: int, qpos0: Tensor, qvel0: Tensor, generator: torch.Generator) -> Start:
        """Return `count` states; targets come from radius and angle, so none has to be drawn again."""
        qpos = qpos0 + POSITION_NOISE * symmetric(count, qpos0, generator)
        qvel = qvel0 + VELOCITY_NOISE * symmetric(count, qvel0, generator)
        uniform = torch.rand(2, count, dtype=qpos0.dtype, device=qpos0.device, generator=generator)
        radius, angle = TARGET_RADIUS * uniform[0].sqrt(), 2 * math.pi * uniform[1]
        qpos[:, -TARGET], qpos[:, -TARGET + 1] = radius * angle.cos(), radius * angle.sin()
        qvel[:, -TARGET:] = 0
        return Start(qpos, qvel)


def build(version: str, options: Options) -> Task:
    """Build the task.

    Observations are cosines and sines of the joints, the target's position, the joints' velocities, and the
    way from target to fingertip, `[B, 10]` (v4: `[B, 11]`).
    """
    load = gymnasium_model(options.xml_file)
    model = load()
    fingertip, target = body_id(model, "fingertip"), body_id(model, "target")
    axes = 3 if version == "v4" else 2

    def gap(fields: Fields) -> Array:
        return fields["xpos"][:, fingertip] - fields["xpos"][:, target]

    def observation(fields: Fields) -> Array:
        qpos = fields["qpos"]
        velocities = fields["qvel"][:, :2]
        return join(*circle(qpos[:, :2]), qpos[:, 2:], velocities, gap(fields)[:, :axes])

    def infos(gap_before: Array, fields: Fields, action: Array, ended: Array) -> Values:
        way = gap_before if version == "v4" else gap(fields)
        return {
            "reward_dist": -norm(way) * options.reward_dist_weight,
            "reward_ctrl": -sum_of_squares(action) * options.reward_control_weight,
        }

    def reward(gap_before: Array, fields: Fields, action: Array, ended: Array) -> Array:
        return paid(infos(gap_before, fields, action, ended))

    def paid(said: Values) -> Array:
        return said["reward_dist"] + said["reward_ctrl"]

    return Task(
        name="Reacher",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=step_seconds(model, options),
        max_episode_steps=50,
        fields=("qpos", "qvel", "xpos"),
        initial=ArmAndTarget(),
        observation=observation,
        before=gap if version == "v4" else nothing,
        reward=reward,
        camera={"distance": 0.8, "lookat": (0.0, 0.0, 0.0), "elevation": -70.0},
        infos=Infos(step=infos, reward=paid),
        arrays="any",
    )
