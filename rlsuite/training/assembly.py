"""Build the parts of a run from its configuration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor

from rlsuite import distributed as ranks
from rlsuite.agents.base import GENERATOR_NAMES, Agent, OnPolicyAgent, Spaces, StagedAgent
from rlsuite.blocks.noise import Source
from rlsuite.envs.base import VectorEnv
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.offline.scores import Reference
from rlsuite.plugins.base import Plugin
from rlsuite.registry import plugin_class
from rlsuite.replay.offline import OfflineReplay
from rlsuite.replay.uniform import UniformReplay
from rlsuite.replay.windows import WindowReplay
from rlsuite.runs.checkpoint import config_digest
from rlsuite.runs.config import LearnConfig, TrainConfig, updates_of
from rlsuite.strict import from_mapping
from rlsuite.training import state
from rlsuite.training.callbacks import Hooks
from rlsuite.training.checks import check_actions, check_rollouts
from rlsuite.training.interventions import TakeOver, load_intervention
from rlsuite.training.phases import first_phases
from rlsuite.training.prior import Prior, check_widths
from rlsuite.training.replays import new_replay
from rlsuite.training.rng import SeedStreams
from rlsuite.training.updates import Updates, compile_mode

# What may differ when a run goes on: nothing here changes what is learnt.
NOT_DIGESTED = (
    "steps",
    "then_online",
    "threads",
    "env_workers",
    "step_timeout",
    "cuda_graphs",
    "compile",
    "loggers",
    "logger_options",
    "callbacks",
    "eval_every",
    "eval_beside",
    "checkpoint_every",
    "log_every",
)

SEED_LIMIT = 2**31  # what environments take as a seed is below


@dataclass(slots=True)
class Clock:
    """Counts of a run: env steps, updates, evaluations; and the returns that rank its checkpoints."""

    env_steps: int = 0
    updates: int = 0
    evaluations: int = 0
    failed_saves: int = 0
    offline: int = 0  # updates made before the first env step; env_steps counts on from there
    last_return: float | None = None
    best_return: float | None = None  # of several seeds the mean of what each had best
    best_returns: list[float | None] = field(default_factory=list)  # of every seed, empty before the first
    evaluated: int = 0  # updates of the agent that `last_return` is of
    owes_evaluation: int = 0  # 1 where a signal came during one

    def passed(self, every: int, num_envs: int) -> bool:
        """Return whether the last vector step reached a multiple of `every` env steps (0: never)."""
        return every > 0 and self.env_steps // every != (self.env_steps - num_envs) // every

    def updates_due(self, config: TrainConfig) -> int:
        """Updates that the env steps after warm-up have earned and that are not done yet."""
        earned = config.earned(max(0, self.env_steps - self.offline - config.warmup_steps))
        return self.offline + earned - self.updates


@dataclass(slots=True, kw_only=True)
class Learner:
    """Agent, plug-ins and evaluation, without the source of transitions: the same offline and online."""

    config: LearnConfig
    seeds: tuple[int, ...]  # root of each agent's random streams
    digest: str
    device: torch.device
    streams: SeedStreams
    eval_env: VectorEnv
    agent: Agent
    policy: TensorDictModuleBase  # the agent's, on the transitions of all envs
    clock: Clock
    sums: state.RunningSums
    updates: Updates
    plugins: Mapping[str, Plugin] = field(default_factory=dict)
    reference: Reference | None = None  # returns that score 0 and 100
    hooks: Hooks = field(default_factory=Hooks)

    def close(self) -> None:
        """Close the environments."""
        self.eval_env.close()


@dataclass(slots=True, kw_only=True)
class OfflineRun(Learner):
    """A learner and recorded transitions."""

    replay: OfflineReplay | WindowReplay


@dataclass(slots=True, kw_only=True)
class OnlineRun(Learner):
    """A learner, the envs it acts in, and the replay of what happened there."""

    config: TrainConfig
    env: VectorEnv
    replay: UniformReplay
    episodes: state.EpisodeSums
    td: TensorDictBase  # what the policy sees next, `[num_envs]`: observations, and what it carries
    act: Callable[[Tensor], Tensor] | None  # observations to actions; None for a policy that carries more
    reward: Callable[[Tensor], Tensor] | None = None  # of stored transitions
    take_over: TakeOver | None = None  # who may act instead of the policy

    def close(self) -> None:
        """Close the environments, the one for evaluations too when the first fails."""
        try:
            self.env.close()
        finally:
            self.eval_env.close()


Run = OfflineRun | OnlineRun


def parts_of(learner: Learner) -> dict[str, Any]:
    """Return the fields of a learner by name, to make a run of it."""
    return {field.name: getattr(learner, field.name) for field in fields(Learner)}


def build(
    agent_class: type[Agent],
    agent_config: Any,
    config: TrainConfig,
    roots: Sequence[int] | None = None,
    prior: Prior | None = None,
) -> OnlineRun:
    """Make every object of an online run from its configuration; all chance comes from the seeds.

    Args:
        agent_class: the algorithm.
        agent_config: an instance of its `Config`.
        config: the run's fields.
        roots: one seed per agent, instead of `seed`, `seed` + 1, ...
        prior: recorded data that its `offline_share` mixes into batches.
    """
    check_rollouts(agent_class, config)
    learner = build_learner(agent_class, agent_config, config, config.env, roots)
    return online_run(learner, config, prior=prior)


def build_learner(
    agent_class: type[Agent],
    agent_config: Any,
    config: LearnConfig,
    env_id: str,
    roots: Sequence[int] | None = None,
) -> Learner:
    """Make what online and offline runs share; see `build` for the arguments."""
    device = pick_device(config.device, config.engine)
    roots = range(config.seed, config.seed + config.seeds) if roots is None else roots
    streams = SeedStreams(roots, device, ranks.rank())
    eval_env = make_envs(config, env_id, streams, "eval", config.eval_episodes, eval_engine(config.engine))
    agent = new_agent(agent_class, agent_config, eval_env, streams, device)
    agent.begin(updates_of(config))
    mode, _ = compile_mode(agent_class, agent_config, config, device.type)
    return Learner(
        config=config,
        seeds=tuple(roots),
        digest=run_digest(agent_class, agent_config, config),
        device=device,
        streams=streams,
        eval_env=eval_env,
        agent=agent,
        policy=per_seed_policy(agent) if agent.lead else agent.policy,
        clock=Clock(),
        sums=state.RunningSums(len(streams)),
        updates=Updates(agent, mode, graphs=config.cuda_graphs),
        plugins={name: new_plugin(name, values, agent, streams) for name, values in config.plugins.items()},
    )


def run_digest(agent_class: type[Agent], agent_config: Any, config: LearnConfig) -> str:
    """Return the digest of everything in a configuration that decides what is learnt."""
    train_settings = {key: value for key, value in chosen(config).items() if key not in NOT_DIGESTED}
    return config_digest({"agent": agent_class.__name__, **chosen(agent_config), "train": train_settings})


def online_run(
    learner: Learner, config: TrainConfig, env_steps: int | None = None, prior: Prior | None = None
) -> OnlineRun:
    """Join a learner with envs to act in and an empty replay.

    Args:
        learner: what acts; an offline run's may go on here.
        config: of the online run.
        env_steps: that will be taken; None is `config.steps`.
        prior: recorded data; with an `offline_share` they are that share of every batch.

    Raises:
        ConfigError: the data are of another environment.
    """
    streams, agent = learner.streams, learner.agent
    recorded = None
    if prior is not None:
        check_widths(prior.data, agent, learner.eval_env.env_id)
        learner.reference = prior.data.reference
        if config.offline_share is not None:
            recorded = prior.recorded(config, agent, streams.source("sample"))
    share = config.num_envs // ranks.size()
    env = make_envs(config, config.env, streams, "env", share, config.engine, first=ranks.rank() * share)
    replay = new_replay(
        config,
        env,
        len(streams),
        on_policy=isinstance(agent, OnPolicyAgent),
        recorded=recorded,
        failure_reward=type(agent).online_columns(agent.config).failure_reward,
        gamma=agent.gamma,
        device=learner.device,
        generator=streams.source("sample"),
    )
    episodes = state.EpisodeSums(env.num_envs, learner.device, seeds=len(streams))
    for plugin in learner.plugins.values():
        plugin.begin(env.num_envs, env.max_episode_steps, config.steps if env_steps is None else env_steps)
    parts = parts_of(learner) | {"config": config}
    act = plain_policy(agent)
    td = whole_row(env.reset())
    if act is not None:
        td = td.select("observation")
    if config.random_phase:
        env.set_episode_steps(first_phases(env, streams))
    run = OnlineRun(**parts, env=env, replay=replay, episodes=episodes, td=td, act=act)
    run.reward = None if prior is None else prior.reward
    if (who := load_intervention(config.intervention)) is not None:
        run.take_over = TakeOver(who, env, learner.device, streams.source("intervene"))
    return run


def whole_row(td: TensorDictBase) -> TensorDictBase:
    """Return a row whose `observation` is all that critics see: actors read its first part."""
    if (critic := td.get("critic", None)) is None:
        return td
    return td.exclude("critic").set("observation", critic.get("observation"))


def plain_policy(agent: Agent) -> Callable[[Tensor], Tensor] | None:
    """Return an agent's policy as a function of observations `[B, O]`, several seeds' in equal groups.

    None for a policy that reads or leaves more than that: it is called with a TensorDict.
    """
    policy = agent.policy
    if list(policy.in_keys) != ["observation"] or list(policy.out_keys) != ["action"]:
        return None
    if not agent.lead:
        return policy.module
    return lambda observation: policy.module(observation.unflatten(0, (*agent.lead, -1))).flatten(0, 1)


def make_envs(
    config: LearnConfig,
    env_id: str,
    streams: SeedStreams,
    stream: str,
    count: int,
    engine: str,
    first: int = 0,
) -> VectorEnv:
    """Make `count` envs of every seed, from its `first` on, each seeded by its seed's `stream`."""
    seeds = env_seeds([seed + first for seed in streams.seeds(stream)], count)
    return make_env(
        env_id,
        len(seeds),
        seed=seeds,
        engine=engine,
        device=pick_device(config.device),
        threads=config.threads,
        workers=config.env_workers,
        step_timeout=config.step_timeout,
        observation_keys=config.observation_keys or None,
        options=config.env_options,
        legacy_margin=config.legacy_margin,
    )


def new_agent(
    agent_class: type[Agent],
    agent_config: Any,
    env: VectorEnv,
    streams: SeedStreams,
    device: torch.device | str = "cpu",
) -> Agent:
    """Make an untrained agent for `env` with the run's streams; several streams are a leading axis of it.

    Raises:
        ConfigError: the agent's actions are not of the environment's kind.
    """
    generators: dict[str, Source] = {name: streams.source(name) for name in GENERATOR_NAMES}
    lead = (len(streams),) if len(streams) > 1 else ()
    check_actions(agent_class, env)
    return agent_class(spaces_of(env), agent_config, generators, device=device, lead=lead)


def new_plugin(name: str, values: Mapping[str, Any], agent: Agent, streams: SeedStreams) -> Plugin:
    """Make a plug-in from the values of its fields; it draws from the run's stream "plugin".

    Raises:
        ConfigError: the agent learns in stages; plug-ins expect that every update trains all of it.
    """
    if isinstance(agent, StagedAgent):
        raise ConfigError(f"--plugins {name}: the agent learns in stages, and takes no plug-ins")
    cls = plugin_class(name)
    return cls(from_mapping(cls.Config, values, f"plug-in {name}"), agent, streams.source("plugin"))


def per_seed_policy(agent: Agent) -> TensorDictModuleBase:
    """Return an agent's policy for flat batches `[S B]`: the envs of each seed go to its own network."""
    policy, seeds = agent.policy, len(agent.generators["act"])  # type: ignore[arg-type]

    def act(*inputs: Tensor | None) -> tuple[Tensor, ...]:
        assert inputs[0] is not None
        td = TensorDict(
            {
                key: value.unflatten(0, (seeds, -1))
                for key, value in zip(policy.in_keys, inputs, strict=True)
                if value is not None  # what a policy carries is not there at first
            },
            [seeds, len(inputs[0]) // seeds],
        )
        return tuple(policy(td).get(key).flatten(0, 1) for key in policy.out_keys)

    return TensorDictModule(act, in_keys=policy.in_keys, out_keys=policy.out_keys)


def chosen(config: Any) -> dict[str, Any]:
    """Return the fields that are not at their default: a field added later leaves old runs resumable."""
    return {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if getattr(config, field.name)
        != (field.default if field.default_factory is MISSING else field.default_factory())
    }


def eval_engine(engine: str) -> str:
    """Return the engine of evaluations: whatever trained, scores are the native engine's, Gymnasium's."""
    return "native" if engine == "warp" else engine


def env_seeds(seeds: Sequence[int], count: int) -> list[int]:
    """Return the seed of every env: the `count` envs of each agent count up from the agent's seed."""
    return [(seed + index) % SEED_LIMIT for seed in seeds for index in range(count)]


def spaces_of(env: VectorEnv) -> Spaces:
    """Read what an agent must know from an environment made by `make_env`."""
    return Spaces(
        observation=env.facts.observation_size,
        action=env.action_spec.shape[-1],
        half_range=env.half_range,
        center=tuple(env.middle) if any(env.middle) else (),
        discrete=env.discrete,
        picture=env.picture,
        pixels=env.facts.pixels,
        masked=env.facts.masked,
        stock=env.stock,
        private=env.facts.private,
    )


def pick_device(name: str, engine: str = "auto") -> torch.device:
    """Resolve "auto", "cpu" or "cuda".

    Raises:
        ConfigError: CUDA is asked for and absent, or meant by the engine warp and absent.
    """
    if name == "auto" and engine == "warp" and not torch.cuda.is_available():
        raise ConfigError(
            "engine warp is made for CUDA, and torch sees no CUDA device here; use --engine native, or ask "
            "for its slow CPU form with --device cpu"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError('device "cuda": torch sees no CUDA device here; use --device cpu')
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
