"""What a run is refused for before it begins: actions, observations, rollouts, memory."""

from typing import TYPE_CHECKING

import torch
from tensordict import TensorDictBase

from rlsuite.agents.base import Agent, OnPolicyAgent
from rlsuite.envs.base import VectorEnv
from rlsuite.errors import ConfigError
from rlsuite.replay.memory import host_free_bytes
from rlsuite.replay.rollout import check_rollout
from rlsuite.runs.config import LearnConfig, TrainConfig

if TYPE_CHECKING:
    from rlsuite.training.assembly import OnlineRun


def check_rollouts(agent_class: type[Agent], config: LearnConfig) -> None:
    """Raise ConfigError where a run's fields do not fit the agent: on-policy, or with a replay."""
    name, epochs = agent_class.__name__, config.epochs if isinstance(config, TrainConfig) else 0
    if not issubclass(agent_class, OnPolicyAgent):
        if epochs:
            raise ConfigError(f"epochs = {epochs}: {name} learns from a replay; use --updates-per-step")
        return
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"{name} learns from rollouts of its own policy: leave out --dataset")
    if not epochs:
        raise ConfigError(f"epochs = 0: {name} learns from rollouts; say how many passes over each, e.g. 10")
    for field_name, wanted in (("warmup_steps", 0), ("n_step", 1)):
        if (value := getattr(config, field_name)) != wanted:
            raise ConfigError(
                f"{field_name} = {value}: {name} learns from its own policy's steps alone; use {wanted}"
            )
    if config.replay == "her":
        raise ConfigError(f"replay her: {name} learns from what it did, not from other goals")
    check_rollout(config.replay_size, config.num_envs, config.batch_size)


def check_actions(agent_class: type[Agent], env: VectorEnv) -> None:
    """Raise ConfigError where an environment's actions or observations are not of the agent's kind."""
    if env.facts.private and not agent_class.asymmetric:
        raise ConfigError(
            f"{agent_class.__name__} has no critics of their own observations, and {env.env_id} tells "
            f"critics {env.facts.private} numbers alone: take sac, td3, dsac_t or stac"
        )
    if agent_class.discrete is not None and env.discrete != agent_class.discrete:
        wanted, given = ("discrete", "continuous") if agent_class.discrete else ("continuous", "discrete")
        way = f": use discrete:{env.env_id}" if agent_class.discrete else ""
        raise ConfigError(
            f"{agent_class.__name__} needs {wanted} actions, and those of {env.env_id} are {given}{way}"
        )


def free_bytes(device: torch.device) -> int:
    """Bytes that may still be allocated on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return host_free_bytes()


def check_memory(run: "OnlineRun", transitions: TensorDictBase) -> int:
    """Return the bytes of a full replay of such transitions; ConfigError when the device lacks them."""
    try:
        return run.replay.check_memory(transitions, free_bytes(run.device))
    except MemoryError as error:
        raise ConfigError(str(error)) from error
