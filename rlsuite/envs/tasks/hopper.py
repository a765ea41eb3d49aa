"""Hopper: a one-legged planar robot hops to the right without falling.

Source: Gymnasium's hopper_v5; hopper_v4 also pays for staying healthy on the step on which it falls.
"""

from dataclasses import dataclass
from math import inf

from rlsuite.envs.arrays import Array, clip, copied, join, sum_of_squares
from rlsuite.envs.tasks.base import Fields, ResetNoise, Task, gymnasium_model, never
from rlsuite.envs.tasks.common import TaskOptions, planar_infos, step_seconds, survival, within

VERSIONS = {"v5": frozenset[str](), "v4": frozenset({"xml_file", "frame_skip"})}
VELOCITY_CLIP = 10.0  # of observed velocities, m/s or rad/s


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TaskOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "hopper.xml"
    frame_skip: int = 4
    forward_reward_weight: float = 1.0
    """Reward per m/s to the right."""
    ctrl_cost_weight: float = 1e-3
    """Cost per squared unit of action."""
    healthy_reward: float = 1.0
    """Reward per healthy step."""
    terminate_when_unhealthy: bool = True
    """End the episode with the first step that is not healthy."""
    healthy_state_range: tuple[float, float] = (-100.0, 100.0)
    """Of all of the state but x and z, in its own units."""
    healthy_z_range: tuple[float, float] = (0.7, inf)
    """Of the torso's height, metres."""
    healthy_angle_range: tuple[float, float] = (-0.2, 0.2)
    """Of the torso's angle, radians."""
    reset_noise_scale: float = 5e-3
    """Half width of the noise on positions and velocities."""
    exclude_current_positions_from_observation: bool = True
    """Leave out x."""


def build(version: str, options: Options) -> Task:
    """Build the task; observations are positions, then clipped velocities, `[B, 11]` or `[B, 12]` with x."""
    load = gymnasium_model(options.xml_file)
    model = load()
    dt, rest_height = step_seconds(model, options), float(model.qpos0[1])
    skip = 1 if options.exclude_current_positions_from_observation else 0

    def observation(fields: Fields) -> Array:
        return join(fields["qpos"][:, skip:], clip(fields["qvel"], -VELOCITY_CLIP, VELOCITY_CLIP))

    def healthy(fields: Fields) -> Array:
        qpos = fields["qpos"]
        state = join(qpos[:, 2:], fields["qvel"])
        bounded = within(state, options.healthy_state_range).all(-1)
        upright = within(qpos[:, 2], options.healthy_angle_range)
        return bounded & within(qpos[:, 1], options.healthy_z_range) & upright

    def terminated(fields: Fields) -> Array:
        return ~healthy(fields)

    def before(fields: Fields) -> Array:
        return copied(fields["qpos"][:, 0])

    bonus = survival(version, options.healthy_reward, options.terminate_when_unhealthy, healthy)

    def speed(x_before: Array, fields: Fields) -> Array:
        return (fields["qpos"][:, 0] - x_before) / dt

    def effort(action: Array) -> Array:
        return options.ctrl_cost_weight * sum_of_squares(action)

    def reward(x_before: Array, fields: Fields, action: Array, ended: Array) -> Array:
        gain = options.forward_reward_weight * speed(x_before, fields) + bonus(fields, ended)
        return gain - effort(action)

    return Task(
        name="Hopper",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=dt,
        initial=ResetNoise(qpos=options.reset_noise_scale, qvel=options.reset_noise_scale),
        observation=observation,
        before=before,
        reward=reward,
        terminated=terminated if options.terminate_when_unhealthy else never,
        camera={"trackbodyid": 2, "distance": 3.0, "lookat": (0.0, 0.0, 1.15), "elevation": -20.0},
        infos=planar_infos(version, rest_height, options.forward_reward_weight, speed, bonus, effort),
        arrays="any",
    )
