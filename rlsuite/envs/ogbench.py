"""OGBench's environments, with all of their randomness drawn from the seed of an episode.

OGBench (Park et al. 2024, arXiv 2410.20092) asks numpy's global generator for tasks, starts and goals, and a
space that nobody seeds for its first random actions, which leave their traces in the simulation. Here an
episode depends on its seed alone, and the process's global generator is left as it was.

A single task shows OGBench's observation. A goal-conditioned environment shows `observation` and
`desired_goal`, both of the same size; its task is drawn from the seed, or chosen (`task_id`, 1 to 5).
"""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from rlsuite.envs.ogbench_names import ENVS, FAMILY, TASKS, VERSION, Name, parse
from rlsuite.errors import ConfigError

MISSING = 'OGBench\'s environments need its package: pip install "rlsuite[ogbench]"'


@contextmanager
def drawing_from(bits: np.random.BitGenerator) -> Iterator[None]:
    """Let numpy's global generator draw from `bits`, which moves on."""
    generator: Any = np.random  # numpy's type hints leave these two functions out
    before = generator.get_bit_generator()
    generator.set_bit_generator(bits)
    try:
        yield
    finally:
        generator.set_bit_generator(before)


class KeptActionSpace:
    """Before one of OGBench's classes that make a new space, unseeded, whenever asked for theirs."""

    _actions: gymnasium.spaces.Space | None = None

    @property
    def action_space(self) -> Any:
        """The space, the same object always."""
        if self._actions is None:
            with warnings.catch_warnings(
                action="ignore", category=UserWarning
            ):  # of bounds that become float32
                self._actions = super().action_space  # type: ignore[misc]
        return self._actions


class Repeatable(gymnasium.Wrapper):
    """Draws all randomness of an episode from the seed of its reset.

    Args:
        env: one of OGBench's.
        task: 1 to 5, of every episode; None leaves it to the environment.
    """

    def __init__(self, env: gymnasium.Env, task: int | None = None) -> None:
        super().__init__(env)
        self._bits: np.random.BitGenerator = np.random.PCG64(0)
        self._options = None if task is None else {"task_id": task}
        with drawing_from(self._bits):  # some make a simulation to say what they show
            self.observation_space = env.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Start an episode, the same for the same seed; without one go on drawing."""
        if seed is not None:
            self._bits = np.random.PCG64(seed)
            self.env.action_space.seed(seed)
        with drawing_from(self._bits):
            return self.env.reset(seed=seed, options=options or self._options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment; teleports are drawn from the episode's seed, too."""
        with drawing_from(self._bits):
            return self.env.step(action)


class ShowsGoal(gymnasium.ObservationWrapper):
    """Shows the goal of the episode, an observation where it is reached, beside the state."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space = env.observation_space
        self.observation_space = gymnasium.spaces.Dict({"observation": space, "desired_goal": space})
        self._goal = np.zeros(space.shape or ())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Start an episode and keep its goal."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._goal = np.asarray(info["goal"])
        return self.observation(observation), info

    def observation(self, observation: Any) -> dict[str, Any]:
        """Return state and goal."""
        return {"observation": observation, "desired_goal": self._goal.copy()}


def make(name: str, task_id: int | None = None, **arguments: Any) -> gymnasium.Env:
    """Return an environment of OGBench without a time limit.

    Args:
        name: OGBench's id, e.g. cube-single-singletask-v0.
        task_id: 1 to 5, of a goal-conditioned environment.
        arguments: of OGBench's own class.

    Raises:
        ConfigError: the package is missing, or no such task.
    """
    single = parse(name).task is not None
    if task_id is not None and (single or task_id not in range(1, TASKS + 1)):
        raise ConfigError(f"{FAMILY}:{name}: task_id = {task_id}: 1 to {TASKS}, of names without singletask")
    env = Repeatable(bare(name, **arguments), task_id)
    return env if single else ShowsGoal(env)


def bare(name: str, **arguments: Any) -> gymnasium.Env:
    """Return OGBench's own environment, whose action space can be seeded; nothing else is changed.

    Raises:
        ConfigError: the package is missing.
    """
    load()
    spec = gymnasium.spec(name)
    creator: Any = load_env_creator(str(spec.entry_point))
    if isinstance(creator, type):
        creator = type(creator.__name__, (KeptActionSpace, creator), {})
    env: gymnasium.Env = creator(**{**spec.kwargs, **arguments})
    model_file = getattr(env, "fullpath", None)  # of a maze, written for this copy and read by now
    if model_file is not None and Path(model_file).parent == Path(tempfile.gettempdir()):
        Path(model_file).unlink(missing_ok=True)
    return env


def load() -> None:
    """Import OGBench, which registers its ids; its mazes are made to close the files that they open.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        mazes: Any = import_module("ogbench.locomaze.maze")
        import_module("ogbench.manipspace")
    except ImportError as error:
        raise ConfigError(f"{MISSING} ({error})") from error
    mazes.tempfile = SimpleNamespace(mkstemp=_closed_file)


def _closed_file(**options: Any) -> tuple[int, str]:
    handle, name = tempfile.mkstemp(**options)
    os.close(handle)
    return handle, name


def relabel(name: str, env: gymnasium.Env, table: dict[str, Any]) -> None:
    """Add OGBench's `rewards` and `masks` of a single task to recorded states.

    Args:
        name: OGBench's id of the environment.
        env: that environment.
        table: qpos, qvel and, where there are buttons, button_states, a row each.
    """
    import_module("ogbench.relabel_utils").relabel_dataset(name, env, table)


def gym_id(name: str) -> str:
    """Return `gymnasium.make`'s id of what stands after `ogbench:`, this module's import included.

    Recordings that the name says are left out: environments do not differ by them.

    Raises:
        ConfigError: no such environment, or the package is missing.
    """
    load()
    return f"{__name__}:{FAMILY}/{parse(name).gym_id}"


def _register() -> None:
    """Tell Gymnasium of all environments; their time limits are OGBench's."""
    load()
    for env in ENVS:
        for task in (None, *range(TASKS + 1)):
            name = Name(env, task=task).gym_id
            gymnasium.register(
                f"{FAMILY}/{name}",
                f"{__name__}:make",
                max_episode_steps=gymnasium.spec(f"{env}-{VERSION}").max_episode_steps,
                kwargs={"name": name},
                disable_env_checker=True,
                order_enforce=False,
            )


_register()
