"""Ant: a four-legged robot runs in the direction of x without rolling over.

Source: Gymnasium's ant_v5; ant_v4 leaves contact forces out of observation and reward unless asked for them
(`use_contact_forces`), and also pays for staying healthy on the step on which it rolls over.
"""

from dataclasses import dataclass

from rlsuite.envs.arrays import Array, all_finite, clip, copied, flat, join, sum_of_squares
from rlsuite.envs.tasks.base import Fields, Infos, ResetNoise, Task, Values, gymnasium_model, never
from rlsuite.envs.tasks.common import TaskOptions, body_id, step_seconds, survival, whereabouts

VERSIONS = {
    "v5": frozenset({"use_contact_forces"}),
    "v4": frozenset({"frame_skip", "forward_reward_weight", "main_body", "include_cfrc_ext_in_observation"}),
}
BODY_OF_V4 = "torso"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TaskOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "ant.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1.0
    """Reward per m/s of the main body in the direction of x."""
    ctrl_cost_weight: float = 0.5
    """Cost per squared unit of action."""
    contact_cost_weight: float = 5e-4
    """Cost per squared newton (or newton metre) of clipped contact force."""
    healthy_reward: float = 1.0
    """Reward per healthy step."""
    main_body: int | str = 1
    """Number or name of the body whose speed is rewarded."""
    terminate_when_unhealthy: bool = True
    """End the episode with the first step that is not healthy."""
    healthy_z_range: tuple[float, float] = (0.2, 1.0)
    """Of the torso's height, metres, both ends included."""
    contact_force_range: tuple[float, float] = (-1.0, 1.0)
    """Contact forces are clipped to it, newtons and newton metres."""
    reset_noise_scale: float = 0.1
    """Half width of the positions' noise (metres, radians) and std of the velocities' (m/s, rad/s)."""
    exclude_current_positions_from_observation: bool = True
    """Leave out x and y."""
    include_cfrc_ext_in_observation: bool = True
    """Observe the contact forces on the bodies."""
    use_contact_forces: bool = False
    """v4: observe the contact forces on the bodies and the world, and pay for them."""


def build(version: str, options: Options) -> Task:
    """Build the task; observations are positions, velocities and clipped contact forces.

    `[B, 105]` by default, 27 numbers without contact forces (v4's default), 2 more with x and y.
    """
    load = gymnasium_model(options.xml_file)
    model = load()
    dt = step_seconds(model, options)
    skip = 2 if options.exclude_current_positions_from_observation else 0
    if version == "v4":
        body = body_id(model, BODY_OF_V4)
        observed = charged = options.use_contact_forces
        first_body = 0
    else:
        body = body_id(model, options.main_body)
        observed, charged = options.include_cfrc_ext_in_observation, True
        first_body = 1

    def forces(fields: Fields) -> Array:
        return clip(fields["cfrc_ext"], *options.contact_force_range)

    def observation(fields: Fields) -> Array:
        shown = (flat(forces(fields)[:, first_body:]),) if observed else ()
        return join(fields["qpos"][:, skip:], fields["qvel"], *shown)

    def healthy(fields: Fields) -> Array:
        height, (low, high) = fields["qpos"][:, 2], options.healthy_z_range
        finite = all_finite(fields["qpos"]) & all_finite(fields["qvel"])
        return finite & (height >= low) & (height <= high)

    def terminated(fields: Fields) -> Array:
        return ~healthy(fields)

    def before(fields: Fields) -> Array:
        return copied(fields["xpos"][:, body, 0])

    bonus = survival(version, options.healthy_reward, options.terminate_when_unhealthy, healthy)

    def effort(action: Array) -> Array:
        return options.ctrl_cost_weight * sum_of_squares(action)

    def contacts(fields: Fields) -> Array:
        return options.contact_cost_weight * sum_of_squares(flat(forces(fields)))

    def reward(x_before: Array, fields: Fields, action: Array, ended: Array) -> Array:
        velocity = (fields["xpos"][:, body, 0] - x_before) / dt
        cost = effort(action) + contacts(fields) if charged else effort(action)
        return options.forward_reward_weight * velocity + bonus(fields, ended) - cost

    def place(fields: Fields) -> Array:
        return copied(fields["xpos"][:, body, :2])

    def where(fields: Fields) -> Values:
        return whereabouts(place(fields) if version == "v4" else copied(fields["qpos"][:, :2]))

    def infos(place_before: Array, fields: Fields, action: Array, ended: Array) -> Values:
        velocity = (place(fields) - place_before) / dt
        forward = options.forward_reward_weight * velocity[:, 0]
        costs: dict[str, Array | float] = {"reward_ctrl": -effort(action)}
        if version == "v4":
            costs["forward_reward"] = forward
        if charged:  # v4 gives the cost of contacts the other one's name
            costs["reward_ctrl" if version == "v4" else "reward_contact"] = -contacts(fields)
        return {
            **where(fields),
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            "reward_forward": forward,
            **costs,
            "reward_survive": bonus(fields, ended),
        }

    def reset_infos(fields: Fields) -> Values:
        return {} if version == "v4" else where(fields)

    return Task(
        name="Ant",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=dt,
        fields=("qpos", "qvel", "xpos", *(("cfrc_ext",) if observed or charged else ())),
        initial=ResetNoise(qpos=options.reset_noise_scale, qvel=options.reset_noise_scale, normal_qvel=True),
        observation=observation,
        before=before,
        reward=reward,
        terminated=terminated if options.terminate_when_unhealthy else never,
        camera={"trackbodyid": body, "distance": 4.0},
        infos=Infos(step=infos, reset=reset_infos, before=place),
        arrays="any",
    )
