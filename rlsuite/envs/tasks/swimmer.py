"""Swimmer: a chain of three links swims to the right in a viscous fluid; never terminates.

Source: Gymnasium's swimmer_v5 (v4 is the same task).
"""

from dataclasses import replace

import torch
from torch import Tensor

from rlsuite.envs.tasks.base import Fields, ResetNoise, Task, gymnasium_model

SUBSTEPS = 4
DT = SUBSTEPS * 0.01  # seconds
CONTROL_COST = 1e-4  # reward per squared unit of action


def observation(fields: Fields) -> Tensor:
    """Positions without x and y, then velocities: `[B, 8]`."""
    return torch.cat((fields["qpos"][:, 2:], fields["qvel"]), dim=-1)


def before(fields: Fields) -> Tensor:
    """Position x of the front tip, `[B]`, metres."""
    return fields["qpos"][:, 0].clone()


def reward(x_before: Tensor, fields: Fields, action: Tensor, ended: Tensor) -> Tensor:
    """Forward velocity in m/s less a cost of control, `[B]`."""
    velocity = (fields["qpos"][:, 0] - x_before) / DT
    return velocity - CONTROL_COST * torch.linalg.vecdot(action, action)


def terminated(fields: Fields) -> Tensor:
    """Never, `[B]`."""
    return fields["qpos"].new_zeros(fields["qpos"].shape[0], dtype=torch.bool)


V5 = Task(
    name="Swimmer",
    version="v5",
    model=gymnasium_model("swimmer.xml"),
    substeps=SUBSTEPS,
    dt=DT,
    initial=ResetNoise(qpos=0.1, qvel=0.1),
    observation=observation,
    before=before,
    reward=reward,
    terminated=terminated,
)
VERSIONS = {"v5": V5, "v4": replace(V5, version="v4")}
