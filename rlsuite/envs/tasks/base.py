"""What a task is: a model file and pure functions of batched fields. Who integrates is not known here.

Legend: B worlds, Q joint positions (nq), V joint velocities (nv), A actuators, O observation.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from rlsuite.envs.names import tasks_by_name
from rlsuite.errors import ConfigError, unknown_name

Fields = Mapping[str, Tensor]
"""Arrays of MuJoCo's mjData by name, each with a leading axis of B worlds."""

DEFAULT_VERSION = "v5"


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

    def draw(
        self, rng: np.random.Generator, qpos0: np.ndarray, qvel0: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return one initial (qpos `[Q]`, qvel `[V]`), consuming `rng` in the order Gymnasium does."""
        qpos = qpos0 + rng.uniform(low=-self.qpos, high=self.qpos, size=qpos0.shape)
        if self.normal_qvel:
            return qpos, qvel0 + self.qvel * rng.standard_normal(qvel0.shape)
        return qpos, qvel0 + rng.uniform(low=-self.qvel, high=self.qvel, size=qvel0.shape)


def nothing(fields: Fields) -> Tensor:
    """Remember nothing of the moment before the step, `[B, 0]`."""
    return fields["qpos"].new_empty(fields["qpos"].shape[0], 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One MuJoCo task. All functions are pure, keep device and dtype, and return new tensors.

    Attributes:
        name: Gymnasium's name without the version.
        version: whose semantics these are, "v5" or "v4".
        model: file name among the models that Gymnasium ships.
        substeps: physics steps per env step (Gymnasium's frame_skip).
        dt: seconds per env step.
        max_episode_steps: env steps until an episode is truncated.
        fields: arrays of mjData that the functions read, in the state right after the physics step:
            what MuJoCo does not update after integrating (site and body positions) is one stage old,
            as in Gymnasium.
        noise: distribution of initial states.
        observation: fields -> `[B, O]`.
        before: fields -> whatever `reward` must know of the moment before the step.
        reward: (before, fields, action in actuator units `[B, A]`, terminated) -> `[B]`.
        terminated: fields -> `[B]` bool.
        camera: attributes of MuJoCo's free camera for videos.
    """

    name: str
    version: str
    model: str
    substeps: int
    dt: float
    max_episode_steps: int = 1000
    fields: tuple[str, ...] = ("qpos", "qvel")
    noise: ResetNoise
    observation: Callable[[Fields], Tensor]
    before: Callable[[Fields], Tensor] = nothing
    reward: Callable[[Tensor, Fields, Tensor, Tensor], Tensor]
    terminated: Callable[[Fields], Tensor]
    camera: Mapping[str, object] = field(default_factory=dict)

    @property
    def env_id(self) -> str:
        """Gymnasium's id of this task."""
        return f"{self.name}-{self.version}"


def load_task(name: str, version: str = DEFAULT_VERSION) -> Task:
    """Import the file of one task and return the asked version of it.

    Raises:
        ConfigError: there is no such task, or it does not have that version.
    """
    known = tasks_by_name()
    if name not in known:
        raise unknown_name("an environment", name, known, "rlsuite list envs")
    versions: dict[str, Task] = importlib.import_module(f"rlsuite.envs.tasks.{known[name].stem}").VERSIONS
    if version not in versions:
        allowed = ", ".join(f'"{name}-{key}"' for key in versions)
        raise ConfigError(f'"{name}-{version}" does not exist here. Allowed: {allowed}')
    return versions[version]
