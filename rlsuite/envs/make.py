"""What an `--env` string means."""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch

from rlsuite.envs.base import VectorEnv
from rlsuite.envs.engines.warp_options import WarpOptions
from rlsuite.envs.names import (
    NO_ENV,
    added_tasks,
    env_names,
    suite_tasks_by_name,
    tasks_by_name,
    worlds_by_name,
)
from rlsuite.envs.seeding import Seeds
from rlsuite.envs.tasks.base import legacy_margins, load_task, task_module
from rlsuite.errors import ConfigError, unknown_name
from rlsuite.strict import from_mapping

__all__ = ["ENGINES", "env_names", "make_env"]

ENGINES = ("auto", "native", "warp", "gym", "dmc")
VERSION = re.compile(r"v\d+")


def make_env(
    env_id: str,
    num_envs: int = 1,
    *,
    engine: str = "auto",
    device: torch.device | str = "cpu",
    seed: Seeds = 0,
    dtype: torch.dtype = torch.float32,
    threads: int = 0,
    max_episode_steps: int | None = None,
    observation_keys: Sequence[str] | None = None,
    render: bool = False,
    options: Mapping[str, Any] | None = None,
    legacy_margin: bool = False,
    warp: WarpOptions | None = None,
) -> VectorEnv:
    """Make an environment of `num_envs` worlds.

    Args:
        env_id: `HalfCheetah` (= `HalfCheetah-v5`), `gym:ID` for any Gymnasium id, `dmc:domain-task`;
            `discrete:ID` of any of them has discrete actions, `stock:ID` a stock.
        num_envs: worlds stepped together.
        engine: who integrates: `auto` takes the native engine for our own tasks; `warp` runs them on a GPU;
            `gym` and `dmc` are Gymnasium's and dm_control's own environments.
        device: where tensors are handed out, and where `warp` runs.
        seed: of world 0, world i using seed + i; or one for every world.
        dtype: of observations, rewards and actions.
        threads: of the native engine; 0 takes all cores.
        max_episode_steps: instead of the environment's registered limit.
        observation_keys: which parts of a `gym:` dictionary observation, in this order; by default all, the
            state first and the goal last.
        render: `frame()` will be called; only Gymnasium's own environments must know beforehand.
        options: Gymnasium's constructor arguments by name, e.g. `{"healthy_z_range": (0.5, 2.0)}`; those of
            the wrappers have prefixes (`stock_gamma`, `discrete_bins`).
        legacy_margin: contacts begin where they did before MuJoCo 3.5, as in all literature up to 3.4; of
            Gymnasium's tasks Ant, Hopper, Humanoid, HumanoidStandup and Pusher have margins at all.
        warp: settings of the engine `warp`.

    Raises:
        ConfigError: no such environment, version, engine or option, a missing package, a space we cannot use.
    """
    if engine not in ENGINES:
        raise unknown_name("an engine", engine, ENGINES, "rlsuite train --help")
    if num_envs < 1:
        raise ConfigError(f"num_envs = {num_envs}: must be at least 1")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps = {max_episode_steps}: must be at least 1")
    common: dict[str, Any] = {
        "device": device,
        "seed": seed,
        "dtype": dtype,
        "max_episode_steps": max_episode_steps,
    }
    family, _, rest = env_id.partition(":")
    if family == "d4rl" and rest:
        from rlsuite.envs.adroit import gym_id

        family, rest = "gym", gym_id(rest)
    if env_id == NO_ENV:
        from rlsuite.envs.absent import AbsentEnv, AbsentOptions

        return AbsentEnv(
            env_id, from_mapping(AbsentOptions, options or {}, f"options of {env_id}"), num_envs, **common
        )
    if family in WRAPPERS and rest:
        own, others = _own_options(options, f"{family}_")
        inner_arguments: dict[str, Any] = {
            **common,
            "engine": engine,
            "threads": threads,
            "observation_keys": observation_keys,
            "render": render,
            "options": others,
            "legacy_margin": legacy_margin,
            "warp": warp,
        }
        return WRAPPERS[family](rest, num_envs, own, inner_arguments)
    if observation_keys is not None and family != "gym":
        raise ConfigError(f"{env_id} shows one vector: observation_keys are for gym: dictionaries")
    if family == "dmc" and rest:
        batched = rest in suite_tasks_by_name()
        _refuse_engine(env_id, engine, "auto", "dmc", *(("native", "warp") if batched else ()))
        if options or legacy_margin:
            asked = [*(options or ()), *(["legacy_margin"] if legacy_margin else [])]
            raise ConfigError(f"{env_id} takes no options, and {', '.join(asked)} came")
        if engine == "dmc" or not batched:
            from rlsuite.envs.dmc import DMControlEnv

            return DMControlEnv(rest, num_envs, **common)
        from rlsuite.envs.tasks.dmc.base import load_suite_task

        task = load_suite_task(rest)
    elif family == "gym" and rest:
        _refuse_engine(env_id, engine, "auto", "gym")
        from rlsuite.envs.gym import GymEnv

        return GymEnv(
            rest,
            num_envs,
            observation_keys=observation_keys,
            render=render,
            options=options,
            legacy_margin=legacy_margin,
            **common,
        )
    elif (module := _world_module(env_id)) is not None:
        _refuse_engine(env_id, engine, "auto")
        if legacy_margin:
            raise ConfigError(f"{env_id} has no contacts, and so no legacy_margin")
        chosen_options = from_mapping(module.Options, options or {}, f"options of {env_id}")
        world: VectorEnv = module.World(env_id, chosen_options, num_envs, **common)
        return world
    else:
        name, version = _split_version(env_id)
        if name not in tasks_by_name() and name not in added_tasks():
            raise _unknown(env_id)
        _refuse_engine(
            env_id, engine, "auto", "native", "warp", *(("gym",) if name in tasks_by_name() else ())
        )
        task = load_task(name, version, options)
        if engine == "gym":
            from rlsuite.envs.gym import GymEnv

            return GymEnv(
                task.env_id, num_envs, render=render, options=options, legacy_margin=legacy_margin, **common
            )
    from rlsuite.envs.mujoco import MujocoEnv

    if legacy_margin:
        task = replace(task, model=legacy_margins(task.model))
    chosen = "native" if engine == "auto" else engine
    return MujocoEnv(task, num_envs, engine=chosen, threads=threads, warp=warp, **common)


def _with_stock(rest: str, num_envs: int, own: dict[str, Any], arguments: dict[str, Any]) -> VectorEnv:
    from rlsuite.envs.stock import StockEnv, StockOptions

    chosen = from_mapping(StockOptions, own, f"options stock_* of stock:{rest}")
    return StockEnv(make_env(rest, num_envs, **arguments), chosen, arguments["seed"])


def _with_discrete_actions(
    rest: str, num_envs: int, own: dict[str, Any], arguments: dict[str, Any]
) -> VectorEnv:
    from rlsuite.envs.discrete import DiscreteOptions, DiscretisedEnv
    from rlsuite.envs.gym import GymEnv, has_discrete_actions

    chosen = from_mapping(DiscreteOptions, own, f"options discrete_* of discrete:{rest}")
    family, _, gym_id = rest.partition(":")
    if family == "gym" and has_discrete_actions(gym_id, arguments["options"]):
        _refuse_engine(rest, arguments["engine"], "auto", "gym")
        if own:
            raise ConfigError(f"{rest} has discrete actions already: discrete_bins has no use")
        names = ("device", "seed", "dtype", "max_episode_steps", "observation_keys", "render", "options")
        return GymEnv(gym_id, num_envs, discrete=True, **{name: arguments[name] for name in names})
    return DiscretisedEnv(make_env(rest, num_envs, **arguments), chosen)


WRAPPERS: dict[str, Callable[..., VectorEnv]] = {"stock": _with_stock, "discrete": _with_discrete_actions}


def _own_options(options: Mapping[str, Any] | None, prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options with a prefix, without it, and all others."""
    given = dict(options or {})
    own = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    return own, {key: value for key, value in given.items() if not key.startswith(prefix)}


def _split_version(env_id: str) -> tuple[str, str]:
    """Return (name, version) of an id; the version may be left out, and is then ""."""
    name, dash, version = env_id.rpartition("-")
    return (name, version) if dash and VERSION.fullmatch(version) else (env_id, "")


def _world_module(env_id: str) -> ModuleType | None:
    """Import the module of an environment without a physics engine; None where `env_id` is none."""
    own = worlds_by_name()
    if env_id in own:
        return importlib.import_module(f"rlsuite.envs.worlds.{own[env_id].stem}")
    module = task_module(env_id) if env_id in added_tasks() else None
    return module if hasattr(module, "World") else None


def _refuse_engine(env_id: str, engine: str, *allowed: str) -> None:
    if engine not in allowed:
        raise ConfigError(f'engine "{engine}" cannot run {env_id}; allowed: {", ".join(allowed)}')


def _unknown(env_id: str) -> ConfigError:
    """Build the error for a name that is none of our tasks; Gymnasium may know it."""
    import gymnasium

    if env_id in gymnasium.registry:
        return ConfigError(f'"{env_id}" is not a task of ours, but Gymnasium has it: use "gym:{env_id}"')
    return unknown_name("an environment", env_id, dict(env_names()), "rlsuite list envs")
