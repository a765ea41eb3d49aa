"""The record of a task: a model file and pure functions of batched fields, without a physics engine.

Legend: B envs, Q joint positions (nq), V joint velocities (nv), A actuators, O observation.
"""

import importlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import gymnasium
import mujoco
import numpy as np
import torch
from torch import Tensor

from rlsuite import extensions
from rlsuite.envs.arrays import Array
from rlsuite.envs.names import added_tasks, tasks_by_name
from rlsuite.errors import ConfigError, unknown_name
from rlsuite.strict import from_mapping

Fields = Mapping[str, Array]
"""Arrays of MuJoCo's mjData by name, each with a leading axis of B envs."""

DEFAULT_VERSION = "v5"
GYMNASIUM_MODELS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"

LEGACY_MARGIN = 0.5  # of a margin that counts once instead of twice

logger = logging.getLogger(__name__)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Log MuJoCo's warnings while a model loads, but for `settotalmass`, which all cheetahs use."""

    def warn(text: str) -> None:
        if "settotalmass" not in text:
            logger.warning("%s: %s", name, text)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(warn)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def load_model(path: Path) -> mujoco.MjModel:
    """Load a model file.

    Raises:
        ConfigError: MuJoCo cannot.
    """
    with loading(path.name):
        try:
            return mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise ConfigError(f"{path} is no model that MuJoCo can load: {error}") from error


def gymnasium_model(name: str) -> Callable[[], mujoco.MjModel]:
    """Return what loads a model file: one that Gymnasium ships, or a path that starts with `.`, `/` or `~`.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(name).expanduser() if name.startswith((".", "/", "~")) else GYMNASIUM_MODELS / name
    if not path.is_file():
        shipped = ", ".join(sorted(file.name for file in GYMNASIUM_MODELS.glob("*.xml")))
        raise ConfigError(
            f'xml_file = "{name}": there is no file {path}; give a path that starts with `.`, `/` or `~`, or '
            f"one of Gymnasium's: {shipped}"
        )
    return partial(load_model, path)


def legacy_margins(load: Callable[[], mujoco.MjModel]) -> Callable[[], mujoco.MjModel]:
    """Return what loads the same model with contact margins as before MuJoCo 3.5.

    Up to 3.4 the margin of a contact was the larger one of its two geometries, since 3.5 it is their sum.
    Where all margins are equal, as in Gymnasium's models, half of each restores the old physics.
    """

    def load_halved() -> mujoco.MjModel:
        model = load()
        halve_margins(model)
        return model

    return load_halved


def halve_margins(model: mujoco.MjModel) -> None:
    """Halve the contact margins of `model`; see `legacy_margins`."""
    model.geom_margin *= LEGACY_MARGIN


Rows = TypeVar("Rows", np.ndarray, Tensor)


class Start(NamedTuple, Generic[Rows]):
    """Initial states: of one env, or of many with a leading axis.

    Attributes:
        qpos: joint positions `[Q]`.
        qvel: joint velocities `[V]`.
        goal: what else the episode is about, `[G]`; None for tasks whose state says it all.
        act: activations of actuators with dynamics `[na]`; None is zero.
        warmstart: accelerations that the constraint solver starts from `[V]`; None is zero.
    """

    qpos: Rows
    qvel: Rows
    goal: Rows | None = None
    act: Rows | None = None
    warmstart: Rows | None = None


def stack_starts(starts: Iterable[Start[np.ndarray]]) -> Start[np.ndarray]:
    """Join the states of K single envs, `[K, ...]`."""
    columns = zip(*starts, strict=True)
    return Start._make(None if part[0] is None else np.stack(part) for part in columns)


def pick_starts(starts: Start[Rows], rows: Rows) -> Start[Rows]:
    """Return the states of the given rows, `[len(rows), ...]`."""
    return Start._make(None if part is None else part[rows] for part in starts)


class InitialStates(Protocol):
    """A distribution of initial states; the two ways to draw from it agree in distribution only."""

    def draw(self, rng: np.random.Generator, qpos0: np.ndarray, qvel0: np.ndarray) -> Start[np.ndarray]:
        """Return one state, consuming `rng` as the original environment does."""

    def sample(self, count: int, qpos0: Tensor, qvel0: Tensor, generator: torch.Generator) -> Start[Tensor]:
        """Return `count` states on the device and in the dtype of `qpos0`, without host synchronisation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetNoise:
    """Distribution of initial states around the model's rest pose, as Gymnasium draws it.

    Attributes:
        qpos: half width of the uniform noise on positions, metres or radians.
        qvel: half width (uniform) or standard deviation (normal) of the noise on velocities.
        normal_qvel: velocities are normal instead of uniform.
    """

    qpos: float
    qvel: float
    normal_qvel: bool = False

    def draw(self, rng: np.random.Generator, qpos0: np.ndarray, qvel0: np.ndarray) -> Start[np.ndarray]:
        """Return one initial state, consuming `rng` in the order Gymnasium does."""
        qpos = qpos0 + rng.uniform(low=-self.qpos, high=self.qpos, size=qpos0.shape)
        if self.normal_qvel:
            return Start(qpos, qvel0 + self.qvel * rng.standard_normal(qvel0.shape))
        return Start(qpos, qvel0 + rng.uniform(low=-self.qvel, high=self.qvel, size=qvel0.shape))

    def sample(self, count: int, qpos0: Tensor, qvel0: Tensor, generator: torch.Generator) -> Start[Tensor]:
        """Return `count` initial states, `[count, Q]` and `[count, V]`."""
        qpos = qpos0 + self.qpos * symmetric(count, qpos0, generator)
        if self.normal_qvel:
            noise = torch.randn(
                count, len(qvel0), dtype=qvel0.dtype, device=qvel0.device, generator=generator
            )
        else:
            noise = symmetric(count, qvel0, generator)
        return Start(qpos, qvel0 + self.qvel * noise)


def symmetric(count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers in [-1, 1), `[count, len(like)]`."""
    uniform = torch.rand(count, len(like), dtype=like.dtype, device=like.device, generator=generator)
    return 2 * uniform - 1


def nothing(fields: Fields) -> Array:
    """Remember nothing of the moment before the step, `[B, 0]`."""
    return fields["qpos"][:, :0]


def never(fields: Fields) -> Array:
    """End no episode, `[B]`."""
    qpos = fields["qpos"]
    if isinstance(qpos, np.ndarray):
        return np.zeros(len(qpos), np.bool_)
    return qpos.new_zeros(len(qpos), dtype=torch.bool)


Values = Mapping[str, Array | float]
"""Numbers by name, each `[B]` or `[B, ...]`; one number where all envs have the same."""


def nothing_to_say(fields: Fields) -> Values:
    """Say nothing of a fresh state."""
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Infos:
    """What Gymnasium's environment says in `info`; computed where it is asked for.

    Attributes:
        step: (before, fields, action, terminated) -> the values of a step.
        reset: fields -> the values of a fresh state.
        before: what `step` must know of the moment before the step; None is what the task's reward must.
        reward: the values of a step -> the reward, to the bit the task's, where they are its terms: then they
            are computed once.
        fields: arrays of mjData that these functions read besides the task's own.
    """

    step: Callable[[Array, Fields, Array, Array], Values]
    reset: Callable[[Fields], Values] = nothing_to_say
    reward: Callable[[Values], Array] | None = None
    before: Callable[[Fields], Array] | None = None
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One MuJoCo task. All functions are pure, keep device and dtype, and return new arrays.

    Attributes:
        name: Gymnasium's name without the version; `dmc:domain-task` for dm_control's.
        version: whose semantics these are, "v5" or "v4"; "" where there is one only.
        model: loads the model; every call returns a new one.
        substeps: physics steps per env step (Gymnasium's frame_skip).
        dt: seconds per env step.
        max_episode_steps: env steps until an episode is truncated.
        fields: arrays of mjData that the functions read, in the state right after the physics step:
            what MuJoCo does not update after integrating (site and body positions) is one stage old,
            as in Gymnasium.
        refresh: position and velocity stages are computed anew after the last substep, as dm_control does:
            those fields are up to date, sensors of the acceleration stage are those of the last substep.
        goal_size: G numbers per env that initial states bring besides positions and velocities; the
            functions read them as the field "goal" `[B, G]`.
        initial: distribution of initial states.
        observation: fields -> `[B, O]`.
        private: fields -> `[B, P]`, what critics are told and actors are not; None for nothing. Where the
            model varies (`vary_mass`, ...), the field "variation" `[B, K]` has the episode's factors; these
            are told to critics anyway.
        before: fields -> whatever `reward` must know of the moment before the step.
        reward: (before, fields, action in actuator units `[B, A]`, terminated) -> `[B]`.
        terminated: fields -> `[B]` bool.
        camera: attributes of MuJoCo's free camera for videos.
        show_goal: writes one env's goal `[G]` into the model that a picture is made of; None where the
            model shows it anyway.
        packages: what made the model and the initial states, for the record of versions.
        infos: what Gymnasium's environment says in `info`; None for nothing.
        arrays: what the functions take: "torch" for tensors alone; "any" for numpy arrays, too (written with
            `rlsuite.envs.arrays`), which engine `native` then hands them, at a tenth of the cost.
    """

    name: str
    version: str
    model: Callable[[], mujoco.MjModel]
    substeps: int
    dt: float
    max_episode_steps: int = 1000
    fields: tuple[str, ...] = ("qpos", "qvel")
    refresh: bool = False
    goal_size: int = 0
    initial: InitialStates
    observation: Callable[[Fields], Array]
    private: Callable[[Fields], Array] | None = None
    before: Callable[[Fields], Array] = nothing
    reward: Callable[[Array, Fields, Array, Array], Array]
    terminated: Callable[[Fields], Array] = never
    camera: Mapping[str, object] = field(default_factory=dict)
    show_goal: Callable[[mujoco.MjModel, np.ndarray], None] | None = None
    packages: tuple[str, ...] = ("gymnasium",)
    infos: Infos | None = None
    arrays: Literal["torch", "any"] = "torch"

    @property
    def env_id(self) -> str:
        """The id that makes this environment again."""
        return f"{self.name}-{self.version}" if self.version else self.name


def load_task(name: str, version: str = "", options: Mapping[str, Any] | None = None) -> Task:
    """Import the file of one task and build the asked version of it.

    A task's file has `Options`, a dataclass of Gymnasium's constructor arguments with v5's defaults;
    `VERSIONS`, each with the names of the options that it lacks; `build(version, options) -> Task`; and, for
    versions of Gymnasium's that cannot run, `REFUSED`, each with the reason. Other packages' modules have the
    same.

    Args:
        name: of the task.
        version: one of `VERSIONS`; by default "v5", or the first one where there is no v5.
        options: values of `Options`.

    Raises:
        ConfigError: there is no such task, version or option, or an option's value cannot be used.
    """
    module = task_module(name)
    versions: Mapping[str, frozenset[str]] = module.VERSIONS
    version = version or (DEFAULT_VERSION if DEFAULT_VERSION in versions else next(iter(versions)))
    if version not in versions:
        allowed = ", ".join(f'"{name}-{key}"' for key in versions)
        reason = getattr(module, "REFUSED", {}).get(version, "does not exist here.")
        raise ConfigError(f'"{name}-{version}" {reason} Allowed: {allowed}')
    given, where = options or {}, f"options of {name}-{version}"
    lacking = sorted(versions[version] & given.keys())
    if lacking:
        having = next(key for key in versions if lacking[0] not in versions[key])
        raise ConfigError(f"{where}: {lacking[0]} exists in {name}-{having} only")
    task: Task = module.build(version, from_mapping(module.Options, given, where))
    return task


def task_module(name: str) -> ModuleType:
    """Import the file of one task, ours or another package's.

    Raises:
        ConfigError: there is no such task, or its module lacks what a task has.
    """
    known, added = tasks_by_name(), added_tasks()
    if name in known:
        return importlib.import_module(f"rlsuite.envs.tasks.{known[name].stem}")
    if name not in added:
        raise unknown_name("an environment", name, [*known, *added], "rlsuite list envs")
    module = extensions.module_of("task", name)
    wanted = ("Options", "Env") if hasattr(module, "Env") else ("Options", "VERSIONS", "build")
    lacking = [name for name in wanted if not hasattr(module, name)]
    if lacking:
        raise ConfigError(f"{module.__name__} is no task: it lacks {', '.join(lacking)} (docs/extending.md)")
    return module
