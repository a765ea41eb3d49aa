"""What a run is made of: built from its configuration, and restored from a checkpoint."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from rlsuite.agents.base import GENERATOR_NAMES, Agent, Spaces
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, DataError
from rlsuite.replay.uniform import UniformReplay
from rlsuite.training import state
from rlsuite.training.checkpoint import config_digest
from rlsuite.training.config import TrainConfig
from rlsuite.training.graphs import Update
from rlsuite.training.memory import host_free_bytes
from rlsuite.training.recorder import Recorder
from rlsuite.training.rng import Streams
from rlsuite.training.tensorfile import check_like

# What may differ when a run goes on: nothing here changes what is learnt.
NOT_DIGESTED = ("steps", "threads", "cuda_graphs", "loggers", "eval_every", "checkpoint_every", "log_every")


@dataclass(slots=True)
class Clock:
    """Where a run is: env steps, updates, evaluations; and the returns that rank its checkpoints."""

    env_steps: int = 0
    updates: int = 0
    evaluations: int = 0
    failed_saves: int = 0
    last_return: float | None = None
    best_return: float | None = None

    def passed(self, every: int, num_envs: int) -> bool:
        """Whether the last vector step reached or passed a multiple of `every` env steps (0: never)."""
        return every > 0 and self.env_steps // every != (self.env_steps - num_envs) // every

    def updates_due(self, config: TrainConfig) -> int:
        """Updates that the env steps after warm-up have earned and that are not done yet."""
        earned = max(0, self.env_steps - config.warmup_steps) * config.updates_per_step
        return math.floor(earned + 1e-9) - self.updates


@dataclass(slots=True)
class Run:
    """Everything that acts, learns or is saved in one run."""

    config: TrainConfig
    digest: str
    device: torch.device
    streams: Streams
    env: EnvBase
    eval_env: EnvBase
    agent: Agent
    replay: UniformReplay
    clock: Clock
    sums: state.RunningSums
    episodes: state.EpisodeSums
    carried: TensorDictBase
    update: Update | None = None  # chosen at the first update, which brings the first batch


def build(agent_class: type[Agent], agent_config: Any, config: TrainConfig) -> Run:
    """Make every object of a run from its configuration; all chance comes from `config.seed`."""
    device = pick_device(config.device)
    streams = Streams(config.seed, device)
    options: dict[str, Any] = {"engine": config.engine, "device": device, "threads": config.threads}
    env = make_env(config.env, config.num_envs, seed=streams.seed("env"), **options)
    eval_env = make_env(config.env, config.eval_episodes, seed=streams.seed("eval"), **options)
    agent = new_agent(agent_class, agent_config, env, streams, device)
    replay = UniformReplay(
        config.replay_size,
        num_envs=config.num_envs,
        batch_size=config.batch_size,
        n_step=config.n_step,
        gamma=agent_config.gamma,
        device=device,
        generator=streams.torch("sample"),
    )
    settings = {key: value for key, value in asdict(config).items() if key not in NOT_DIGESTED}
    digest = config_digest({"agent": agent_class.__name__, **asdict(agent_config), "train": settings})
    return Run(
        config,
        digest,
        device,
        streams,
        env,
        eval_env,
        agent,
        replay,
        Clock(),
        state.RunningSums(),
        state.EpisodeSums(config.num_envs, device),
        env.reset(),
    )


def new_agent(
    agent_class: type[Agent],
    agent_config: Any,
    env: EnvBase,
    streams: Streams,
    device: torch.device | str = "cpu",
) -> Agent:
    """Make an untrained agent for `env` with the run's streams."""
    generators = {name: streams.torch(name) for name in GENERATOR_NAMES}
    return agent_class(spaces_of(env), agent_config, generators, device=device)


def spaces_of(env: EnvBase) -> Spaces:
    """Read what an agent must know from an environment made by `make_env`."""
    return Spaces(
        observation=env.observation_spec["observation"].shape[-1],
        action=env.action_spec.shape[-1],
        half_range=env.half_range,
    )


def pick_device(name: str) -> torch.device:
    """Resolve "auto", "cpu" or "cuda"; ConfigError when CUDA is asked for and absent."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError('device "cuda": torch sees no CUDA device here; use --device cpu')
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def free_bytes(device: torch.device) -> int:
    """Bytes that may still be allocated on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return host_free_bytes()


def snapshot(run: Run, recorder: Recorder) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
    """Return everything but the replay's rows: tensors by part and JSON documents by name."""
    sums, counts = run.sums.state()
    tensors: dict[str, Mapping[str, Tensor]] = {
        "agent": state.agent_tensors(run.agent),
        "optim": state.optimizer_tensors(run.agent),
        "env": run.env.state_dict(),
        "carried": state.carried_tensors(run.carried),
        "episodes": run.episodes.state(),
        "sums": sums,
    }
    documents = {
        "rng": run.streams.state_dict(),
        "counters": {"clock": asdict(run.clock), "sums": counts, "replay": run.replay.state_dict()},
        "recorder": recorder.state_dict(),
    }
    return tensors, documents


def restore(
    run: Run, tensors: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any], chunks: Iterable[Any]
) -> None:
    """Put a snapshot and the replay's chunks into a freshly built run; DataError when they do not fit."""
    try:
        counters = documents["counters"]
        state.load_agent_tensors(run.agent, tensors["agent"])
        state.load_optimizer_tensors(run.agent, tensors["optim"])
        run.env.load_state_dict(tensors["env"])
        # Beyond what a reset gives there is what policies carry from step to step.
        fresh = state.carried_tensors(run.carried)
        check_like("carried", {key: tensors["carried"][key] for key in fresh}, fresh)
        run.carried = state.load_carried(tensors["carried"], run.config.num_envs, run.device)
        run.episodes.load(tensors["episodes"])
        run.sums.load(tensors["sums"], counters["sums"])
        run.streams.load_state_dict(documents["rng"])
        run.replay.load(counters["replay"], (rows for _, rows in chunks))
        for name, value in counters["clock"].items():
            setattr(run.clock, name, value)
    except (KeyError, ValueError, AttributeError) as error:
        raise DataError(f"the checkpoint does not fit this run: {error!r}") from error
