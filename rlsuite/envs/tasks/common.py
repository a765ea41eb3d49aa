"""Functions of several tasks: checks of options, Gymnasium's sums, survival, observations of humanoids.

Legend: B envs, N numbers of one env, O observation.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from rlsuite.envs.arrays import Array, copied, flat, join, norm
from rlsuite.envs.tasks.base import Fields, Infos, Values
from rlsuite.errors import ConfigError

ROOT_VELOCITIES = 6  # of a free joint: nothing drives them


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """Options of every task; the tasks give the defaults.

    Raises:
        ConfigError: a range upside down, a negative noise, a number that is none.
    """

    xml_file: str
    """Model: one of Gymnasium's files, or a path that starts with `.`, `/` or `~`."""
    frame_skip: int
    """Physics steps per env step."""

    def __post_init__(self) -> None:
        """Check what holds for all options of a kind."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and not value[0] <= value[1]:
                raise ConfigError(
                    f"{field.name} = {list(value)}: the first number must not exceed the second"
                )
            if isinstance(value, float) and np.isnan(value):
                raise ConfigError(f"{field.name} = nan: must be a number")
            if field.name == "reset_noise_scale" and not 0 <= value < np.inf:
                raise ConfigError(f"reset_noise_scale = {value}: must be finite and not negative")
        if self.frame_skip < 1:
            raise ConfigError(f"frame_skip = {self.frame_skip}: must be at least 1")


def option_names(options: type[TaskOptions]) -> frozenset[str]:
    """Return the names of all options, for versions that have none."""
    return frozenset(field.name for field in dataclasses.fields(options))


def step_seconds(model: mujoco.MjModel, options: TaskOptions) -> float:
    """Return the seconds of one env step."""
    return model.opt.timestep * options.frame_skip


def body_id(model: mujoco.MjModel, body: int | str) -> int:
    """Return the number of a body; raise ConfigError where the model has no such body."""
    try:
        return model.body(body).id
    except (KeyError, IndexError) as error:
        names = ", ".join(model.body(i).name for i in range(1, model.nbody))
        raise ConfigError(
            f"{body!r} is no body of the model; its bodies are 1 to {model.nbody - 1}: {names}"
        ) from error


def within(value: Array, bounds: tuple[float, float]) -> Array:
    """Say where low < value < high; nowhere for nan."""
    return (value > bounds[0]) & (value < bounds[1])


def survival(
    version: str,
    healthy_reward: float,
    terminate_when_unhealthy: bool,
    healthy: Callable[[Fields], Array],
) -> Callable[[Fields, Array], Array]:
    """Return (fields, terminated `[B]`) -> reward for being healthy, `[B]`.

    v4 pays on the step of the fall, too, where the fall ends the episode.
    """
    if not terminate_when_unhealthy:
        return lambda fields, ended: healthy_reward * healthy(fields)
    if version == "v4":
        return lambda fields, ended: healthy_reward
    return lambda fields, ended: healthy_reward * ~ended


def planar_infos(
    version: str,
    rest_height: float,
    weight: float,
    speed: Callable[[Array, Fields], Array],
    bonus: Callable[[Fields, Array], Array],
    effort: Callable[[Array], Array],
) -> Infos:
    """Return the infos of planar robots that are paid for going forward in good health (Hopper, Walker2d).

    Args:
        version: v4 says less.
        rest_height: of the torso at the model's first state, metres.
        weight: reward per m/s forward.
        speed: (x before the step `[B]`, fields after it) -> m/s `[B]`.
        bonus: see `survival`.
        effort: action `[B, A]` -> cost `[B]`.
    """

    def at_reset(fields: Fields) -> Values:
        if version == "v4":
            return {}
        height = fields["qpos"][:, 1]
        return {"x_position": copied(fields["qpos"][:, 0]), "z_distance_from_origin": height - rest_height}

    def at_step(x_before: Array, fields: Fields, action: Array, ended: Array) -> Values:
        velocity = speed(x_before, fields)
        if version == "v4":
            return {"x_position": copied(fields["qpos"][:, 0]), "x_velocity": velocity}
        return {
            **at_reset(fields),
            "x_velocity": velocity,
            "reward_forward": weight * velocity,
            "reward_ctrl": -effort(action),
            "reward_survive": bonus(fields, ended),
        }

    def paid(said: Values) -> Array:
        return said["reward_forward"] + said["reward_survive"] + said["reward_ctrl"]

    return Infos(step=at_step, reset=at_reset, reward=None if version == "v4" else paid)


def whereabouts(x_and_y: Array) -> Values:
    """Return the infos of a place on the ground, `[B, 2]` metres."""
    return {"x_position": x_and_y[:, 0], "y_position": x_and_y[:, 1], "distance_from_origin": norm(x_and_y)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyOptions(TaskOptions):
    """Which parts of a humanoid's body are observed."""

    exclude_current_positions_from_observation: bool = True
    """Leave out x and y of the torso."""
    include_cinert_in_observation: bool = True
    """Observe mass and inertia of the bodies about the centre of mass."""
    include_cvel_in_observation: bool = True
    """Observe velocities of the bodies about the centre of mass."""
    include_qfrc_actuator_in_observation: bool = True
    """Observe the forces of the actuators on the joints."""
    include_cfrc_ext_in_observation: bool = True
    """Observe the contact forces on the bodies."""


BODY_OPTIONS_OF_V5 = frozenset(name for name in option_names(BodyOptions) if name.startswith("include_"))


def body_observation(version: str, options: BodyOptions) -> tuple[tuple[str, ...], Callable[[Fields], Array]]:
    """Return the names of the fields that a humanoid observes, and fields -> `[B, O]`.

    v4 also shows the world's body and the undriven root joint, whose numbers are always zero.
    """
    skip = 2 if options.exclude_current_positions_from_observation else 0
    first_body, first_joint = (0, 0) if version == "v4" else (1, ROOT_VELOCITIES)
    parts = [
        (name, start)
        for name, start, included in (
            ("cinert", first_body, options.include_cinert_in_observation),
            ("cvel", first_body, options.include_cvel_in_observation),
            ("qfrc_actuator", first_joint, options.include_qfrc_actuator_in_observation),
            ("cfrc_ext", first_body, options.include_cfrc_ext_in_observation),
        )
        if included
    ]

    def observe(fields: Fields) -> Array:
        shown = [flat(fields[name][:, start:]) for name, start in parts]
        return join(fields["qpos"][:, skip:], fields["qvel"], *shown)

    return tuple(name for name, _ in parts), observe
