"""Quadruped (walk, run): a robot on four legs of three joints each walks and runs where its nose points."""

import math
from functools import partial

from rlsuite.envs.arrays import Array, join, namespace
from rlsuite.envs.tasks.base import Fields, Task
from rlsuite.envs.tasks.dmc.base import ZZ, suite_task
from rlsuite.envs.tasks.dmc.rewards import tolerance

TORSO = 1  # body
IMU, VELOCITY, FORCES, END = 0, 6, 9, 33  # sensordata: accelerometer and gyro, own velocity, toes' forces
ROOT_POSITIONS, ROOT_VELOCITIES = 7, 6  # of the free joint, not observed
SPEEDS = {"walk": 0.5, "run": 5.0}  # m/s, full reward from here
POOL_SIZE = 1024  # states; a draw lifts the robot off the ground by centimetres, about 8 ms


def observation(fields: Fields) -> Array:
    """Joints and activations, velocity, uprightness, inertial sensors, forces at the toes: `[B, 78]`."""
    sensors = fields["sensordata"]
    parts = (
        fields["qpos"][:, ROOT_POSITIONS:],
        fields["qvel"][:, ROOT_VELOCITIES:],
        fields["act"],
        sensors[:, VELOCITY:FORCES],
        fields["xmat"][:, TORSO, ZZ:],
        sensors[:, IMU:VELOCITY],
        namespace(sensors).arcsinh(sensors[:, FORCES:END]),
    )
    return join(*parts)


def reward(speed: float, fields: Fields, action: Array) -> Array:
    """Uprightness times the part of the wanted speed, `[B]`."""
    upright = tolerance(
        fields["xmat"][:, TORSO, ZZ], (1, math.inf), margin=2, value_at_margin=0, sigmoid="linear"
    )
    moved = tolerance(
        fields["sensordata"][:, VELOCITY],
        (speed, math.inf),
        margin=speed,
        value_at_margin=0.5,
        sigmoid="linear",
    )
    return upright * moved


def _task(name: str, speed: float) -> Task:
    return suite_task(
        "quadruped",
        name,
        substeps=4,
        dt=0.02,
        fields=("act", "xmat", "sensordata"),
        places={
            "body torso": TORSO,
            "sensor imu_accel": IMU,
            "sensor imu_gyro": IMU + 3,
            "sensor velocimeter": VELOCITY,
            "sensor force_toe_front_left": FORCES,
            "sensor torque_toe_front_left": FORCES + 12,
            "sensor center_of_mass": END,
        },
        observation=observation,
        reward=partial(reward, speed),
        pool_size=POOL_SIZE,
    )


TASKS = {name: _task(name, speed) for name, speed in SPEEDS.items()}
