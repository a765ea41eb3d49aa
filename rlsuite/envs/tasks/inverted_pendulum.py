"""InvertedPendulum: a cart keeps a pole upright.

Source: Gymnasium's inverted_pendulum_v5; inverted_pendulum_v4 also pays on the step on which it falls.
"""

from dataclasses import dataclass

from rlsuite.envs.arrays import Array, all_finite, join, number
from rlsuite.envs.tasks.base import Fields, Infos, ResetNoise, Task, Values, gymnasium_model
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

    def observation(fields: Fields) -> Array:
        return join(fields["qpos"], fields["qvel"])

    def terminated(fields: Fields) -> Array:
        return (abs(fields["qpos"][:, 1]) > ANGLE_LIMIT) | ~all_finite(observation(fields))

    def reward(_: Array, fields: Fields, action: Array, ended: Array) -> Array:
        return number(ended | True if version == "v4" else ~ended, fields["qpos"])

    def infos(_: Array, fields: Fields, action: Array, ended: Array) -> Values:
        return {} if version == "v4" else {"reward_survive": ~ended * 1}

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
        infos=Infos(step=infos),
        arrays="any",
    )
