"""InvertedPendulum: a cart keeps a pole upright.

Source: Gymnasium's inverted_pendulum_v5; inverted_pendulum_v4 also pays on the step on which it falls.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlsuite.envs.tasks.base import Fields, ResetNoise, Task, gymnasium_model
from rlsuite.envs.tasks.common import TaskOptions, option_names, step_seconds

ANGLE_LIMIT = 0.2  # radians


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TaskOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "inverted_pendulum.xml"
    frame_skip: int = 2
    reset_noise_scale: float = 0.01
    """Half width of the noise on positions and velocities."""


VERSIONS = {"v5": frozenset[str](), "v4": option_names(Options)}


def build(version: str, options: Options) -> Task:
    """Build the task; observations are the positions of cart and pole, then their velocities, `[B, 4]`."""
    load = gymnasium_model(options.xml_file)

    def observation(fields: Fields) -> Tensor:
        return torch.cat((fields["qpos"], fields["qvel"]), dim=-1)

    def terminated(fields: Fields) -> Tensor:
        return (fields["qpos"][:, 1].abs() > ANGLE_LIMIT) | ~torch.isfinite(observation(fields)).all(-1)

    def reward(_: Tensor, fields: Fields, action: Tensor, ended: Tensor) -> Tensor:
        paid = torch.ones_like(ended) if version == "v4" else ~ended
        return paid.to(action.dtype)

    return Task(
        name="InvertedPendulum",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=step_seconds(load(), options),
        initial=ResetNoise(qpos=options.reset_noise_scale, qvel=options.reset_noise_scale),
        observation=observation,
        reward=reward,
        terminated=terminated,
        camera={"trackbodyid": 0, "distance": 2.04},
    )
