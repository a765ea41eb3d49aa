"""Swimmer: a chain of three links swims to the right in a viscous fluid; never terminates.

Source: Gymnasium's swimmer_v5 (v4 is the same task).
"""

from dataclasses import dataclass

from rlsuite.envs.arrays import Array, copied, join, sum_of_squares
from rlsuite.envs.tasks.base import Fields, Infos, ResetNoise, Task, Values, gymnasium_model
from rlsuite.envs.tasks.common import TaskOptions, step_seconds, whereabouts

VERSIONS = {"v5": frozenset[str](), "v4": frozenset({"xml_file", "frame_skip"})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(TaskOptions):
    """Gymnasium's constructor arguments."""

    xml_file: str = "swimmer.xml"
    frame_skip: int = 4
    forward_reward_weight: float = 1.0
    """Reward per m/s of the front tip to the right."""
    ctrl_cost_weight: float = 1e-4
    """Cost per squared unit of action."""
    reset_noise_scale: float = 0.1
    """Half width of the noise on positions and velocities."""
    exclude_current_positions_from_observation: bool = True
    """Leave out x and y."""


def build(version: str, options: Options) -> Task:
    """Build the task; observations are positions, then velocities, `[B, 8]` or `[B, 10]` with x and y."""
    load = gymnasium_model(options.xml_file)
    dt = step_seconds(load(), options)
    skip = 2 if options.exclude_current_positions_from_observation else 0

    def observation(fields: Fields) -> Array:
        return join(fields["qpos"][:, skip:], fields["qvel"])

    def before(fields: Fields) -> Array:
        return copied(fields["qpos"][:, 0])

    def effort(action: Array) -> Array:
        return options.ctrl_cost_weight * sum_of_squares(action)

    def reward(x_before: Array, fields: Fields, action: Array, ended: Array) -> Array:
        velocity = (fields["qpos"][:, 0] - x_before) / dt
        return options.forward_reward_weight * velocity - effort(action)

    def place(fields: Fields) -> Array:
        return copied(fields["qpos"][:, :2])

    def where(fields: Fields) -> Values:
        return whereabouts(place(fields))

    def infos(place_before: Array, fields: Fields, action: Array, ended: Array) -> Values:
        velocity = (place(fields) - place_before) / dt
        forward = options.forward_reward_weight * velocity[:, 0]
        named = (
            {"reward_fwd": forward, "forward_reward": forward}
            if version == "v4"
            else {"reward_forward": forward}
        )
        return {
            **where(fields),
            "x_velocity": velocity[:, 0],
            "y_velocity": velocity[:, 1],
            **named,
            "reward_ctrl": -effort(action),
        }

    def paid(said: Values) -> Array:
        return said["forward_reward" if version == "v4" else "reward_forward"] + said["reward_ctrl"]

    def reset_infos(fields: Fields) -> Values:
        return {} if version == "v4" else where(fields)

    return Task(
        name="Swimmer",
        version=version,
        model=load,
        substeps=options.frame_skip,
        dt=dt,
        initial=ResetNoise(qpos=options.reset_noise_scale, qvel=options.reset_noise_scale),
        observation=observation,
        before=before,
        reward=reward,
        infos=Infos(step=infos, reset=reset_infos, before=place, reward=paid),
        arrays="any",
    )
