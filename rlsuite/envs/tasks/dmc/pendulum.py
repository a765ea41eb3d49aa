"""Pendulum (swingup): a pendulum too heavy for its motor swings up and balances."""

import math

from rlsuite.envs.arrays import Array, join
from rlsuite.envs.tasks.base import Fields
from rlsuite.envs.tasks.dmc.base import XZ, ZZ, suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

POLE = 1  # body
COSINE_RANGE = (math.cos(math.radians(8)), 1.0)


def observation(fields: Fields) -> Array:
    """Cosine and sine of the angle, angular velocity: `[B, 3]`."""
    pole = fields["xmat"][:, POLE]
    return join(pole[:, ZZ, None], pole[:, XZ, None], fields["qvel"])


def reward(fields: Fields, action: Array) -> Array:
    """1 where the pole is within 8 degrees of upright, `[B]`."""
    return tolerance(fields["xmat"][:, POLE, ZZ], COSINE_RANGE)


TASKS = {
    "swingup": suite_task(
        "pendulum",
        "swingup",
        substeps=1,
        dt=0.02,
        fields=("xmat",),
        places={"body pole": POLE},
        observation=observation,
        reward=reward,
    )
}
