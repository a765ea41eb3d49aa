"""HumanoidStandup: a robot with arms and legs lies on the ground and gets up; never terminates.

Source: Gymnasium's humanoidstandup_v5; v4 observes 28 numbers more, which are always zero.
"""

from dataclasses import dataclass
from math import inf

from rlsuite.envs.arrays import Array, clip, copied, doubled, flat, sum_of_squares
from rlsuite.envs.tasks.base import Fields, Infos, ResetNoise, Task, Values, gymnasium_model
from rlsuite.envs.tasks.common import (
    BodyOptions,
    body_observation,
    option_names,
    step_seconds,
)

CONSTANT_REWARD = 1.0  # per step


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(BodyOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "humanoidstandup.xml"
    frame_skip: int = 5
    uph_cost_weight: float = 1.0
    """Gymnasium takes it and makes no use of it; so do we."""
    ctrl_cost_weight: float = 0.1
    """Cost per squared unit of action."""
    impact_cost_weight: float = 5e-7
    """Cost per squared newton (or newton metre) of contact force."""
    impact_cost_range: tuple[float, float] = (-inf, 10.0)
    """The cost of contacts is clipped to it."""
    reset_noise_scale: float = 0.01
    """Half width of the noise on positions and velocities."""


VERSIONS = {"v5": frozenset[str](), "v4": option_names(Options)}


def build(version: str, options: Options) -> Task:
    """Build the task; observations `[B, 348]` by default (376 in v4) are what `body_observation` shows."""
    load = gymnasium_model(options.xml_file)
    model = load()
    timestep, rest_height = model.opt.timestep, float(model.qpos0[2])
    observed, observation = body_observation(version, options)

    def rise(fields: Fields) -> Array:
        return fields["qpos"][:, 2] / timestep

    def effort(action: Array) -> Array:
        return options.ctrl_cost_weight * sum_of_squares(doubled(action))

    def impacts(fields: Fields) -> Array:
        cost = options.impact_cost_weight * sum_of_squares(flat(fields["cfrc_ext"]))
        return clip(cost, *options.impact_cost_range)

    def reward(_: Array, fields: Fields, action: Array, ended: Array) -> Array:
        return rise(fields) - effort(action) - impacts(fields) + CONSTANT_REWARD

    def reset_infos(fields: Fields) -> Values:
        if version == "v4":
            return {}
        return {
            "x_position": copied(fields["qpos"][:, 0]),
            "y_position": copied(fields["qpos"][:, 1]),
            "z_distance_from_origin": fields["qpos"][:, 2] - rest_height,
            "tendon_length": copied(fields["ten_length"]),
            "tendon_velocity": copied(fields["ten_velocity"]),
        }

    def infos(_: Array, fields: Fields, action: Array, ended: Array) -> Values:
        return {
            **reset_infos(fields),
            "reward_linup": rise(fields),
            "reward_quadctrl": -effort(action),
            "reward_impact": -impacts(fields),
        }

    return Task(
        name="HumanoidStandup",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=step_seconds(model, options),
        fields=tuple(dict.fromkeys(("qpos", "qvel", *observed, "cfrc_ext"))),
        initial=ResetNoise(qpos=options.reset_noise_scale, qvel=options.reset_noise_scale),
        observation=observation,
        reward=reward,
        camera={"trackbodyid": 1, "distance": 4.0, "lookat": (0.0, 0.0, 0.8925), "elevation": -20.0},
        infos=Infos(
            step=infos,
            reset=reset_infos,
            fields=() if version == "v4" else ("ten_length", "ten_velocity"),
        ),
        arrays="any",
    )
