"""Any Gymnasium environment with flat observations, as TorchRL sees it.

A step returns the true successor and never resets, which is TorchRL's rule; only the envs of a mask
start over.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from rlsuite.envs import robotics
from rlsuite.envs.base import DEFAULT_FPS, EnvFacts, Outcome, VectorEnv
from rlsuite.envs.flatten import MASK_KEY, FlatObservation
from rlsuite.envs.goals import goal_facts
from rlsuite.envs.gym_builder import Builder
from rlsuite.envs.gym_copies import Copies, LocalCopies, WorkerCopies
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.rendering import checked_picture
from rlsuite.envs.replayed import ReplayedEnv
from rlsuite.errors import ConfigError, EnvironmentFailure, RLSuiteError, unknown_name

logger = logging.getLogger(__name__)

PICTURE_AXES = 3  # an observation [height, width, channels]


class GymEnv(ReplayedEnv):
    """B copies of a Gymnasium environment; see `VectorEnv` for the contract.

    Actions of any shape are shown as vectors. Of a Box of whole numbers the nearest one is taken.

    Args:
        gym_id: a registered id, e.g. Pendulum-v1; `module:Id-v0` imports the module first.
        num_envs: B, stepped one after the other, or by `options.workers` processes.
        options: see `EnvOptions`; env i draws the seeds of its episodes from a generator of seed + i.
        discrete: the environment takes one of A actions; observations may be numbers of states, shown as
            one of all, and small pictures, shown flat.

    Raises:
        ConfigError: unknown id or option, missing package, or spaces that our agents cannot use.
        EnvironmentFailure: the environment's own code failed while it was made.
    """

    def __init__(
        self, gym_id: str, num_envs: int = 1, options: EnvOptions | None = None, *, discrete: bool = False
    ) -> None:
        options = options or EnvOptions()
        arguments = _arguments(gym_id, options)
        first = _make(gym_id, arguments)
        spec = first.spec
        assert spec is not None
        halved, keys = options.legacy_margin, options.observation_keys
        if halved and not isinstance(getattr(first.unwrapped, "model", None), mujoco.MjModel):
            raise ConfigError(f'"gym:{gym_id}" has no MuJoCo model whose contact margins could be halved')

        build = Builder(spec, arguments, keys, halved=halved)
        with blamed(f"gym:{gym_id}", "cannot be made"):
            shown, taken = first.observation_space, first.action_space
            (_check_discrete if discrete else _check_spaces)(gym_id, shown, taken)
            if discrete:
                build.masked = _mask_of_infos(first)
            flat = build.prepare(first)
            size = flat.observation_space.shape
            builders: list[Callable[[], gymnasium.Env]] = [build] * num_envs
            if options.workers:
                flat.close()
                self._copies: Copies = WorkerCopies(builders, options.workers, options.step_timeout)
            else:
                self._copies = LocalCopies([lambda: flat, *builders[1:]])
        assert size is not None
        parts = flat if isinstance(flat, FlatObservation) else None
        picture = tuple(shown.shape or ()) if discrete and len(shown.shape or ()) == PICTURE_AXES else None
        self._actions = Actions(taken)
        masked = discrete and bool(build.masked or (parts and parts.masks(len(self._actions.low))))
        if masked and picture is not None:
            raise ConfigError(f'"gym:{gym_id}" shows pictures beside a mask of actions: not both can be used')
        facts = EnvFacts(
            env_id=f"gym:{gym_id}",
            engine_name="gym",
            num_envs=num_envs,
            observation_size=size[0],
            action_low=self._actions.low,
            action_high=self._actions.high,
            max_episode_steps=arguments.get("max_episode_steps", spec.max_episode_steps),
            packages=("gymnasium", "mujoco"),
            fps=float(first.metadata.get("render_fps") or DEFAULT_FPS),
            discrete=discrete,
            picture=picture,
            pixels=None if discrete else _pixels(shown, flat),
            masked=masked,
            foreign=not options.workers,  # who waits for workers waits for a limited time
            goal=goal_facts(first.unwrapped, flat),
            parts=parts.sizes if parts else (),
        )
        super().__init__(facts, options)
        self._render = options.render
        self._set_seed(options.seed)

    def frame(self, index: int = 0) -> np.ndarray:
        """Return a picture of one env, uint8 `[height, width, 3]`.

        Raises:
            ConfigError: the environment was made without `render=True`, or cannot draw here.
        """
        if not self._render:
            raise ConfigError(f"{self.env_id} was made without pictures; use make_env(..., render=True)")
        try:
            drawn = self._copies.render(index)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ConfigError(f"pictures of {self.env_id} need a missing package: {error}") from error
        except Exception as error:
            raise ConfigError(f"{self.env_id} gives no pictures: {said(error)}") from error
        return checked_picture(drawn, self.env_id)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close all copies; an environment that cannot be closed is left to the process's end."""
        copies = self.__dict__.pop("_copies", None)
        if copies is not None:
            try:
                copies.close()
            except Exception as error:  # noqa: BLE001 - other people's code may raise anything
                logger.warning("%s could not be closed: %s", self.env_id, said(error))
        super().close(raise_if_closed=raise_if_closed)

    def _begin(self, mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        with Timed(self):
            return self._copies.reset(mask, seeds)

    def _play(self, action: np.ndarray) -> Outcome:
        with Timed(self):
            played = self._copies.step(self._actions.native(action))
        self.success = None if np.isnan(played.success).any() else played.success > 0
        return Outcome(*played[:-1])

    def _replay(self, index: int, seed: int, actions: np.ndarray) -> None:
        with Timed(self):
            self._copies.replay(index, seed, self._actions.native(actions))


class Actions:
    """The way from our action vectors to an environment's own actions.

    Args:
        space: a Box of any shape, or Discrete.

    Attributes:
        low: least action of each, `[A]`; -1 of scores.
        high: greatest action.
    """

    def __init__(self, space: spaces.Space) -> None:
        self._space = space
        if isinstance(space, spaces.Discrete):
            self.high = np.ones(int(space.n))
            self.low = -self.high
        else:
            assert isinstance(space, spaces.Box)
            self.low, self.high = (side.astype(np.float64).ravel() for side in (space.low, space.high))

    def native(self, action: np.ndarray) -> Sequence[Any]:
        """Return what the environment takes for each of actions `[K, A]` in its units."""
        space = self._space
        if isinstance(space, spaces.Discrete):
            return list(action.argmax(-1) + space.start)
        assert isinstance(space, spaces.Box)
        inside = np.clip(action, self.low, self.high)  # the last digit of a sum may lie outside
        if np.issubdtype(space.dtype, np.integer):
            inside = np.rint(inside)
        rows = inside.reshape(len(action), *space.shape).astype(space.dtype)
        return [np.asarray(row) for row in rows]


class Timed:
    """Says how long foreign environment code has been at work, and names the environment that raises."""

    def __init__(self, env: VectorEnv) -> None:
        self._env = env

    def __enter__(self) -> None:
        self._env.foreign_since = time.monotonic() if self._env.facts.foreign else None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._env.foreign_since = None
        if isinstance(error, Exception | SystemExit) and not isinstance(error, RLSuiteError):
            raise EnvironmentFailure(f"{self._env.env_id} failed: {said(error)}") from error


@contextmanager
def blamed(name: str, what: str) -> Iterator[None]:
    """Turn what other people's code raises into an EnvironmentFailure of one line."""
    try:
        yield
    except RLSuiteError:
        raise
    except (Exception, SystemExit) as error:
        raise EnvironmentFailure(f"{name} {what}: {said(error)}") from error


def said(error: BaseException) -> str:
    """Return an error's type and message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _arguments(gym_id: str, options: EnvOptions) -> dict[str, Any]:
    """Return the arguments of `gymnasium.make`."""
    arguments = {**options.options, **({"render_mode": "rgb_array"} if options.render else {})}
    if options.max_episode_steps is not None:
        arguments["max_episode_steps"] = options.max_episode_steps
    limit = arguments.get("max_episode_steps")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ConfigError(f'"gym:{gym_id}": max_episode_steps = {limit}: must be a whole number, at least 1')
    return arguments


def _make(gym_id: str, arguments: Mapping[str, Any]) -> gymnasium.Env:
    """Make one environment."""
    module, colon, _ = gym_id.rpartition(":")
    if robotics.PACKAGE in (module, *sys.modules) or not (colon or gym_id in gymnasium.registry):
        robotics.register()
    try:
        return gymnasium.make(gym_id, **arguments)
    except RLSuiteError:
        raise
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
    except (Exception, SystemExit) as error:
        if isinstance(error, TypeError) and arguments:
            raise ConfigError(f'"gym:{gym_id}" does not take {", ".join(arguments)}: {error}') from error
        raise EnvironmentFailure(f"gym:{gym_id} cannot be made: {said(error)}") from error


def _registered() -> list[str]:
    return [f"gym:{name}" for name in gymnasium.registry]


def single_copy(gym_id: str, options: EnvOptions) -> gymnasium.Env:
    """Return one Gymnasium environment as `gymnasium.make` gives it; raises like `GymEnv`."""
    return _make(gym_id, _arguments(gym_id, options))


def has_discrete_actions(gym_id: str, options: EnvOptions) -> bool:
    """Return whether a Gymnasium environment takes one of A actions; raises like `GymEnv`."""
    env = single_copy(gym_id, options)
    with blamed(f"gym:{gym_id}", "cannot be made"):
        discrete = isinstance(env.action_space, spaces.Discrete)
        env.close()
    return discrete


def _check_discrete(gym_id: str, observations: spaces.Space, actions: spaces.Space) -> None:
    """Raise ConfigError for spaces that agents of discrete actions cannot use."""
    if not isinstance(actions, spaces.Discrete):
        raise ConfigError(f'"gym:{gym_id}" takes actions {actions}, and not one of a few')
    if not isinstance(spaces.flatten_space(observations), spaces.Box):
        raise ConfigError(f'"gym:{gym_id}" shows {observations}, which cannot be flattened to a vector')


def _check_spaces(gym_id: str, observations: spaces.Space, actions: spaces.Space) -> None:
    """Raise ConfigError for spaces that our agents cannot use."""
    if not isinstance(actions, spaces.Box):
        hint = f'; agents of discrete actions take "discrete:gym:{gym_id}"'
        raise ConfigError(
            f'"gym:{gym_id}" takes actions {actions}; our agents need a Box (continuous)'
            + (hint if isinstance(actions, spaces.Discrete) else "")
        )
    if not np.prod(actions.shape):
        raise ConfigError(f'"gym:{gym_id}" takes actions {actions}, which have no numbers')
    if len(observations.shape or ()) == PICTURE_AXES and observations.dtype != np.uint8:
        raise ConfigError(f'"gym:{gym_id}" shows pictures {observations}; our agents need bytes (uint8)')
    if not isinstance(spaces.flatten_space(observations), spaces.Box):
        raise ConfigError(f'"gym:{gym_id}" shows {observations}, which cannot be flattened to a vector')


def _mask_of_infos(env: gymnasium.Env) -> int:
    """Return the length of the mask of discrete actions that an environment's infos bring; 0 for none.

    An environment that shows its mask in a dictionary needs none of its infos. It is reset to find out: every
    episode begins with a seed of its own, so this changes none.
    """
    space = env.observation_space
    if isinstance(space, spaces.Dict) and MASK_KEY in space.spaces:
        return 0
    _, info = env.reset(seed=0)
    count = int(cast(spaces.Discrete, env.action_space).n)
    return count if np.shape(info.get(MASK_KEY, ())) == (count,) else 0


def _pixels(shown: spaces.Space, flat: gymnasium.Env) -> tuple[int, int, int, int] | None:
    """Return height, width, channels and 1 frame of observations that are one picture of bytes; else None."""
    if isinstance(flat, FlatObservation) and (only := flat.only_part) is not None:
        shown = only
    if not isinstance(shown, spaces.Box) or len(shown.shape) != PICTURE_AXES or shown.dtype != np.uint8:
        return None
    height, width, channels = shown.shape
    return height, width, channels, 1
