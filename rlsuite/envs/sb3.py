"""Our environments as a Stable-Baselines3 `VecEnv`; the one module that imports stable_baselines3.

    from rlsuite.envs.sb3 import SB3VecEnv
    model = PPO("MlpPolicy", VecMonitor(SB3VecEnv("HalfCheetah", 8)))

With the same seeds, numbers are those of SB3's `DummyVecEnv` of Gymnasium's environments.

Legend: B envs, O observation, A action.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np

from rlsuite.envs.base import VectorEnv
from rlsuite.envs.gymnasium_view import Adapter, of_env
from rlsuite.errors import ConfigError

try:
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv
except ImportError as error:
    raise ConfigError(
        f"rlsuite.envs.sb3 needs Stable-Baselines3: pip install stable-baselines3 ({error})"
    ) from error

Indices = None | int | Iterable[int]
"""Of envs; None is all of them."""


class SB3VecEnv(VecEnv):
    """B of our envs, stepped together and reset by themselves, for SB3's algorithms.

    There is one environment of B envs and no B environments: `get_attr` gives each env the same, `env_method`
    renders, and what `set_attr` sets is kept here for each env and changes nothing in the simulation.
    An env that was cut off because a number was not finite has `valid` False in its info.

    Args:
        env_id: what `make_env` takes, e.g. "HalfCheetah" or "dmc:cheetah-run".
        num_envs: B.
        dtype: "float32", which SB3's networks take, or "float64", of observations.
        infos: say in each env's info what Gymnasium's environment says; SB3's algorithms read none of it.
        render_mode: None or "rgb_array".
        max_episode_steps: instead of the environment's own limit.
        threads: at most so many; 0 takes all cores.
        options: Gymnasium's constructor arguments, by name.

    Raises:
        ConfigError: see `make_env`.
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        *,
        dtype: str = "float32",
        infos: bool = False,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        threads: int = 0,
        **options: Any,
    ) -> None:
        self._adapter = Adapter(
            env_id,
            num_envs,
            dtype=dtype,
            infos=infos,
            render_mode=render_mode,
            max_episode_steps=max_episode_steps,
            threads=threads,
            options=options,
        )
        self._set: dict[str, list[Any]] = {}  # what `set_attr` set, of each env
        self.render_mode = render_mode
        super().__init__(num_envs, self._adapter.observation_space, self._adapter.action_space)
        self._actions: np.ndarray | None = None

    @property
    def env(self) -> VectorEnv:
        """Our environment underneath."""
        return self._adapter.env

    def reset(self) -> np.ndarray:
        """Start new episodes in all envs, from the seeds of `seed()` if it was called; return `[B, O]`."""
        if all(seed is not None for seed in self._seeds):
            self.env.seed_envs([int(seed) for seed in self._seeds if seed is not None])
        self._reset_seeds()
        self._reset_options()
        observation = self.env.reset_arrays()
        told = self._adapter.reset_infos()
        self.reset_infos = [of_env(told, index) for index in range(self.num_envs)]
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions `[B, A]` in the environment's units, or `[B]` of a discrete one."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all envs; return observations `[B, O]`, rewards float32, dones `[B]`, infos.

        Where an episode ended the observation is the next one's first, and the info has the last one as
        `terminal_observation`, and whether it ended by no doing of the task as `TimeLimit.truncated`.
        """
        assert self._actions is not None, "step_wait without step_async"
        result = self._adapter.step(self._actions)
        self._actions = None
        done = result.terminated | result.truncated
        told = self._adapter.infos()
        infos = [{**of_env(told, index), "TimeLimit.truncated": False} for index in range(self.num_envs)]
        observation = result.observation
        if np.count_nonzero(done):
            ended = np.flatnonzero(done).tolist()
            for index in ended:
                infos[index]["terminal_observation"] = observation[index]
                infos[index]["TimeLimit.truncated"] = not result.terminated[index]
                if not result.valid[index]:
                    infos[index]["valid"] = False
            observation = self.env.reset_arrays(done)
            told = self._adapter.reset_infos()
            for index in ended:
                self.reset_infos[index] = of_env(told, index)
        return observation, result.reward.astype(np.float32, copy=False), done, infos

    def close(self) -> None:
        """Close our environment."""
        self.env.close(raise_if_closed=False)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return a picture of every env, uint8 `[height, width, 3]`; None without a render mode."""
        if self.render_mode is None:
            return [None] * self.num_envs
        return [self.env.frame(index) for index in range(self.num_envs)]

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return what `set_attr` set, else an attribute of this object or of our environment, for each env.

        Raises:
            AttributeError: there is none.
        """
        chosen = list(self._get_indices(indices))
        if attr_name in self._set:
            return [self._set[attr_name][index] for index in chosen]
        if attr_name.startswith("_"):
            raise AttributeError(f"{attr_name} is private")
        owner = self if attr_name in ("render_mode", "action_space", "observation_space") else self.env
        return [getattr(owner, attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Keep a value for each of the envs, which `get_attr` then gives.

        Raises:
            ConfigError: our environment has an attribute of that name, which is all envs' own.
        """
        if hasattr(self.env, attr_name):
            raise ConfigError(f"{attr_name} belongs to all envs of {self.env.env_id}: set it on `.env`")
        values = self._set.setdefault(attr_name, [None] * self.num_envs)
        for index in self._get_indices(indices):
            values[index] = value

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Render the envs (`render`), or look attributes up (`get_wrapper_attr`, `has_wrapper_attr`).

        Raises:
            ConfigError: another method: the envs are stepped together and have none of their own.
        """
        chosen = list(self._get_indices(indices))
        if method_name == "render":
            return [self.env.frame(index) for index in chosen]
        if method_name == "get_wrapper_attr":
            return self.get_attr(method_args[0], chosen)
        if method_name == "has_wrapper_attr":
            return [self.has_attr(method_args[0])] * len(chosen)
        raise ConfigError(
            f'env_method "{method_name}": envs of {self.env.env_id} are stepped together and have no methods '
            "of their own but render, get_wrapper_attr, has_wrapper_attr; use `.env`"
        )

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Indices = None) -> list[bool]:
        """Say that no env has a wrapper of its own; SB3's `VecMonitor` is put around all of them."""
        return [False for _ in self._get_indices(indices)]
