"""Hopper (stand, hop): a planar robot on one leg stands up and hops to the right."""

import math

from rlsuite.envs.arrays import Array, join, namespace
from rlsuite.envs.tasks.base import Fields, Task
from rlsuite.envs.tasks.dmc.base import Reward, suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

TORSO, FOOT = 1, 5  # bodies
SPEED = 0  # sensordata: velocity x of the centre of mass, m/s
TOUCH = 3  # sensordata: force on toe and heel, newtons
STAND_HEIGHTS = (0.6, 2.0)  # metres, torso over foot
HOP_SPEED = 2.0  # m/s, full reward from here


def observation(fields: Fields) -> Array:
    """Positions without x, velocities, logarithms of the foot's touch: `[B, 15]`."""
    touch = fields["sensordata"][:, TOUCH : TOUCH + 2]
    return join(fields["qpos"][:, 1:], fields["qvel"], namespace(touch).log1p(touch))


def standing(fields: Fields) -> Array:
    """1 where the torso is high enough above the foot, `[B]`."""
    height = fields["xipos"][:, TORSO, 2] - fields["xipos"][:, FOOT, 2]
    return tolerance(height, STAND_HEIGHTS)


def stand(fields: Fields, action: Array) -> Array:
    """Standing, at best with little force, `[B]`."""
    effort = tolerance(action, margin=1, value_at_margin=0, sigmoid="quadratic").mean(-1)
    return standing(fields) * ((effort + 4) / 5)


def hop(fields: Fields, action: Array) -> Array:
    """Standing, times the part of the wanted speed, `[B]`."""
    speed = fields["sensordata"][:, SPEED]
    hopping = tolerance(
        speed, (HOP_SPEED, math.inf), margin=HOP_SPEED / 2, value_at_margin=0.5, sigmoid="linear"
    )
    return standing(fields) * hopping


def _task(name: str, reward: Reward) -> Task:
    return suite_task(
        "hopper",
        name,
        substeps=4,
        dt=0.02,
        fields=("xipos", "sensordata"),
        places={
            "body torso": TORSO,
            "body foot": FOOT,
            "sensor torso_subtreelinvel": SPEED,
            "sensor touch_toe": TOUCH,
            "sensor touch_heel": TOUCH + 1,
        },
        observation=observation,
        reward=reward,
    )


TASKS = {"stand": _task("stand", stand), "hop": _task("hop", hop)}
