"""Build an environment from an `--env` string."""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from rlsuite.envs.base import VectorEnv
from rlsuite.envs.names import (
    NO_ENV,
    added_tasks,
    env_names,
    suite_tasks_by_name,
    tasks_by_name,
    toys_by_name,
)
from rlsuite.envs.options import ENGINES, EnvOptions, changed, check_whole
from rlsuite.envs.tasks.base import Task, legacy_margins, load_task, task_module
from rlsuite.errors import ConfigError, unknown_name
from rlsuite.strict import from_mapping

__all__ = ["ENGINES", "EnvOptions", "env_names", "make_env"]

VERSION = re.compile(r"v\d+")


def make_env(
    env_id: str, num_envs: int = 1, env_options: EnvOptions | None = None, **changes: Any
) -> VectorEnv:
    """Make an environment of `num_envs` envs that are stepped together.

    Args:
        env_id: `HalfCheetah` (= `HalfCheetah-v5`), `gym:ID` for any Gymnasium id, `dmc:domain-task`,
            `ogbench:NAME`,
            `torchrl:MODULE:CLASS` for any TorchRL environment, `envpool:ID`;
            `discrete:ID` of any of them has discrete actions, `stock:ID` a stock, `pixels:ID` shows pictures.
        num_envs: how many.
        env_options: how; None for the defaults.
        changes: fields of `EnvOptions` that are different: `make_env("Ant", 64, seed=3, threads=2)`.

    Raises:
        ConfigError: no such environment, version, engine or option, a missing package, a space we cannot use.
        EnvironmentFailure: other people's environment failed while it was made.
    """
    num_envs = check_whole("num_envs", num_envs, 1)
    chosen = changed(env_options, changes)
    family, _, rest = env_id.partition(":")
    if env_id == NO_ENV:
        from rlsuite.envs.absent import AbsentEnv, AbsentOptions

        sizes = from_mapping(AbsentOptions, chosen.options, f"options of {env_id}")
        return AbsentEnv(env_id, sizes, num_envs, chosen)
    if family in FAMILIES and rest:
        return FAMILIES[family](rest, num_envs, chosen)
    if chosen.observation_keys is not None:
        raise ConfigError(f"{env_id} shows one vector: observation_keys are for gym: dictionaries")
    if (module := _toy_module(env_id)) is not None:
        return _toy(module, env_id, num_envs, chosen)
    return _task_env(env_id, num_envs, chosen)


def _toy(module: ModuleType, env_id: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    _refuse_engine(env_id, options.engine, "auto")
    _refuse_workers(env_id, options)
    if options.legacy_margin:
        raise ConfigError(f"{env_id} has no contacts, and so no legacy_margin")
    arguments = from_mapping(module.Options, options.options, f"options of {env_id}")
    env: VectorEnv = module.Env(env_id, arguments, num_envs, options)
    return env


def _task_env(env_id: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    """Make one of Gymnasium's MuJoCo tasks, or another package's, by its name and version."""
    name, version = _split_version(env_id)
    ours = name in tasks_by_name()
    if not ours and name not in added_tasks():
        raise _unknown(env_id)
    _refuse_engine(env_id, options.engine, "auto", "native", "warp", *(("gym",) if ours else ()))
    varied, others = _own_options(options.options, "vary_")
    task = load_task(name, version, others)
    if options.engine == "gym":
        if varied:
            raise ConfigError(f"{env_id}: vary_* options are for the engine native")
        return _gymnasium(task.env_id, num_envs, replace(options, engine="auto"))
    _refuse_workers(env_id, options)
    return _on_engine(task, num_envs, options, varied)


def _on_engine(
    task: Task, num_envs: int, options: EnvOptions, varied: Mapping[str, Any] | None = None
) -> VectorEnv:
    from rlsuite.envs.mujoco import MujocoEnv
    from rlsuite.envs.variation import ranges_of

    if options.legacy_margin:
        task = replace(task, model=legacy_margins(task.model))
    ranges = ranges_of(varied or {}, f"options vary_* of {task.env_id}")
    return MujocoEnv(task, num_envs, options, ranges)


def _gymnasium(gym_id: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    _refuse_engine(f"gym:{gym_id}", options.engine, "auto", "gym")
    from rlsuite.envs.gym import GymEnv

    return GymEnv(gym_id, num_envs, options)


def _d4rl(name: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    from rlsuite.envs.adroit import gym_id

    return _gymnasium(gym_id(name), num_envs, options)


def _ogbench(name: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    from rlsuite.envs.ogbench import gym_id

    return _gymnasium(gym_id(name), num_envs, options)


def _dm_control(name: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    env_id, batched = f"dmc:{name}", name in suite_tasks_by_name()
    if options.observation_keys is not None:
        raise ConfigError(f"{env_id} shows one vector: observation_keys are for gym: dictionaries")
    _refuse_engine(env_id, options.engine, "auto", "dmc", *(("native", "warp") if batched else ()))
    _refuse_workers(env_id, options)
    if options.options or options.legacy_margin:
        asked = [*options.options, *(["legacy_margin"] if options.legacy_margin else [])]
        raise ConfigError(f"{env_id} takes no options, and {', '.join(asked)} came")
    if options.engine == "dmc" or not batched:
        from rlsuite.envs.dmc import DMControlEnv

        return DMControlEnv(name, num_envs, options)
    from rlsuite.envs.tasks.dmc.base import load_suite_task

    return _on_engine(load_suite_task(name), num_envs, options)


def _with_stock(rest: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    from rlsuite.envs.stock import StockEnv, StockOptions

    mine, others = _own_options(options.options, "stock_")
    chosen = from_mapping(StockOptions, mine, f"options stock_* of stock:{rest}")
    return StockEnv(make_env(rest, num_envs, replace(options, options=others)), chosen, options.seed)


def _with_discrete_actions(rest: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    from rlsuite.envs.discrete import DiscreteOptions, DiscretisedEnv
    from rlsuite.envs.gym import GymEnv, has_discrete_actions

    mine, others = _own_options(options.options, "discrete_")
    inner = replace(options, options=others)
    chosen = from_mapping(DiscreteOptions, mine, f"options discrete_* of discrete:{rest}")
    family, _, gym_id = rest.partition(":")
    if family == "gym" and has_discrete_actions(gym_id, inner):
        _refuse_engine(rest, options.engine, "auto", "gym")
        if mine:
            raise ConfigError(f"{rest} has discrete actions already: discrete_bins has no use")
        return GymEnv(gym_id, num_envs, inner, discrete=True)
    return DiscretisedEnv(make_env(rest, num_envs, inner), chosen)


def _with_pictures(rest: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    from rlsuite.envs.pixels import PixelEnv, PixelOptions

    mine, others = _own_options(options.options, "pixels_")
    chosen = from_mapping(PixelOptions, mine, f"options pixels_* of pixels:{rest}")
    asked = replace(options, options=others)
    inner = make_env(rest, num_envs, asked)
    if (
        inner.facts.pixels is None and inner.engine_name == "gym"
    ):  # which must know beforehand that it is drawn
        inner.close()
        inner = make_env(rest, num_envs, replace(asked, render=True))
    try:
        return PixelEnv(inner, chosen, options.seed)
    except BaseException:
        inner.close()
        raise


def _torchrl(name: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    _refuse_engine(f"torchrl:{name}", options.engine, "auto")
    _refuse_workers(f"torchrl:{name}", options)
    _refuse_margin(f"torchrl:{name}", options)
    from rlsuite.envs.torchrl_env import make_torchrl_env

    return make_torchrl_env(name, num_envs, options)


def _envpool(name: str, num_envs: int, options: EnvOptions) -> VectorEnv:
    _refuse_engine(f"envpool:{name}", options.engine, "auto")
    _refuse_workers(f"envpool:{name}", options)
    _refuse_margin(f"envpool:{name}", options)
    from rlsuite.envs.envpool_env import EnvPoolEnv

    return EnvPoolEnv(name, num_envs, options)


FAMILIES: dict[str, Callable[[str, int, EnvOptions], VectorEnv]] = {
    "gym": _gymnasium,
    "d4rl": _d4rl,
    "ogbench": _ogbench,
    "dmc": _dm_control,
    "stock": _with_stock,
    "discrete": _with_discrete_actions,
    "pixels": _with_pictures,
    "torchrl": _torchrl,
    "envpool": _envpool,
}
"""What stands before the colon of an id."""


def _own_options(options: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options with a prefix, without it, and all others."""
    mine = {key.removeprefix(prefix): value for key, value in options.items() if key.startswith(prefix)}
    return mine, {key: value for key, value in options.items() if not key.startswith(prefix)}


def _split_version(env_id: str) -> tuple[str, str]:
    """Return (name, version) of an id; the version may be left out, and is then ""."""
    name, dash, version = env_id.rpartition("-")
    return (name, version) if dash and VERSION.fullmatch(version) else (env_id, "")


def _toy_module(env_id: str) -> ModuleType | None:
    """Import the module of an environment without a physics engine; None where `env_id` is none."""
    toys = toys_by_name()
    if env_id in toys:
        return importlib.import_module(f"rlsuite.envs.toys.{toys[env_id].stem}")
    module = task_module(env_id) if env_id in added_tasks() else None
    return module if hasattr(module, "Env") else None


def _refuse_engine(env_id: str, engine: str, *allowed: str) -> None:
    if engine not in allowed:
        raise ConfigError(f'engine "{engine}" cannot run {env_id}; allowed: {", ".join(allowed)}')


def _refuse_margin(env_id: str, options: EnvOptions) -> None:
    if options.legacy_margin:
        raise ConfigError(f"{env_id} has no model of ours: legacy_margin does not apply")


def _refuse_workers(env_id: str, options: EnvOptions) -> None:
    if options.workers:
        raise ConfigError(f"{env_id} is stepped by threads: workers are for gym: environments")


def _unknown(env_id: str) -> ConfigError:
    """Build the error for a name that is none of our tasks; Gymnasium may know it."""
    import gymnasium

    if env_id in gymnasium.registry:
        return ConfigError(f'"{env_id}" is not a task of ours, but Gymnasium has it: use "gym:{env_id}"')
    return unknown_name("an environment", env_id, dict(env_names()), "rlsuite list envs")
