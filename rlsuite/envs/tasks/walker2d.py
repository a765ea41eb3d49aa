"""Walker2d: a two-legged planar robot walks to the right without falling.

Source: Gymnasium's walker2d_v5; walker2d_v4 has another model (a more slippery left foot) and also pays
for staying healthy on the step on which it falls.
"""

from dataclasses import dataclass

from rlsuite.envs.arrays import Array, clip, copied, join, sum_of_squares
from rlsuite.envs.tasks.base import Fields, ResetNoise, Task, gymnasium_model, never
from rlsuite.envs.tasks.common import TaskOptions, planar_infos, step_seconds, survival, within

VERSIONS = {"v5": frozenset[str](), "v4": frozenset({"xml_file", "frame_skip"})}
MODEL_OF_V4 = "walker2d.xml"
VELOCITY_CLIP = 10.0  # of observed velocities, m/s or rad/s


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TaskOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "walker2d_v5.xml"
    frame_skip: int = 4
    forward_reward_weight: float = 1.0
    """Reward per m/s to the right."""
    ctrl_cost_weight: float = 1e-3
    """Cost per squared unit of action."""
    healthy_reward: float = 1.0
    """Reward per healthy step."""
    terminate_when_unhealthy: bool = True
    """End the episode with the first step that is not healthy."""
    healthy_z_range: tuple[float, float] = (0.8, 2.0)
    """Of the torso's height, metres."""
    healthy_angle_range: tuple[float, float] = (-1.0, 1.0)
    """Of the torso's angle, radians."""
    reset_noise_scale: float = 5e-3
    """Half width of the noise on positions and velocities."""
    exclude_current_positions_from_observation: bool = True
    """Leave out x."""


def build(version: str, options: Options) -> Task:
    """Build the task; observations are positions, then clipped velocities, `[B, 17]` or `[B, 18]` with x."""
    load = gymnasium_model(MODEL_OF_V4 if version == "v4" else options.xml_file)
    model = load()
    dt, rest_height = step_seconds(model, options), float(model.qpos0[1])
    skip = 1 if options.exclude_current_positions_from_observation else 0

    def observation(fields: Fields) -> Array:
        return join(fields["qpos"][:, skip:], clip(fields["qvel"], -VELOCITY_CLIP, VELOCITY_CLIP))

    def healthy(fields: Fields) -> Array:
        height, angle = fields["qpos"][:, 1], fields["qpos"][:, 2]
        return within(height, options.healthy_z_range) & within(angle, options.healthy_angle_range)

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
        name="Walker2d",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=dt,
        initial=ResetNoise(qpos=options.reset_noise_scale, qvel=options.reset_noise_scale),
        observation=observation,
        before=before,
        reward=reward,
        terminated=terminated if options.terminate_when_unhealthy else never,
        camera={"trackbodyid": 2, "distance": 4.0, "lookat": (0.0, 0.0, 1.15), "elevation": -20.0},
        infos=planar_infos(version, rest_height, options.forward_reward_weight, speed, bonus, effort),
        arrays="any",
    )
