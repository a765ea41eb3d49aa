"""Any Gymnasium environment with flat observations and continuous actions, as TorchRL sees it.

Gymnasium's SyncVectorEnv runs with automatic resets disabled, which is TorchRL's rule: a step returns the
true successor, and `reset(options={"reset_mask": mask})` starts over only the worlds of the mask.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlsuite.envs.base import Outcome, VectorEnv
from rlsuite.envs.flatten import FlatObservation
from rlsuite.envs.replayed import ReplayedEnv
from rlsuite.envs.seeding import Seeds
from rlsuite.envs.tasks.base import halve_margins
from rlsuite.errors import ConfigError, EnvironmentFailure, unknown_name

PICTURE_AXES = 3  # an observation [height, width, channels]


class GymEnv(ReplayedEnv):
    """B copies of a Gymnasium environment; see `VectorEnv` for the contract.

    Args:
        gym_id: a registered id, e.g. Pendulum-v1; `module:Id-v0` imports the module first.
        num_envs: B worlds, stepped one after the other.
        device: where tensors are handed out.
        seed: world i draws the seeds of its episodes from a generator of seed + i.
        dtype: of observations, rewards and actions.
        max_episode_steps: instead of the registered limit.
        observation_keys: parts of a dictionary observation, in this order; by default all, state first.
        render: make pictures for `frame`.
        options: further arguments of `gymnasium.make`, by name.
        legacy_margin: halve the contact margins of the MuJoCo model; see `tasks.base.legacy_margins`.
        discrete: the environment takes one of A actions; observations may be numbers of states, shown as
            one of all, and small pictures, shown flat.

    Raises:
        ConfigError: unknown id or option, missing package, or spaces that our agents cannot use.
    """

    foreign = True

    def __init__(
        self,
        gym_id: str,
        num_envs: int = 1,
        *,
        device: torch.device | str = "cpu",
        seed: Seeds = 0,
        dtype: torch.dtype = torch.float32,
        max_episode_steps: int | None = None,
        observation_keys: Sequence[str] | None = None,
        render: bool = False,
        options: Mapping[str, Any] | None = None,
        legacy_margin: bool = False,
        discrete: bool = False,
    ) -> None:
        arguments: dict[str, Any] = {**(options or {}), **({"render_mode": "rgb_array"} if render else {})}
        if max_episode_steps is not None:
            arguments["max_episode_steps"] = max_episode_steps

        def build() -> gymnasium.Env:
            env = gymnasium.make(gym_id, **arguments)
            if legacy_margin:
                halve_margins(env.get_wrapper_attr("model"))
            return _flattened(env, observation_keys)

        spec, first = _make(gym_id, arguments)
        if legacy_margin and not isinstance(getattr(first.unwrapped, "model", None), mujoco.MjModel):
            raise ConfigError(f'"gym:{gym_id}" has no MuJoCo model whose contact margins could be halved')
        if discrete:
            _check_discrete(gym_id, first.observation_space, first.action_space)
        else:
            _check_spaces(gym_id, first.observation_space, first.action_space)
        picture = first.observation_space.shape or ()
        first.close()
        self._vector = SyncVectorEnv([build] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        actions = self._vector.single_action_space
        if isinstance(actions, gymnasium.spaces.Discrete):
            self._first_action = int(actions.start)
            high = np.ones(int(actions.n))
            low = -high
        else:
            assert isinstance(actions, gymnasium.spaces.Box)
            low, high = actions.low, actions.high
        observations = self._vector.single_observation_space
        assert observations.shape is not None
        super().__init__(
            env_id=f"gym:{gym_id}",
            engine_name="gym",
            num_envs=num_envs,
            observation_size=observations.shape[0],
            action_low=low,
            action_high=high,
            max_episode_steps=spec.max_episode_steps if max_episode_steps is None else max_episode_steps,
            packages=("gymnasium", "mujoco"),
            device=device,
            dtype=dtype,
        )
        self._render, self.discrete = render, discrete
        if discrete and len(picture) == PICTURE_AXES:
            self.picture = tuple(picture)
        self._set_seed(seed)

    def frame(self, world: int = 0) -> np.ndarray:
        """Return a picture of one world, uint8 `[height, width, 3]`.

        Raises:
            ConfigError: the environment was made without `render=True`, or cannot draw here.
        """
        if not self._render:
            raise ConfigError(f"{self.env_id} was made without pictures; use make_env(..., render=True)")
        try:
            return np.asarray(self._vector.envs[world].render(), np.uint8)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ConfigError(f"pictures of {self.env_id} need a missing package: {error}") from error
        except (RuntimeError, TypeError, gymnasium.error.Error) as error:  # pygame's own is a RuntimeError
            raise ConfigError(f"{self.env_id} gives no pictures: {error}") from error

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close all copies."""
        if "_vector" in self.__dict__ and not self._vector.closed:
            self._vector.close()
        super().close(raise_if_closed=raise_if_closed)

    def _begin(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        with _Blamed(self):
            observation, _ = self._vector.reset(seed=seeds.tolist(), options={"reset_mask": mask})
        return observation.astype(np.float64)

    def _play(self, action: np.ndarray) -> Outcome:
        with _Blamed(self):
            observation, reward, terminated, truncated, _ = self._vector.step(self._native(action))
        return Outcome(
            observation=torch.from_numpy(observation.astype(np.float64)),
            reward=torch.from_numpy(reward.astype(np.float64)),
            terminated=torch.from_numpy(terminated.copy()),
            truncated=torch.from_numpy(truncated.copy()),
        )

    def _replay(self, world: int, seed: int, actions: np.ndarray) -> None:
        # A single copy can be played on its own: the vector environment keeps nothing but its last outputs.
        env = self._vector.envs[world]
        with _Blamed(self):
            env.reset(seed=seed)
            for action in self._native(actions):
                env.step(action)

    def _native(self, action: np.ndarray) -> np.ndarray:
        if self.discrete:
            return action.argmax(-1) + self._first_action
        return action.astype(self._vector.single_action_space.dtype)


def _flattened(env: gymnasium.Env, keys: Sequence[str] | None) -> gymnasium.Env:
    """Wrap an environment so that it shows vectors."""
    space = env.observation_space
    if isinstance(space, gymnasium.spaces.Dict):
        return FlatObservation(env, keys)
    if keys is not None:
        raise ConfigError(f"{env} shows {space}, which has no parts to choose from: {', '.join(keys)}")
    flat = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
    return env if flat else gymnasium.wrappers.FlattenObservation(env)


class _Blamed:
    """Times foreign environment code, and turns what it raises into an EnvironmentFailure that names it."""

    def __init__(self, env: VectorEnv) -> None:
        self._env = env

    def __enter__(self) -> None:
        self._env.foreign_since = time.monotonic()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._env.foreign_since = None
        if isinstance(error, Exception):
            raise EnvironmentFailure(f"{self._env.env_id} failed: {type(error).__name__}: {error}") from error


def _make(gym_id: str, arguments: dict[str, Any]) -> tuple[Any, gymnasium.Env]:
    """Make one environment for its spaces; return its registration too."""
    try:
        env = gymnasium.make(gym_id, **arguments)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f'"gym:{gym_id}" needs a package that is not installed: {error}') from error
    except ModuleNotFoundError as error:
        raise ConfigError(f'"gym:{gym_id}" needs a module that is not installed: {error}') from error
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise unknown_name(
            "a Gymnasium environment",
            f"gym:{gym_id}",
            _registered(),
            "python -c 'import gymnasium; gymnasium.pprint_registry()'",
        ) from error
    except (gymnasium.error.Error, ImportError) as error:
        raise ConfigError(f'"gym:{gym_id}": {error}') from error
    except AssertionError as error:  # FrankaKitchen-v1 asserts on the names that newer MuJoCo gives its model
        said = f": {error}" if str(error) else " in its constructor"
        raise EnvironmentFailure(f'"gym:{gym_id}" cannot be made: AssertionError{said}') from error
    except TypeError as error:
        if not arguments:
            raise
        raise ConfigError(f'"gym:{gym_id}" does not take {", ".join(arguments)}: {error}') from error
    return env.spec, env


def _registered() -> list[str]:
    return [f"gym:{name}" for name in gymnasium.registry]


def has_discrete_actions(gym_id: str, options: Mapping[str, Any] | None) -> bool:
    """Whether a Gymnasium environment takes one of A actions; raises as `GymEnv` for what cannot be made."""
    _, env = _make(gym_id, dict(options or {}))
    found = isinstance(env.action_space, gymnasium.spaces.Discrete)
    env.close()
    return found


def _check_discrete(gym_id: str, observations: gymnasium.Space, actions: gymnasium.Space) -> None:
    """Raise ConfigError for spaces that agents of discrete actions cannot use."""
    if not isinstance(actions, gymnasium.spaces.Discrete):
        raise ConfigError(f'"gym:{gym_id}" takes actions {actions}, and not one of a few')
    if not isinstance(gymnasium.spaces.flatten_space(observations), gymnasium.spaces.Box):
        raise ConfigError(f'"gym:{gym_id}" shows {observations}, which cannot be flattened to a vector')


def _check_spaces(gym_id: str, observations: gymnasium.Space, actions: gymnasium.Space) -> None:
    """Raise ConfigError for spaces that our agents cannot use."""
    if not isinstance(actions, gymnasium.spaces.Box) or len(actions.shape) != 1:
        discrete = isinstance(actions, gymnasium.spaces.Discrete)
        raise ConfigError(
            f'"gym:{gym_id}" takes actions {actions}; our agents need a flat Box (continuous)'
            + (f'; agents of discrete actions take "discrete:gym:{gym_id}"' if discrete else "")
        )
    if len(observations.shape or ()) == PICTURE_AXES:
        raise ConfigError(f'"gym:{gym_id}" shows pictures {observations}; our agents need vectors')
    if not isinstance(gymnasium.spaces.flatten_space(observations), gymnasium.spaces.Box):
        raise ConfigError(f'"gym:{gym_id}" shows {observations}, which cannot be flattened to a vector')
