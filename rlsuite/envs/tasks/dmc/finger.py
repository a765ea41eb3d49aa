"""Finger (spin, turn_easy, turn_hard): a finger spins a free body, or turns its tip to a target.

The goal of the two turning tasks is the target's position (x, z), metres.
"""

from functools import partial
from typing import Any

import mujoco
import numpy as np

from rlsuite.envs.arrays import Array, join, namespace, norm, number
from rlsuite.envs.tasks.base import Fields, Task
from rlsuite.envs.tasks.dmc.base import suite_task

TARGET = 0  # site
JOINTS, VELOCITIES, HINGE, TIP, SPINNER, TOUCH = 0, 2, 4, 5, 11, 14  # sensordata
PLACES = {
    "site target": TARGET,
    "sensor proximal": JOINTS,
    "sensor distal": JOINTS + 1,
    "sensor proximal_velocity": VELOCITIES,
    "sensor distal_velocity": VELOCITIES + 1,
    "sensor hinge_velocity": HINGE,
    "sensor tip": TIP,
    "sensor spinner": SPINNER,
    "sensor touchtop": TOUCH,
    "sensor touchbottom": TOUCH + 1,
}
SUBSTEPS, DT = 2, 0.02  # seconds
SPIN_VELOCITY = -15.0  # rad/s of the hinge, reward from here down
TARGET_RADII = {"turn_easy": 0.07, "turn_hard": 0.03}  # metres


def observation(fields: Fields) -> Array:
    """Angles of the finger, tip of the body from its hinge, velocities, logarithms of touch: `[B, 9]`."""
    sensors = fields["sensordata"]
    parts = (
        sensors[:, JOINTS:VELOCITIES],
        tip(fields),
        sensors[:, VELOCITIES:TIP],
        namespace(sensors).log1p(sensors[:, TOUCH : TOUCH + 2]),
    )
    return join(*parts)


def tip(fields: Fields) -> Array:
    """Position (x, z) of the body's tip from its hinge, `[B, 2]`, metres."""
    return in_plane(fields, TIP) - in_plane(fields, SPINNER)


def in_plane(fields: Fields, sensor: int) -> Array:
    """Elements x and z of a position in sensordata, `[B, 2]`, metres."""
    return fields["sensordata"][:, sensor : sensor + 3 : 2]


def spin(fields: Fields, action: Array) -> Array:
    """1 where the body spins fast enough, `[B]`."""
    hinge = fields["sensordata"][:, HINGE]
    return number(hinge <= SPIN_VELOCITY, hinge)


def target(fields: Fields) -> Array:
    """Position (x, z) of the target from the hinge, `[B, 2]`, metres."""
    return fields["goal"] - in_plane(fields, SPINNER)


def distance(radius: float, fields: Fields) -> Array:
    """Distance of the tip to the target's surface, negative inside, `[B]`, metres."""
    return norm(target(fields) - tip(fields)) - radius


def turn_observation(radius: float, fields: Fields) -> Array:
    """The observation, the target and the distance to it: `[B, 12]`."""
    return join(observation(fields), target(fields), distance(radius, fields)[:, None])


def turn(radius: float, fields: Fields, action: Array) -> Array:
    """1 where the tip is in the target, `[B]`."""
    way = distance(radius, fields)
    return number(way <= 0, way)


def goal(physics: Any) -> np.ndarray:
    """Read the target's position (x, z) off dm_control's model, `[2]`."""
    return physics.model.site_pos[TARGET, ::2].copy()


def show_goal(model: mujoco.MjModel, position: np.ndarray) -> None:
    """Put the target where it is."""
    model.site_pos[TARGET, ::2] = position


def _turn_task(name: str, radius: float) -> Task:
    return suite_task(
        "finger",
        name,
        substeps=SUBSTEPS,
        dt=DT,
        fields=("sensordata",),
        places=PLACES,
        observation=partial(turn_observation, radius),
        reward=partial(turn, radius),
        goal=goal,
        goal_size=2,
        show_goal=show_goal,
    )


SPIN = suite_task(
    "finger",
    "spin",
    substeps=SUBSTEPS,
    dt=DT,
    fields=("sensordata",),
    places=PLACES,
    observation=observation,
    reward=spin,
)
TASKS = {"spin": SPIN} | {name: _turn_task(name, radius) for name, radius in TARGET_RADII.items()}
