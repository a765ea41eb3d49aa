"""InvertedDoublePendulum: a cart keeps two poles, one on top of the other, upright.

Source: Gymnasium's inverted_double_pendulum_v5; v4 observes two more constraint forces (always zero) and
also pays on the step on which the poles fall.
"""

from dataclasses import dataclass

from rlsuite.envs.arrays import Array, circle, clip, join
from rlsuite.envs.tasks.base import Fields, Infos, ResetNoise, Task, Values, gymnasium_model
from rlsuite.envs.tasks.common import TaskOptions, option_names, step_seconds

TIP_TARGET = 2.0  # metres
TIP_MIN = 1.0  # metres
SIDEWAYS_COST = 0.01  # reward per squared metre of the tip's x
VELOCITY_COST = (1e-3, 5e-3)  # reward per squared rad/s of the lower and the upper pole
CLIP = 10.0  # of observed velocities and forces, in their own units


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TaskOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "inverted_double_pendulum.xml"
    frame_skip: int = 5
    healthy_reward: float = 10.0
    """Reward per step with the tip up."""
    reset_noise_scale: float = 0.1
    """Half width of the positions' noise (metres, radians) and std of the velocities' (m/s, rad/s)."""


VERSIONS = {"v5": frozenset[str](), "v4": option_names(Options)}


def build(version: str, options: Options) -> Task:
    """Build the task.

    Observations are the cart's x, sines, cosines, clipped velocities, and the force that constrains the cart,
    `[B, 9]`; v4 has the forces on all joints, `[B, 11]`.
    """
    load = gymnasium_model(options.xml_file)
    forces = 3 if version == "v4" else 1

    def observation(fields: Fields) -> Array:
        qpos = fields["qpos"]
        cosines, sines = circle(qpos[:, 1:])
        velocities = clip(fields["qvel"], -CLIP, CLIP)
        shown = clip(fields["qfrc_constraint"][:, :forces], -CLIP, CLIP)
        return join(qpos[:, :1], sines, cosines, velocities, shown)

    def terminated(fields: Fields) -> Array:
        return fields["site_xpos"][:, 0, 2] <= TIP_MIN

    def distance(fields: Fields) -> Array:
        tip_x, tip_z = fields["site_xpos"][:, 0, 0], fields["site_xpos"][:, 0, 2]
        return SIDEWAYS_COST * tip_x**2 + (tip_z - TIP_TARGET) ** 2

    def haste(fields: Fields) -> Array:
        lower, upper = fields["qvel"][:, 1], fields["qvel"][:, 2]
        return VELOCITY_COST[0] * lower**2 + VELOCITY_COST[1] * upper**2

    def bonus(ended: Array) -> Array:
        return options.healthy_reward * (1.0 if version == "v4" else ~ended)

    def reward(_: Array, fields: Fields, action: Array, ended: Array) -> Array:
        return bonus(ended) - distance(fields) - haste(fields)

    def infos(_: Array, fields: Fields, action: Array, ended: Array) -> Values:
        if version == "v4":
            return {}
        return {
            "reward_survive": bonus(ended),
            "distance_penalty": -distance(fields),
            "velocity_penalty": -haste(fields),
        }

    return Task(
        name="InvertedDoublePendulum",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=step_seconds(load(), options),
        fields=("qpos", "qvel", "qfrc_constraint", "site_xpos"),
        initial=ResetNoise(qpos=options.reset_noise_scale, qvel=options.reset_noise_scale, normal_qvel=True),
        observation=observation,
        reward=reward,
        terminated=terminated,
        camera={"distance": 4.1225, "lookat": (0.0, 0.0, 0.1225)},
        infos=Infos(step=infos),
        arrays="any",
    )
