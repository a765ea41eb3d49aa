"""What an `--env` string means."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from rlsuite.envs.base import VectorEnv
from rlsuite.envs.names import env_names, tasks_by_name
from rlsuite.envs.tasks.base import DEFAULT_VERSION, load_task
from rlsuite.errors import ConfigError, unknown_name

__all__ = ["ENGINES", "env_names", "make_env"]

ENGINES = ("auto", "native", "warp", "gym")
VERSION = re.compile(r"v\d+")


def make_env(
    env_id: str,
    num_envs: int = 1,
    *,
    engine: str = "auto",
    device: torch.device | str = "cpu",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    threads: int = 0,
    max_episode_steps: int | None = None,
    observation_keys: Sequence[str] | None = None,
    render: bool = False,
) -> VectorEnv:
    """Make an environment of `num_envs` worlds.

    Args:
        env_id: `HalfCheetah` (= `HalfCheetah-v5`), `gym:ID` for any Gymnasium id, `dmc:domain-task`.
        num_envs: worlds stepped together.
        engine: who integrates: `auto` takes the native engine for our own tasks; `gym` is Gymnasium's own.
        device: where tensors are handed out.
        seed: of world 0; world i uses seed + i.
        dtype: of observations, rewards and actions.
        threads: of the native engine; 0 takes all cores.
        max_episode_steps: instead of the environment's registered limit.
        observation_keys: which parts of a `gym:` dictionary observation, in this order; by default all, the
            state first and the goal last.
        render: `frame()` will be called; only Gymnasium's own environments must know beforehand.

    Raises:
        ConfigError: no such environment, version or engine, a missing package, a space we cannot use.
    """
    if engine not in ENGINES:
        raise unknown_name("an engine", engine, ENGINES, "rlsuite train --help")
    if num_envs < 1:
        raise ConfigError(f"num_envs = {num_envs}: must be at least 1")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps = {max_episode_steps}: must be at least 1")
    if engine == "warp":
        raise ConfigError("engine warp (GPU physics) is not part of this version; use --engine native")
    options: dict[str, Any] = {
        "device": device,
        "seed": seed,
        "dtype": dtype,
        "max_episode_steps": max_episode_steps,
    }
    family, _, rest = env_id.partition(":")
    if observation_keys is not None and family != "gym":
        raise ConfigError(f"{env_id} shows one vector: observation_keys are for gym: dictionaries")
    if family == "dmc" and rest:
        _refuse_engine(env_id, engine, "auto")
        from rlsuite.envs.dmc import DMControlEnv

        return DMControlEnv(rest, num_envs, **options)
    if family == "gym" and rest:
        _refuse_engine(env_id, engine, "auto", "gym")
        from rlsuite.envs.gym import GymEnv

        return GymEnv(rest, num_envs, observation_keys=observation_keys, render=render, **options)
    name, version = _split_version(env_id)
    if name not in tasks_by_name():
        raise _unknown(env_id)
    task = load_task(name, version)
    if engine == "gym":
        from rlsuite.envs.gym import GymEnv

        return GymEnv(task.env_id, num_envs, render=render, **options)
    from rlsuite.envs.mujoco import MujocoEnv

    return MujocoEnv(task, num_envs, threads=threads, **options)


def _split_version(env_id: str) -> tuple[str, str]:
    """Return (name, version) of an id; the version may be left out."""
    name, dash, version = env_id.rpartition("-")
    return (name, version) if dash and VERSION.fullmatch(version) else (env_id, DEFAULT_VERSION)


def _refuse_engine(env_id: str, engine: str, *allowed: str) -> None:
    if engine not in allowed:
        raise ConfigError(f'engine "{engine}" cannot run {env_id}; allowed: {", ".join(allowed)}')


def _unknown(env_id: str) -> ConfigError:
    """Build the error for a name that is none of our tasks; Gymnasium may know it."""
    import gymnasium

    if env_id in gymnasium.registry:
        return ConfigError(f'"{env_id}" is not a task of ours, but Gymnasium has it: use "gym:{env_id}"')
    return unknown_name("an environment", env_id, tasks_by_name(), "rlsuite list envs")
