"""Walker (stand, walk, run): a planar biped stands up, walks and runs to the right."""

import math
from functools import partial

from rlsuite.envs.arrays import Array, flat, join, namespace
from rlsuite.envs.tasks.base import Fields, Task
from rlsuite.envs.tasks.dmc.base import XX, XZ, ZZ, suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

TORSO = 1  # body
SPEED = 0  # sensordata: velocity x of the centre of mass, m/s
STAND_HEIGHT = 1.2  # metres
SPEEDS = {"stand": 0.0, "walk": 1.0, "run": 8.0}  # m/s, full reward from here


def observation(fields: Fields) -> Array:
    """Orientation of every body in the plane, height of the torso, velocities: `[B, 24]`."""
    turned = fields["xmat"][:, TORSO:]
    orientations = namespace(turned).stack((turned[..., XX], turned[..., XZ]), axis=-1)
    return join(flat(orientations), fields["xpos"][:, TORSO, 2:], fields["qvel"])


def reward(speed: float, fields: Fields, action: Array) -> Array:
    """Standing upright, times up to six for the speed, `[B]`."""
    height = fields["xpos"][:, TORSO, 2]
    standing = tolerance(height, (STAND_HEIGHT, math.inf), margin=STAND_HEIGHT / 2)
    upright = (1 + fields["xmat"][:, TORSO, ZZ]) / 2
    stood = (3 * standing + upright) / 4
    if speed == 0:
        return stood
    moved = tolerance(
        fields["sensordata"][:, SPEED],
        (speed, math.inf),
        margin=speed / 2,
        value_at_margin=0.5,
        sigmoid="linear",
    )
    return stood * (5 * moved + 1) / 6


def _task(name: str, speed: float) -> Task:
    return suite_task(
        "walker",
        name,
        substeps=10,
        dt=0.025,
        fields=("xpos", "xmat", "sensordata"),
        places={"body torso": TORSO, "sensor torso_subtreelinvel": SPEED},
        observation=observation,
        reward=partial(reward, speed),
    )


TASKS = {name: _task(name, speed) for name, speed in SPEEDS.items()}
