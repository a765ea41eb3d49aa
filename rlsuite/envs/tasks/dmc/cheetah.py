"""Cheetah (run): a planar robot with two legs runs to the right."""

import math

from rlsuite.envs.arrays import Array, join
from rlsuite.envs.tasks.base import Fields
from rlsuite.envs.tasks.dmc.base import suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

SPEED = 0  # sensordata: velocity x of the centre of mass, m/s
RUN_SPEED = 10.0  # m/s, full reward from here


def observation(fields: Fields) -> Array:
    """Positions without x, then velocities: `[B, 17]`."""
    return join(fields["qpos"][:, 1:], fields["qvel"])


def reward(fields: Fields, action: Array) -> Array:
    """Speed as a part of the wanted one, `[B]`."""
    return tolerance(
        fields["sensordata"][:, SPEED],
        (RUN_SPEED, math.inf),
        margin=RUN_SPEED,
        value_at_margin=0,
        sigmoid="linear",
    )


TASKS = {
    "run": suite_task(
        "cheetah",
        "run",
        substeps=1,
        dt=0.01,
        fields=("sensordata",),
        places={"sensor torso_subtreelinvel": SPEED},
        observation=observation,
        reward=reward,
    )
}
