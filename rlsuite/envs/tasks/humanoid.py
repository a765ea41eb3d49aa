"""Humanoid: a two-legged robot with arms runs in the direction of x without falling.

Source: Gymnasium's humanoid_v5; humanoid_v4 observes 28 numbers more (always zero), has no cost of contacts,
and also pays for staying healthy on the step on which it falls.
"""

from dataclasses import dataclass
from math import inf

from rlsuite.envs.arrays import Array, clip, constant, copied, doubled, flat, sum_of_squares
from rlsuite.envs.tasks.base import Fields, Infos, ResetNoise, Task, Values, gymnasium_model, never
from rlsuite.envs.tasks.common import (
    BODY_OPTIONS_OF_V5,
    BodyOptions,
    body_observation,
    step_seconds,
    survival,
    whereabouts,
    within,
)

VERSIONS = {
    "v5": frozenset[str](),
    "v4": BODY_OPTIONS_OF_V5 | {"xml_file", "frame_skip", "contact_cost_weight", "contact_cost_range"},
}
TENDONS = ("tendon_length", "tendon_velocity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(BodyOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "humanoid.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1.25
    """Reward per m/s of the centre of mass in the direction of x."""
    ctrl_cost_weight: float = 0.1
    """Cost per squared unit of action."""
    contact_cost_weight: float = 5e-7
    """Cost per squared newton (or newton metre) of contact force."""
    contact_cost_range: tuple[float, float] = (-inf, 10.0)
    """The cost of contacts is clipped to it."""
    healthy_reward: float = 5.0
    """Reward per healthy step."""
    terminate_when_unhealthy: bool = True
    """End the episode with the first step that is not healthy."""
    healthy_z_range: tuple[float, float] = (1.0, 2.0)
    """Of the torso's height, metres."""
    reset_noise_scale: float = 0.01
    """Half width of the noise on positions and velocities."""


def build(version: str, options: Options) -> Task:
    """Build the task; observations `[B, 348]` by default (376 in v4) are what `body_observation` shows."""
    load = gymnasium_model(options.xml_file)
    model = load()
    dt = step_seconds(model, options)
    masses, total_mass = constant(model.body_mass.copy()), float(model.body_mass.sum())
    observed, observation = body_observation(version, options)
    charged = version != "v4"

    def centre(fields: Fields) -> Array:
        # Added one after the other, as numpy's einsum does.
        weighted = masses(fields["xipos"]) * fields["xipos"][:, :, 0]
        return weighted.cumsum(-1)[:, -1] / total_mass

    def healthy(fields: Fields) -> Array:
        return within(fields["qpos"][:, 2], options.healthy_z_range)

    def terminated(fields: Fields) -> Array:
        return ~healthy(fields)

    bonus = survival(version, options.healthy_reward, options.terminate_when_unhealthy, healthy)

    def effort(action: Array) -> Array:
        return options.ctrl_cost_weight * sum_of_squares(doubled(action))

    def contacts(fields: Fields) -> Array:
        cost = options.contact_cost_weight * sum_of_squares(flat(fields["cfrc_ext"]))
        return clip(cost, *options.contact_cost_range)

    def reward(x_before: Array, fields: Fields, action: Array, ended: Array) -> Array:
        velocity = (centre(fields) - x_before) / dt
        cost = effort(action) + contacts(fields) if charged else effort(action)
        return options.forward_reward_weight * velocity + bonus(fields, ended) - cost

    def place(fields: Fields) -> Array:
        weighted = masses(fields["xipos"])[:, None] * fields["xipos"][:, :, :2]
        return weighted.cumsum(1)[:, -1] / total_mass

    def where(fields: Fields) -> Values:
        return whereabouts(place(fields) if version == "v4" else copied(fields["qpos"][:, :2]))

    def reset_infos(fields: Fields) -> Values:
        if version == "v4":
            return {}
        tendons = {name: copied(fields[f"ten_{name.removeprefix('tendon_')}"]) for name in TENDONS}
        return {**where(fields), **tendons}

    def infos(place_before: Array, fields: Fields, action: Array, ended: Array) -> Values:
        velocity = (place(fields) - place_before) / dt
        forward = options.forward_reward_weight * velocity[:, 0]
        named: Values
        if version == "v4":
            named = {
                **where(fields),
                "reward_linvel": forward,
                "forward_reward": forward,
                "reward_quadctrl": -effort(action),
                "reward_alive": bonus(fields, ended),
            }
        else:
            named = {
                **reset_infos(fields),
                "reward_forward": forward,
                "reward_ctrl": -effort(action),
                "reward_contact": -contacts(fields),
                "reward_survive": bonus(fields, ended),
            }
        return {"x_velocity": velocity[:, 0], "y_velocity": velocity[:, 1], **named}

    return Task(
        name="Humanoid",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=dt,
        fields=tuple(
            dict.fromkeys(("qpos", "qvel", "xipos", *observed, *(("cfrc_ext",) if charged else ())))
        ),
        initial=ResetNoise(qpos=options.reset_noise_scale, qvel=options.reset_noise_scale),
        observation=observation,
        before=centre,
        reward=reward,
        terminated=terminated if options.terminate_when_unhealthy else never,
        camera={"trackbodyid": 1, "distance": 4.0, "lookat": (0.0, 0.0, 2.0), "elevation": -20.0},
        infos=Infos(
            step=infos,
            reset=reset_infos,
            before=place,
            fields=() if version == "v4" else ("ten_length", "ten_velocity"),
        ),
        arrays="any",
    )
