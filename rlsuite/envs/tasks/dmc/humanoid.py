"""Humanoid (stand, walk, run): a humanoid with 21 joints stands up, walks and runs wherever it likes."""

import math
from functools import partial

from rlsuite.envs.arrays import Array, flat, join, namespace, norm
from rlsuite.envs.tasks.base import Fields, Task
from rlsuite.envs.tasks.dmc.base import ZX, ZZ, into_frame, suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

TORSO, HEAD = 1, 2  # bodies
EXTREMITIES = {"left_hand": 16, "left_foot": 10, "right_hand": 13, "right_foot": 7}  # bodies, as observed
VELOCITY = 0  # sensordata: velocity of the centre of mass, m/s
ROOT = 7  # positions of the free joint, not observed
STAND_HEIGHT = 1.4  # metres, of the head
UPRIGHT_COSINE = 0.9
REST_SPEED = 2.0  # m/s at which standing still is worth a tenth
SPEEDS = {"stand": 0.0, "walk": 1.0, "run": 10.0}  # m/s, full reward from here


def observation(fields: Fields) -> Array:
    """Joint angles, height of the head, hands and feet, the vertical, velocities: `[B, 67]`.

    Hands, feet and the vertical are seen from the torso.
    """
    xpos, frame = fields["xpos"], fields["xmat"][:, TORSO]
    limbs = (
        namespace(xpos).stack([xpos[:, body] for body in EXTREMITIES.values()], axis=1)
        - xpos[:, TORSO : TORSO + 1]
    )
    parts = (
        fields["qpos"][:, ROOT:],
        xpos[:, HEAD, 2:],
        flat(into_frame(limbs, frame)),
        frame[:, ZX : ZZ + 1],
        fields["sensordata"][:, VELOCITY : VELOCITY + 3],
        fields["qvel"],
    )
    return join(*parts)


def reward(speed: float, fields: Fields, action: Array) -> Array:
    """Standing upright with little force, times standing still or the part of the wanted speed, `[B]`."""
    standing = tolerance(fields["xpos"][:, HEAD, 2], (STAND_HEIGHT, math.inf), margin=STAND_HEIGHT / 4)
    upright = tolerance(
        fields["xmat"][:, TORSO, ZZ],
        (UPRIGHT_COSINE, math.inf),
        margin=UPRIGHT_COSINE + 1,
        value_at_margin=0,
        sigmoid="linear",
    )
    effort = tolerance(action, margin=1, value_at_margin=0, sigmoid="quadratic").mean(-1)
    stood = (4 + effort) / 5 * (standing * upright)
    velocity = fields["sensordata"][:, VELOCITY : VELOCITY + 2]
    if speed == 0:
        return stood * tolerance(velocity, margin=REST_SPEED).mean(-1)
    moved = tolerance(
        norm(velocity),
        (speed, math.inf),
        margin=speed,
        value_at_margin=0,
        sigmoid="linear",
    )
    return stood * ((5 * moved + 1) / 6)


def _task(name: str, speed: float) -> Task:
    return suite_task(
        "humanoid",
        name,
        substeps=5,
        dt=0.025,
        fields=("xpos", "xmat", "sensordata"),
        places={
            "body torso": TORSO,
            "body head": HEAD,
            **{f"body {limb}": body for limb, body in EXTREMITIES.items()},
            "sensor torso_subtreelinvel": VELOCITY,
        },
        observation=observation,
        reward=partial(reward, speed),
    )


TASKS = {name: _task(name, speed) for name, speed in SPEEDS.items()}
