"""Dog (stand, walk, trot, run): a dog with 73 joints and 38 actuators stands, walks, trots and runs."""

import math
from functools import partial

from rlsuite.envs.arrays import Array, join, namespace
from rlsuite.envs.tasks.base import Fields, Task
from rlsuite.envs.tasks.dmc.base import ZX, ZZ, into_frame, suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

TORSO, PELVIS, SKULL = 1, 9, 48  # bodies
INERTIAL, VELOCITY, TOUCH, FORCES, END = 0, 9, 15, 19, 31  # sensordata
ROOT_POSITIONS, ROOT_VELOCITIES = 7, 6  # of the free joint, not observed
STAND_FRACTION = 0.9  # of the height in the model's pose
STAND_HEIGHTS = (STAND_FRACTION * 0.41522, STAND_FRACTION * 0.4761649)  # metres: torso, pelvis
BODY_WEIGHT = 100.46366448928629  # newtons
UPRIGHT_COSINE = math.cos(math.radians(30))
SPEEDS = {"stand": None, "walk": 1.0, "trot": 3.0, "run": 9.0}  # m/s, full reward from here to twice that


def observation(fields: Fields) -> Array:
    """Joints, heights, verticals, velocity, inertial sensors, forces, touch, activations: `[B, 223]`.

    The verticals are those of skull, torso and pelvis in their own frames; the velocity is the centre of
    mass's in the torso's frame.
    """
    sensors, xpos, xmat = fields["sensordata"], fields["xpos"], fields["xmat"]
    parts = (
        fields["qpos"][:, ROOT_POSITIONS:],
        fields["qvel"][:, ROOT_VELOCITIES:],
        xpos[:, TORSO, 2:],
        xpos[:, PELVIS, 2:],
        *(xmat[:, body, ZX:] for body in (SKULL, TORSO, PELVIS)),
        velocity(fields),
        sensors[:, INERTIAL:VELOCITY],
        sensors[:, FORCES:END],
        sensors[:, TOUCH:FORCES],
        fields["act"],
    )
    return join(*parts)


def velocity(fields: Fields) -> Array:
    """Velocity of the centre of mass in the torso's frame, `[B, 3]`, m/s."""
    linear = fields["sensordata"][:, None, VELOCITY : VELOCITY + 3]
    return into_frame(linear, fields["xmat"][:, TORSO])[:, 0]


def stand(fields: Fields, action: Array) -> Array:
    """Torso and pelvis high, skull, torso and pelvis upright, the weight on the paws: a product, `[B]`."""
    xpos, xmat = fields["xpos"], fields["xmat"]
    factors = [
        tolerance(xpos[:, body, 2], (height, math.inf), margin=height)
        for body, height in zip((TORSO, PELVIS), STAND_HEIGHTS, strict=True)
    ]
    factors += [
        tolerance(
            xmat[:, body, ZZ],
            (UPRIGHT_COSINE, math.inf),
            margin=UPRIGHT_COSINE + 1,
            value_at_margin=0,
            sigmoid="linear",
        )
        for body in (SKULL, TORSO, PELVIS)
    ]
    weight = tolerance(
        fields["sensordata"][:, TOUCH:FORCES].sum(-1),
        (BODY_WEIGHT, math.inf),
        margin=BODY_WEIGHT,
        value_at_margin=0.9,
        sigmoid="linear",
    )
    return namespace(weight).stack([*factors, weight]).prod(0)


def move(speed: float, fields: Fields, action: Array) -> Array:
    """Standing, times up to five for the speed ahead, `[B]`."""
    ahead = tolerance(
        velocity(fields)[:, 0],
        (speed, 2 * speed),
        margin=max(1.0, speed),
        value_at_margin=0,
        sigmoid="linear",
    )
    return stand(fields, action) * ((4 * ahead + 1) / 5)


def _task(name: str, speed: float | None) -> Task:
    return suite_task(
        "dog",
        name,
        substeps=3,
        dt=0.015,
        fields=("act", "xpos", "xmat", "sensordata"),
        places={
            "body torso": TORSO,
            "body pelvis": PELVIS,
            "body skull": SKULL,
            "sensor accelerometer": INERTIAL,
            "sensor velocimeter": INERTIAL + 3,
            "sensor gyro": INERTIAL + 6,
            "sensor torso_linvel": VELOCITY,
            "sensor palm_L": TOUCH,
            "sensor sole_R": TOUCH + 3,
            "sensor foot_L": FORCES,
            "sensor hand_R": END - 3,
        },
        observation=observation,
        reward=stand if speed is None else partial(move, speed),
    )


TASKS = {name: _task(name, speed) for name, speed in SPEEDS.items()}
