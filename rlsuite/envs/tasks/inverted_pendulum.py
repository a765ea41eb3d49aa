"""InvertedPendulum: a cart keeps a pole upright.

Source: Gymnasium's inverted_pendulum_v5; inverted_pendulum_v4 also pays on the step on which it falls.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rlsuite.envs.tasks.base import Fields, ResetNoise, Task, gymnasium_model

SUBSTEPS = 2
DT = SUBSTEPS * 0.02  # seconds
ANGLE_LIMIT = 0.2  # radians


def observation(fields: Fields) -> Tensor:
    """Positions of cart and pole, then their velocities: `[B, 4]`."""
    return torch.cat((fields["qpos"], fields["qvel"]), dim=-1)


def terminated(fields: Fields) -> Tensor:
    """Fallen, `[B]`."""
    return (fields["qpos"][:, 1].abs() > ANGLE_LIMIT) | ~torch.isfinite(observation(fields)).all(-1)


def reward(_: Tensor, fields: Fields, action: Tensor, ended: Tensor) -> Tensor:
    """One while the pole stands, `[B]`."""
    return (~ended).to(action.dtype)


def reward_v4(_: Tensor, fields: Fields, action: Tensor, ended: Tensor) -> Tensor:
    """One on every step, `[B]`."""
    return action.new_ones(action.shape[0])


V5 = Task(
    name="InvertedPendulum",
    version="v5",
    model=gymnasium_model("inverted_pendulum.xml"),
    substeps=SUBSTEPS,
    dt=DT,
    initial=ResetNoise(qpos=0.01, qvel=0.01),
    observation=observation,
    reward=reward,
    terminated=terminated,
    camera={"trackbodyid": 0, "distance": 2.04},
)
VERSIONS = {"v5": V5, "v4": replace(V5, version="v4", reward=reward_v4)}
