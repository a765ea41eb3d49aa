"""Walker2d: a two-legged planar robot walks to the right without falling.

Source: Gymnasium's walker2d_v5; walker2d_v4 has another model (a more slippery left foot) and also pays
for staying healthy on the step on which it falls.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rlsuite.envs.tasks.base import Fields, ResetNoise, Task, gymnasium_model

SUBSTEPS = 4
DT = SUBSTEPS * 0.002  # seconds
HEALTHY_REWARD = 1.0  # per step
CONTROL_COST = 1e-3  # reward per squared unit of action
HEIGHT_MIN, HEIGHT_MAX = 0.8, 2.0  # metres
ANGLE_LIMIT = 1.0  # radians
VELOCITY_CLIP = 10.0  # of observed velocities, m/s or rad/s


def observation(fields: Fields) -> Tensor:
    """Positions without x, then clipped velocities: `[B, 17]`."""
    velocity = fields["qvel"].clamp(-VELOCITY_CLIP, VELOCITY_CLIP)
    return torch.cat((fields["qpos"][:, 1:], velocity), dim=-1)


def before(fields: Fields) -> Tensor:
    """Position x of the torso, `[B]`, metres."""
    return fields["qpos"][:, 0].clone()


def healthy(fields: Fields) -> Tensor:
    """Upright and at walking height, `[B]` bool."""
    height, angle = fields["qpos"][:, 1], fields["qpos"][:, 2]
    return (height > HEIGHT_MIN) & (height < HEIGHT_MAX) & (angle.abs() < ANGLE_LIMIT)


def progress(x_before: Tensor, fields: Fields, action: Tensor) -> Tensor:
    """Forward velocity in m/s less a cost of control, `[B]`."""
    velocity = (fields["qpos"][:, 0] - x_before) / DT
    return velocity - CONTROL_COST * torch.linalg.vecdot(action, action)


def reward(x_before: Tensor, fields: Fields, action: Tensor, ended: Tensor) -> Tensor:
    """Progress, and a bonus where not fallen, `[B]`."""
    return progress(x_before, fields, action) + HEALTHY_REWARD * ~ended


def reward_v4(x_before: Tensor, fields: Fields, action: Tensor, ended: Tensor) -> Tensor:
    """Progress and a bonus on every step, the one of the fall included, `[B]`."""
    return progress(x_before, fields, action) + HEALTHY_REWARD


def terminated(fields: Fields) -> Tensor:
    """Fallen, `[B]`."""
    return ~healthy(fields)


V5 = Task(
    name="Walker2d",
    version="v5",
    model=gymnasium_model("walker2d_v5.xml"),
    substeps=SUBSTEPS,
    dt=DT,
    initial=ResetNoise(qpos=5e-3, qvel=5e-3),
    observation=observation,
    before=before,
    reward=reward,
    terminated=terminated,
    camera={"trackbodyid": 2, "distance": 4.0, "lookat": (0.0, 0.0, 1.15), "elevation": -20.0},
)
VERSIONS = {
    "v5": V5,
    "v4": replace(V5, version="v4", model=gymnasium_model("walker2d.xml"), reward=reward_v4),
}
