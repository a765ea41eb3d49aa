"""Tasks of EnvPool (`envpool:ID`), stepped by its own threads; a resumed run begins new episodes.

EnvPool restarts an env at the step after its end, unless it is reset before: that is what happens here, so
every last observation is the episode's own.

Legend: B envs, O observation, A action.
"""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces

from rlsuite.envs.base import EnvFacts, Outcome
from rlsuite.envs.gym import Timed, blamed
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.stateless import StatelessEnv
from rlsuite.errors import ConfigError, unknown_name


class EnvPoolEnv(StatelessEnv):
    """B envs of one of EnvPool's tasks; see `VectorEnv` for the contract.

    Args:
        task_id: of EnvPool.
        num_envs: B.
        options: see `EnvOptions`; constructor arguments are EnvPool's. Of several seeds the hash counts.

    Raises:
        ConfigError: EnvPool is not installed, has no such task, or one that our agents cannot use.
        EnvironmentFailure: EnvPool's own code failed.
    """

    def __init__(self, task_id: str, num_envs: int = 1, options: EnvOptions | None = None) -> None:
        options = options or EnvOptions()
        envpool = import_envpool()
        known = envpool.list_all_envs()
        if task_id not in known:
            names = [f"envpool:{name}" for name in known]
            hint = "python -c 'import envpool; print(envpool.list_all_envs())'"
            raise unknown_name("a task of EnvPool", f"envpool:{task_id}", names, hint)
        if options.observation_keys is not None:
            raise ConfigError(f"envpool:{task_id}: observation_keys are for gym: dictionaries")
        arguments = dict(options.options)
        if options.max_episode_steps is not None:
            arguments["max_episode_steps"] = options.max_episode_steps

        def make(seed: int) -> Any:
            threads = {"num_threads": min(options.threads, num_envs)} if options.threads else {}
            with blamed(f"envpool:{task_id}", "cannot be made"):
                return envpool.make(
                    task_id, env_type="gymnasium", num_envs=num_envs, seed=seed, **threads, **arguments
                )

        pool = make(0)
        shown, taken = pool.observation_space, pool.action_space
        if not isinstance(shown, spaces.Box) or not isinstance(taken, spaces.Box) or len(shown.shape) != 1:
            raise ConfigError(
                f"envpool:{task_id} shows {shown} and takes {taken}: boxes of vectors are wanted"
            )
        limit = options.max_episode_steps or getattr(pool, "spec", None)
        steps = (
            limit
            if isinstance(limit, int)
            else getattr(getattr(limit, "config", None), "max_episode_steps", None)
        )
        facts = EnvFacts(
            env_id=f"envpool:{task_id}",
            engine_name="envpool",
            num_envs=num_envs,
            observation_size=shown.shape[0],
            action_low=taken.low.astype(np.float64).ravel(),
            action_high=taken.high.astype(np.float64).ravel(),
            max_episode_steps=steps,
            packages=("envpool",),
            foreign=True,
        )
        super().__init__(facts, options)
        self._make, self._pool = make, [pool]
        self._taken = taken
        self._shown = np.zeros((num_envs, shown.shape[0]))
        self._set_seed(options.seed)

    def frame(self, index: int = 0) -> np.ndarray:
        """Refuse: there are no pictures."""
        raise ConfigError(f"{self.env_id} gives no pictures")

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close the pool."""
        for pool in self.__dict__.get("_pool", ()):
            pool.close()
        super().close(raise_if_closed=raise_if_closed)

    def _reseed(self, seed: int) -> None:
        self._pool[0].close()
        self._pool[0] = self._make(seed)  # a pool cannot be seeded anew

    def _begin(self, mask: np.ndarray) -> np.ndarray:
        chosen = np.flatnonzero(mask).astype(np.int32)
        if len(chosen):
            with Timed(self):
                observation, info = self._pool[0].reset(chosen)
            self._shown[_order(info, chosen)] = observation
        return self._shown.copy()

    def _play(self, action: np.ndarray) -> Outcome:
        inside = np.clip(action, self.facts.action_low, self.facts.action_high)
        rows = inside.reshape(-1, *self._taken.shape).astype(self._taken.dtype)
        with Timed(self):
            observation, reward, terminated, truncated, info = self._pool[0].step(rows)
        order = _order(info, np.arange(self.num_envs))
        rewards, ends = np.zeros(self.num_envs), np.zeros((2, self.num_envs), np.bool_)
        self._shown[order], rewards[order] = observation, reward
        ends[0, order], ends[1, order] = terminated, truncated
        return Outcome(self._shown.copy(), rewards, ends[0], ends[1], fresh=True)


def _order(info: Any, default: np.ndarray) -> np.ndarray:
    """Return which envs the rows of an answer are of: EnvPool says so, as they come when they are ready."""
    return np.asarray(info.get("env_id", default))


def import_envpool() -> ModuleType:
    """Import EnvPool.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("envpool")
    except ImportError as error:
        raise ConfigError(f"envpool: tasks need EnvPool: pip install envpool ({error})") from error
