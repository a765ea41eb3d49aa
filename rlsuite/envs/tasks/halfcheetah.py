"""HalfCheetah: a planar cheetah runs to the right; never terminates.

Source: Gymnasium's half_cheetah_v5 (v4 is the same task).
"""

from dataclasses import dataclass

from rlsuite.envs.arrays import Array, copied, join, sum_of_squares
from rlsuite.envs.tasks.base import Fields, Infos, ResetNoise, Task, Values, gymnasium_model
from rlsuite.envs.tasks.common import TaskOptions, step_seconds

VERSIONS = {"v5": frozenset[str](), "v4": frozenset({"xml_file", "frame_skip"})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TaskOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "half_cheetah.xml"
    frame_skip: int = 5
    forward_reward_weight: float = 1.0
    """Reward per m/s to the right."""
    ctrl_cost_weight: float = 0.1
    """Cost per squared unit of action."""
    reset_noise_scale: float = 0.1
    """Half width of the positions' noise (metres, radians) and std of the velocities' (m/s, rad/s)."""
    exclude_current_positions_from_observation: bool = True
    """Leave out x."""


def build(version: str, options: Options) -> Task:
    """Build the task; observations are positions, then velocities, `[B, 17]` or `[B, 18]` with x."""
    load = gymnasium_model(options.xml_file)
    dt = step_seconds(load(), options)
    skip = 1 if options.exclude_current_positions_from_observation else 0

    def observation(fields: Fields) -> Array:
        return join(fields["qpos"][:, skip:], fields["qvel"])

    def before(fields: Fields) -> Array:
        return copied(fields["qpos"][:, 0])

    def speed(x_before: Array, fields: Fields) -> Array:
        return (fields["qpos"][:, 0] - x_before) / dt

    def effort(action: Array) -> Array:
        return options.ctrl_cost_weight * sum_of_squares(action)

    def reward(x_before: Array, fields: Fields, action: Array, ended: Array) -> Array:
        return options.forward_reward_weight * speed(x_before, fields) - effort(action)

    forward = "reward_run" if version == "v4" else "reward_forward"

    def infos(x_before: Array, fields: Fields, action: Array, ended: Array) -> Values:
        velocity = speed(x_before, fields)
        return {
            "x_position": before(fields),
            "x_velocity": velocity,
            forward: options.forward_reward_weight * velocity,
            "reward_ctrl": -effort(action),
        }

    def reset_infos(fields: Fields) -> Values:
        return {} if version == "v4" else {"x_position": before(fields)}

    return Task(
        name="HalfCheetah",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=dt,
        initial=ResetNoise(qpos=options.reset_noise_scale, qvel=options.reset_noise_scale, normal_qvel=True),
        observation=observation,
        before=before,
        reward=reward,
        camera={"distance": 4.0},
        infos=Infos(step=infos, reset=reset_infos, reward=lambda said: said[forward] + said["reward_ctrl"]),
        arrays="any",
    )
