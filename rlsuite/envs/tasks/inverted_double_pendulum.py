"""InvertedDoublePendulum: a cart keeps two poles, one on top of the other, upright.

Source: Gymnasium's inverted_double_pendulum_v5; v4 observes two more constraint forces (always zero) and
also pays on the step on which the poles fall.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rlsuite.envs.tasks.base import Fields, ResetNoise, Task, gymnasium_model

SUBSTEPS = 5
DT = SUBSTEPS * 0.01  # seconds
HEALTHY_REWARD = 10.0  # per step
TIP_TARGET = 2.0  # metres
TIP_MIN = 1.0  # metres
SIDEWAYS_COST = 0.01  # reward per squared metre of the tip's x
HEIGHT_COST = 1.0  # reward per squared metre between the tip and TIP_TARGET
VELOCITY_COST = (1e-3, 5e-3)  # reward per squared rad/s of the lower and the upper pole
CLIP = 10.0  # of observed velocities and forces, in their own units


def observe(fields: Fields, forces: int) -> Tensor:
    """Cart x, sines, cosines, clipped velocities and the first constraint `forces`: `[B, 8 + forces]`."""
    qpos = fields["qpos"]
    angles = qpos[:, 1:]
    # On a CPU `polar` calls the C library's sine, as numpy does; torch.sin is a last digit off at times.
    circle = torch.polar(torch.ones_like(angles), angles)
    return torch.cat(
        (
            qpos[:, :1],
            circle.imag,
            circle.real,
            fields["qvel"].clamp(-CLIP, CLIP),
            fields["qfrc_constraint"][:, :forces].clamp(-CLIP, CLIP),
        ),
        dim=-1,
    )


def observation(fields: Fields) -> Tensor:
    """Observe the force that constrains the cart, `[B, 9]`."""
    return observe(fields, forces=1)


def observation_v4(fields: Fields) -> Tensor:
    """Observe the constraint forces of all joints, `[B, 11]`."""
    return observe(fields, forces=3)


def terminated(fields: Fields) -> Tensor:
    """Tip too low, `[B]`."""
    return fields["site_xpos"][:, 0, 2] <= TIP_MIN


def costs(fields: Fields) -> Tensor:
    """Distance of the tip from its target and speed of the poles, weighed, `[B]`."""
    tip_x, tip_z = fields["site_xpos"][:, 0, 0], fields["site_xpos"][:, 0, 2]
    lower, upper = fields["qvel"][:, 1], fields["qvel"][:, 2]
    distance = SIDEWAYS_COST * tip_x.square() + HEIGHT_COST * (tip_z - TIP_TARGET).square()
    return distance + VELOCITY_COST[0] * lower.square() + VELOCITY_COST[1] * upper.square()


def reward(_: Tensor, fields: Fields, action: Tensor, ended: Tensor) -> Tensor:
    """Bonus while the tip is up, less the costs, `[B]`."""
    return HEALTHY_REWARD * ~ended - costs(fields)


def reward_v4(_: Tensor, fields: Fields, action: Tensor, ended: Tensor) -> Tensor:
    """Bonus on every step, less the costs, `[B]`."""
    return HEALTHY_REWARD - costs(fields)


V5 = Task(
    name="InvertedDoublePendulum",
    version="v5",
    model=gymnasium_model("inverted_double_pendulum.xml"),
    substeps=SUBSTEPS,
    dt=DT,
    fields=("qpos", "qvel", "qfrc_constraint", "site_xpos"),
    initial=ResetNoise(qpos=0.1, qvel=0.1, normal_qvel=True),
    observation=observation,
    reward=reward,
    terminated=terminated,
)
VERSIONS = {"v5": V5, "v4": replace(V5, version="v4", observation=observation_v4, reward=reward_v4)}
