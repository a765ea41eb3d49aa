"""Our environments as Gymnasium's: one of them, or many as a VectorEnv, in numpy, with Gymnasium's numbers.

`import rlsuite.gym` registers them; then `gymnasium.make("rlsuite/HalfCheetah-v5")` and
`gymnasium.make_vec("rlsuite/HalfCheetah-v5", num_envs=64)` make them. Actions are in the environment's units
and are handed on as they are, as Gymnasium's own environments do.

Legend: B envs, O observation, A action.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rlsuite.envs.base import StepResult, VectorEnv, refuse_private
from rlsuite.envs.clock import NO_LIMIT
from rlsuite.envs.make import make_env
from rlsuite.envs.mujoco import MujocoEnv
from rlsuite.errors import ConfigError

RENDER_MODES = ("rgb_array",)
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Adapter:
    """What both views share: spaces, actions, infos.

    Args:
        env_id: what `make_env` takes.
        num_envs: B.
        dtype: "float64", as Gymnasium's, or "float32", of observations.
        infos: compute what Gymnasium's environments say in `info`; a fifth of a single env's time.
        render_mode: None or "rgb_array".
        max_episode_steps: instead of the environment's own limit.
        threads: at most so many; 0 takes all cores.
        options: Gymnasium's constructor arguments, by name.

    Raises:
        ConfigError: an unknown dtype, render mode, environment or option.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        *,
        dtype: str,
        infos: bool,
        render_mode: str | None,
        max_episode_steps: int | None,
        threads: int,
        options: Mapping[str, Any],
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f'dtype = "{dtype}": allowed are {", ".join(DTYPES)}')
        if render_mode not in (None, *RENDER_MODES):
            raise ConfigError(
                f'render_mode = "{render_mode}": allowed are None and {", ".join(RENDER_MODES)}'
            )
        self.env = make_env(
            env_id,
            num_envs,
            seed=None,
            dtype=DTYPES[dtype],
            infos=infos,
            render=render_mode is not None,
            max_episode_steps=max_episode_steps,
            threads=threads,
            options=options,
        )
        facts = self.env.facts
        refuse_private(facts)
        self.observation_space = spaces.Box(-np.inf, np.inf, (facts.observation_size,), np.dtype(dtype).type)
        self.action_space: spaces.Space
        if facts.discrete:
            self.action_space = spaces.Discrete(len(facts.action_low))
        else:
            low, high = (np.asarray(side, np.float32) for side in (facts.action_low, facts.action_high))
            self.action_space = spaces.Box(low, high, dtype=np.float32)
        self._choices = np.eye(len(facts.action_low)) if facts.discrete else None
        self._told = self.env if isinstance(self.env, MujocoEnv) and infos else None

    def step(self, actions: np.ndarray) -> StepResult[np.ndarray]:
        """Step all envs under `[B, A]` in the environment's units, or `[B]` of a discrete one."""
        if self._choices is None:
            return self.env.step_arrays(np.asarray(actions), native=True)
        return self.env.step_arrays(self._choices[np.asarray(actions)])

    def infos(self) -> Mapping[str, Any]:
        """Return what the task says of the last step, each `[B, ...]`, or a number where all envs have it."""
        return {} if self._told is None else self._told.infos()

    def reset_infos(self) -> Mapping[str, Any]:
        """Return what the task says of fresh states, as `infos`."""
        return {} if self._told is None else self._told.reset_infos()

    @property
    def generators(self) -> list[np.random.Generator]:
        """What each env's next episodes are drawn from."""
        return self.env.generators


class VectorView(gymnasium.vector.VectorEnv):
    """B of our envs as a Gymnasium VectorEnv, equal to `SyncVectorEnv` of the original number by number.

    Results are new arrays, which nothing writes to again: there is nothing to copy.

    Args:
        env_id: what `make_env` takes, e.g. "HalfCheetah-v5" or "dmc:cheetah-run".
        num_envs: B.
        autoreset_mode: when an env whose episode has ended starts anew: with the next step, with the same one
            (then `final_obs` and `final_info` are in the infos), or by `reset(options={"reset_mask": mask})`.
        render_mode: None or "rgb_array".
        max_episode_steps: instead of the environment's own limit.
        threads: at most so many; 0 takes all cores.
        dtype: "float64", as Gymnasium's, or "float32", of observations.
        infos: compute what Gymnasium's environments say in `info`.
        options: Gymnasium's constructor arguments, by name.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        threads: int = 0,
        dtype: str = "float64",
        infos: bool = True,
        **options: Any,
    ) -> None:
        adapter = Adapter(
            env_id,
            num_envs,
            dtype=dtype,
            infos=infos,
            render_mode=render_mode,
            max_episode_steps=max_episode_steps,
            threads=threads,
            options=options,
        )
        self._adapter = adapter
        self.num_envs, self.render_mode = num_envs, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": round(adapter.env.fps),
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_observation_space, self.single_action_space = (
            adapter.observation_space,
            adapter.action_space,
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = np.zeros(num_envs, np.bool_)  # and not reset yet, where `_waiting`
        self._waiting = False

    @property
    def env(self) -> VectorEnv:
        """Our environment underneath."""
        return self._adapter.env

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Return each env's generator."""
        return tuple(self._adapter.generators)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes in all envs, or in those of `options["reset_mask"]` `[B]` bool.

        Args:
            seed: of env 0, env i having seed + i; or one for each, None for those that go on drawing.
            options: `reset_mask`; others are not for us.

        Raises:
            ValueError: a mask without a True, or another number of seeds than envs.
        """
        mask = np.ones(self.num_envs, np.bool_)
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"])
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
                raise ValueError(
                    f"reset_mask: came {mask.dtype} {list(mask.shape)} with {int(mask.sum())} True; it must "
                    f"be bool [{self.num_envs}] with a True at least"
                )
        for index, chosen in enumerate(self._seeds(seed)):
            if chosen is not None and mask[index]:
                self._adapter.generators[index] = np_random(int(chosen))[0]
        observation = self.env.reset_arrays(mask)
        self._ended = self._ended & ~mask if self._waiting else np.zeros_like(mask)
        self._waiting = bool(np.count_nonzero(self._ended))
        infos: dict[str, Any] = {}
        _tell(infos, self._adapter.reset_infos(), mask)
        return observation, infos

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all envs; return observations `[B, O]`, rewards, terminations, truncations `[B]`, infos.

        Raises:
            AssertionError: without automatic resets, an env whose episode has ended.
        """
        if self._waiting and self.autoreset_mode is AutoresetMode.DISABLED:
            over = np.flatnonzero(self._ended).tolist()
            raise AssertionError(f"reset first: episodes of envs {over} are over")
        result = self._adapter.step(actions)
        observation, terminated, truncated = result.observation, result.terminated, result.truncated
        reward = result.reward.astype(np.float64, copy=False)
        told = self._adapter.infos()
        infos: dict[str, Any] = {}
        everybody = np.ones(self.num_envs, np.bool_)
        if self._waiting:  # NEXT_STEP: the step was the whole batch's; what it did to these is forgotten
            again = self._ended
            observation = self.env.reset_arrays(again)
            reward[again], terminated[again], truncated[again] = 0.0, False, False
            _tell(infos, self._adapter.reset_infos(), again)
            everybody = ~again
        ended = terminated | truncated
        some_ended = bool(np.count_nonzero(ended))
        if some_ended and self.autoreset_mode is AutoresetMode.SAME_STEP:
            observation = self._start_anew(ended, observation, told, infos)
            everybody, some_ended = ~ended, False
        _tell(infos, told, everybody)
        self._ended, self._waiting = ended, some_ended
        return observation, reward, terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return a picture of every env, uint8 `[height, width, 3]`; None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(self.env.frame(index) for index in range(self.num_envs))

    def close_extras(self, **_: Any) -> None:
        """Close our environment."""
        self.env.close(raise_if_closed=False)

    def _start_anew(
        self, ended: np.ndarray, last: np.ndarray, told: Mapping[str, Any], infos: dict[str, Any]
    ) -> np.ndarray:
        """Restart the envs that ended, and put their last observation and infos where Gymnasium has them."""
        final = np.full(self.num_envs, None, object)
        for index in np.flatnonzero(ended):
            final[index] = last[index]
        final_infos: dict[str, Any] = {}
        _tell(final_infos, told, ended)
        infos.update(
            final_obs=final, _final_obs=ended.copy(), final_info=final_infos, _final_info=ended.copy()
        )
        observation = self.env.reset_arrays(ended)
        _tell(infos, self._adapter.reset_infos(), ended)
        return observation

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None or not isinstance(seed, Sequence):
            return [None if seed is None else seed + index for index in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} envs")
        return seed


class SingleView(gymnasium.Env):
    """One of our envs as a Gymnasium environment; `gymnasium.make` adds the time limit.

    Args:
        env_id: what `make_env` takes.
        render_mode: None or "rgb_array".
        dtype: "float64", as Gymnasium's, or "float32", of observations.
        infos: compute what Gymnasium's environment says in `info`.
        options: Gymnasium's constructor arguments, by name.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES)}  # noqa: RUF012 (declared so by Gymnasium)
    limit: ClassVar[int | None] = NO_LIMIT
    """Env steps of an episode: the wrapper that `gymnasium.make` adds counts those of the task."""

    def __init__(
        self,
        env_id: str,
        *,
        render_mode: str | None = None,
        dtype: str = "float64",
        infos: bool = True,
        **options: Any,
    ) -> None:
        adapter = Adapter(
            env_id,
            1,
            dtype=dtype,
            infos=infos,
            render_mode=render_mode,
            max_episode_steps=self.limit,
            threads=1,
            options=options,
        )
        self._adapter = adapter
        self.render_mode = render_mode
        self.observation_space, self.action_space = adapter.observation_space, adapter.action_space
        self.metadata = {"render_modes": list(RENDER_MODES), "render_fps": round(adapter.env.fps)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a new episode; return its first observation `[O]` and its info."""
        super().reset(seed=seed)
        self._adapter.generators[0] = self.np_random
        observation = self._adapter.env.reset_arrays()
        return observation[0], of_env(self._adapter.reset_infos(), 0)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action `[A]`; return observation `[O]`, reward, terminated, truncated, info."""
        result = self._adapter.step(np.asarray(action)[None])
        return (
            result.observation[0],
            float(result.reward[0]),
            bool(result.terminated[0]),
            bool(result.truncated[0]),
            of_env(self._adapter.infos(), 0),
        )

    def render(self) -> np.ndarray | None:
        """Return a picture, uint8 `[height, width, 3]`; None without a render mode."""
        return None if self.render_mode is None else self._adapter.env.frame(0)

    def close(self) -> None:
        """Close our environment."""
        self._adapter.env.close(raise_if_closed=False)


class ToyView(SingleView):
    """One of our environments without a physics engine, whose time limit is its own."""

    limit: ClassVar[int | None] = None


def of_env(values: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return one env's values out of `[B, ...]`; a number is what all of them have."""
    return {name: value[index] if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _tell(infos: dict[str, Any], values: Mapping[str, Any], mask: np.ndarray) -> None:
    """Put the values of the envs of `mask` into vector infos, each with its mask, as Gymnasium does.

    Masks of one call are one array.
    """
    count = len(mask)
    chosen = int(np.count_nonzero(mask)) if values else 0
    if not chosen:
        return
    for name, value in values.items():
        each = value if isinstance(value, np.ndarray) else np.full(count, value)
        if chosen == count:
            infos[name], infos[f"_{name}"] = each, mask
            continue
        target = infos.setdefault(name, np.zeros_like(each))
        target[mask] = each[mask]
        infos[f"_{name}"] = infos.get(f"_{name}", np.zeros_like(mask)) | mask
