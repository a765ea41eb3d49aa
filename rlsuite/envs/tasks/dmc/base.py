"""Base of the tasks of dm_control's suite: models and initial states, which dm_control makes itself.

dm_control writes parts of an episode into the model (where a target is); here they are the task's goal.
Legend: B envs, P states in the pool, G numbers of a goal.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from types import ModuleType
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.arrays import Array, doubled
from rlsuite.envs.names import suite_tasks_by_name
from rlsuite.envs.seeding import EPISODE_SEEDS
from rlsuite.envs.tasks.base import Fields, Start, Task, loading, pick_starts, stack_starts
from rlsuite.errors import ConfigError, EnvironmentFailure, unknown_name

FIRST_CAMERA = {"type": int(mujoco.mjtCamera.mjCAMERA_FIXED), "fixedcamid": 0}
POOL_SEED = 0  # one pool for all runs: a resumed run finds the states that it left
POOL_SIZE = 4096  # states

XX, XZ, ZX, ZZ = 0, 2, 6, 8  # elements of a rotation matrix as MuJoCo stores it; z is up

Reward = Callable[[Fields, Array], Array]
"""(fields, action in actuator units `[B, A]`) -> `[B]`."""

Goal = Callable[[Any], np.ndarray]
"""Reads the goal `[G]` off dm_control's physics after `initialize_episode`."""


def import_suite() -> ModuleType:
    """Import dm_control's suite, without the OpenGL that it would load unasked.

    MuJoCo reads the same variable when imported, which has happened above.

    Raises:
        ConfigError: dm_control is not installed.
    """
    silenced = "MUJOCO_GL" not in os.environ
    if silenced:
        os.environ["MUJOCO_GL"] = "disable"
    try:
        return importlib.import_module("dm_control.suite")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"dmc: environments need {error.name}, which is not installed: pip install 'rlsuite[dmc]'"
        ) from error
    finally:
        if silenced:
            del os.environ["MUJOCO_GL"]


def load_original(domain: str, task: str) -> Any:
    """Make dm_control's own environment; whoever uses it seeds `env.task.random`."""
    suite = import_suite()
    with loading(f"{domain}-{task}"):
        # The seed given here is replaced before use; without one dm_control would take the clock.
        return suite.load(domain, task, task_kwargs={"random": 0})


def load_suite_model(domain: str, task: str, places: Mapping[str, int]) -> mujoco.MjModel:
    """Load a task's model with the changes that dm_control makes to it at every reset.

    Args:
        domain: of the suite.
        task: of the domain.
        places: where the task's functions expect things: `"body NAME"` and `"geom NAME"` the number,
            `"sensor NAME"` the first column of sensordata.

    Raises:
        ConfigError: dm_control is not installed, or its model has things in other places.
    """
    env = _original(domain, task)
    env.task.random.seed(POOL_SEED)  # what is drawn into the model must not depend on earlier episodes
    env.reset()
    model: mujoco.MjModel = copy(env.physics.model.ptr)
    for name, expected in places.items():
        place = _place(model, *name.split())
        if place != expected:
            raise ConfigError(
                f"dm_control's model of {domain}-{task} has {name} at {place}, and rlsuite expects it at "
                f"{expected}: install dm_control 1.0.50, or use --engine dmc"
            )
    return model


def _place(model: mujoco.MjModel, object_type: str, name: str) -> int | None:
    index = mujoco.mj_name2id(model, getattr(mujoco.mjtObj, f"mjOBJ_{object_type.upper()}"), name)
    if index < 0:
        return None
    return int(model.sensor_adr[index]) if object_type == "sensor" else index


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteStarts:
    """Initial states as dm_control draws them, rejected and settled poses included.

    On the CPU each env has dm_control draw for it. Devices sample from a pool of P such draws, with
    replacement; the pool is the same in every process, made when first asked for and kept in memory.

    Attributes:
        domain: of the suite.
        task: of the domain.
        goal: reads the goal; None for tasks without one.
        pool_size: P.
    """

    domain: str
    task: str
    goal: Goal | None = None
    pool_size: int = POOL_SIZE

    def draw(self, rng: np.random.Generator, qpos0: np.ndarray, qvel0: np.ndarray) -> Start[np.ndarray]:
        """Return one state: the episode that dm_control starts from a seed that `rng` gives.

        Raises:
            EnvironmentFailure: dm_control found no state, or its simulation diverged.
        """
        env = _original(self.domain, self.task)
        physics = env.physics
        env.task.random.seed(int(rng.integers(EPISODE_SEEDS)))
        try:
            with physics.reset_context():
                env.task.initialize_episode(physics)
                # Read before the context ends: its forward pass, which moves the warm start, is the engine's.
                return Start(
                    qpos=physics.data.qpos.copy(),
                    qvel=physics.data.qvel.copy(),
                    goal=None if self.goal is None else self.goal(physics),
                    act=physics.data.act.copy() if physics.model.na else None,
                    warmstart=physics.data.qacc_warmstart.copy(),
                )
        except RuntimeError as error:
            raise EnvironmentFailure(
                f"dm_control could not start an episode of {self.domain}-{self.task}: {error}"
            ) from error

    def sample(self, count: int, qpos0: Tensor, qvel0: Tensor, generator: torch.Generator) -> Start[Tensor]:
        """Return `count` states of the pool on the device and in the dtype of `qpos0`."""
        pool = _pool(self, qpos0.device, qpos0.dtype)
        rows = torch.randint(self.pool_size, (count,), device=qpos0.device, generator=generator)
        return pick_starts(pool, rows)


@cache
def _original(domain: str, task: str) -> Any:
    return load_original(domain, task)


@cache
def _pool(starts: SuiteStarts, device: torch.device, dtype: torch.dtype) -> Start[Tensor]:
    """Return the pool `[P, ...]` on a device."""
    rng, rest = np.random.default_rng(POOL_SEED), np.zeros(0)
    drawn = stack_starts(starts.draw(rng, rest, rest) for _ in range(starts.pool_size))
    return Start._make(None if part is None else torch.from_numpy(part).to(device, dtype) for part in drawn)


def suite_task(  # noqa: PLR0913 (fields of a Task)
    domain: str,
    task: str,
    *,
    substeps: int,
    dt: float,
    observation: Callable[[Fields], Array],
    reward: Reward,
    fields: tuple[str, ...] = (),
    places: Mapping[str, int] | None = None,
    goal: Goal | None = None,
    goal_size: int = 0,
    show_goal: Callable[[mujoco.MjModel, np.ndarray], None] | None = None,
    pool_size: int = POOL_SIZE,
) -> Task:
    """Describe one task of the suite: 1,000 env steps, never terminated.

    Args:
        domain: of the suite.
        task: of the domain.
        substeps: physics steps per env step.
        dt: seconds per env step.
        observation: fields -> `[B, O]`, dm_control's observations flattened in its order.
        reward: of the state after the step.
        fields: what the two read besides qpos and qvel.
        places: see `load_suite_model`.
        goal: reads the goal off dm_control's physics.
        goal_size: G.
        show_goal: see `Task`.
        pool_size: P.
    """
    return Task(
        name=f"dmc:{domain}-{task}",
        version="",
        model=partial(load_suite_model, domain, task, places or {}),
        substeps=substeps,
        dt=dt,
        fields=("qpos", "qvel", *fields),
        refresh=True,
        goal_size=goal_size,
        initial=SuiteStarts(domain=domain, task=task, goal=goal, pool_size=pool_size),
        observation=observation,
        reward=partial(_paid, reward),
        camera=FIRST_CAMERA,
        show_goal=show_goal,
        packages=("dm_control",),
        arrays="any",
    )


def into_frame(vectors: Array, frame: Array) -> Array:
    """Turn vectors `[B, K, 3]` of the world into a body's frame (rotation matrices `[B, 9]`)."""
    # A sum of products: matrix products may lose digits on devices.
    return (vectors[..., None] * frame.reshape(len(frame), 1, 3, 3)).sum(-2)


def _paid(reward: Reward, before: Array, fields: Fields, action: Array, ended: Array) -> Array:
    """Pay for the state after the step alone, as the whole suite does."""
    return reward(fields, doubled(action))  # dm_control reads it off the physics, in double precision


def load_suite_task(name: str) -> Task:
    """Import the file of one domain and return one task of it.

    Args:
        name: `domain-task`.

    Raises:
        ConfigError: there is no such batched task.
    """
    known = suite_tasks_by_name()
    if name not in known:
        raise unknown_name("a batched dm_control task", name, known, "rlsuite list envs")
    module = importlib.import_module(f"{__package__}.{known[name].stem}")
    tasks: dict[str, Task] = module.TASKS
    return tasks[name.partition("-")[2]]
