"""Reacher (easy, hard): an arm of two links in the plane reaches a target; the hard one is smaller.

The goal is the target's position in the plane, metres.
"""

from functools import partial
from typing import Any

import mujoco
import numpy as np

from rlsuite.envs.arrays import Array, join, norm
from rlsuite.envs.tasks.base import Fields, Task
from rlsuite.envs.tasks.dmc.base import suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

TARGET, FINGER = 6, 9  # geoms
FINGER_RADIUS = 0.01  # metres
TARGET_RADII = {"easy": 0.05, "hard": 0.015}  # metres


def observation(fields: Fields) -> Array:
    """Positions, way from the finger to the target, velocities: `[B, 6]`."""
    return join(fields["qpos"], way(fields), fields["qvel"])


def way(fields: Fields) -> Array:
    """Way from the finger to the target, `[B, 2]`, metres."""
    return fields["goal"] - fields["geom_xpos"][:, FINGER, :2]


def reward(radius: float, fields: Fields, action: Array) -> Array:
    """1 where finger and target touch, `[B]`."""
    return tolerance(norm(way(fields)), (0, radius + FINGER_RADIUS))


def goal(physics: Any) -> np.ndarray:
    """Read the target's position off dm_control's model, `[2]`."""
    return physics.model.geom_pos[TARGET, :2].copy()


def show_goal(model: mujoco.MjModel, position: np.ndarray) -> None:
    """Put the target where it is."""
    model.geom_pos[TARGET, :2] = position


def _task(name: str, radius: float) -> Task:
    return suite_task(
        "reacher",
        name,
        substeps=1,
        dt=0.02,
        fields=("geom_xpos",),
        places={"geom target": TARGET, "geom finger": FINGER},
        observation=observation,
        reward=partial(reward, radius),
        goal=goal,
        goal_size=2,
        show_goal=show_goal,
    )


TASKS = {name: _task(name, radius) for name, radius in TARGET_RADII.items()}
