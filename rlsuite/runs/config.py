"""The fields of a training run; agents bring their own (`--agent.NAME`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro import conf

from rlsuite.bounds import (
    AtLeastOne,
    BatchSize,
    Bounds,
    EnvCount,
    NotNegative,
    SeedCount,
    ThreadCount,
    check_bounds,
)
from rlsuite.errors import ConfigError, unknown_name
from rlsuite.targets import is_target

RewardTransform = Literal["none", "antmaze", "antmaze10", "antmaze100", "locomotion", "zero"]

LOGGERS = ("tensorboard", "wandb", "trackio", "csv", "mlflow")
OfflineShare = Annotated[float | None, Bounds(0, 1)]
NO_ENV = "none"  # `--env none`: recorded data alone; `rlsuite.envs.absent` tells an agent their sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnConfig:
    """Fields that online and offline runs have in common."""

    env_options: Annotated[Mapping[str, Any], conf.Suppress] = field(default_factory=dict)
    """Constructor arguments of the environment, by name (`--env-option KEY=VALUE`)."""
    observation_keys: tuple[str, ...] = ()
    """Parts of a dictionary observation, of a gym: environment and of Minari's data, in this order; by
    default all, the state first and the goal last."""
    plugins: Annotated[Mapping[str, Any], conf.Suppress] = field(default_factory=dict)
    """Fields of each plug-in, by its name (`--plugins NAME,NAME --NAME.FIELD VALUE`)."""
    legacy_margin: bool = False
    """Contacts of MuJoCo models begin where they did before MuJoCo 3.5, to compare with older results."""
    batch_size: BatchSize = 256
    """Replayed transitions per update."""
    eval_episodes: EnvCount = 10
    """Deterministic episodes of each evaluation."""
    eval_beside: bool = False
    """Evaluate in a process of its own on the CPU while training goes on; the numbers are written where the
    next evaluation or checkpoint is due, with the step they belong to."""
    seed: NotNegative = 0
    """Root of every random stream of the run."""
    seeds: SeedCount = 1
    """Independent agents trained together in one process, of seeds `seed`, `seed` + 1, ...; steps, envs,
    batch and replay size are those of each."""
    engine: Literal["auto", "native", "warp", "gym", "dmc"] = "auto"
    """Physics engine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks and the replay live."""
    threads: ThreadCount = 0
    """CPU threads of torch and of the native engine; 0 takes all cores."""
    mixed_precision: bool = False
    """Compute hidden layers' products in bfloat16; output layers, weights, moments, losses are float32."""
    matmul: Literal["float32", "tf32"] = "float32"
    """Products of float32 on CUDA: tf32 rounds their factors to 10 bits, and is several times faster."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Run every update as one compiled function; auto does where the updates to come repay building it."""
    cuda_graphs: bool = True
    """On CUDA, replay updates with their sampling as graphs, after a check that they do the same."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Where metrics go beside metrics.jsonl: tensorboard, wandb, trackio, csv, mlflow, or MODULE:CLASS;
    TensorBoard is left out silently when not installed."""
    logger_options: Annotated[Mapping[str, Any], conf.Suppress] = field(default_factory=dict)
    """Options of each logger, by its name (`--logger-option wandb.project=mine`)."""
    callbacks: tuple[str, ...] = ()
    """Code of yours that is called at log lines, evaluations and saves: MODULE:CLASS, or
    MODULE:CLASS,KEY=VALUE, e.g. rlsuite:StopWhen,at_least=-200."""
    guard: bool = True
    """Stop with a dump when a loss or a gradient is not finite."""
    env_workers: ThreadCount = 0
    """Processes that step the copies of a slow gym: environment; 0 steps them one after the other here."""
    step_timeout: Annotated[float, Bounds(0)] = 600.0
    """Seconds for one call of a gym: environment, after which the run ends with exit code 5; 0: no limit."""
    eval_every: NotNegative = 0
    checkpoint_every: NotNegative = 0
    log_every: AtLeastOne = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(LearnConfig):
    """An online run. The same dataclass is the command line, the preset and `config.toml`."""

    env: str
    """Environment: HalfCheetah, gym:Pendulum-v1, dmc:cheetah-run, ..."""
    steps: AtLeastOne = 1_000_000
    """Env steps of the whole run, over all envs."""
    num_envs: EnvCount = 1
    """Envs stepped together."""
    updates_per_step: Annotated[float, Bounds(0)] = 1.0
    """Gradient updates per env step; 0.05 is one update every 20 env steps."""
    warmup_steps: NotNegative = 5_000
    """Env steps before the first update."""
    warmup_policy: Literal["uniform", "tanh_normal", "agent"] = "uniform"
    """Who acts before the first update: uniform actions, tanh of normal ones, or the untrained policy."""
    random_phase: Annotated[bool, conf.Suppress] = False
    """First episodes end at random times, so that envs with a time limit are not reset together for ever
    (presets alone say so)."""
    replay_size: AtLeastOne = 1_000_000
    """Capacity of the replay, in env steps."""
    prior_data: str = ""
    """Recorded data to learn from beside the env steps: an id (rlsuite list datasets), a file or a folder."""
    offline_share: OfflineShare = None
    """Share of every batch that comes from --prior-data, spread evenly among new transitions; none: the data
    are the first transitions of the one replay."""
    reward: RewardTransform = "none"
    """Reward transform of --prior-data and of new transitions: none; antmaze: reward - 1; antmaze10: 10
    reward - 5; antmaze100: 100 reward; locomotion: times 1000 / (best - worst recorded return); zero: 0."""
    intervention: str = ""
    """Who may take over from the policy while it learns, MODULE:CLASS,KEY=VALUE, e.g.
    rlsuite:Expert,run='runs/sac'; the reward is then -1 where that begins and 0 elsewhere (RLIF)."""
    epochs: NotNegative = 0
    """Passes over every rollout of `replay_size` env steps, for on-policy agents (ppo); their updates follow
    from it and `batch_size`, and `updates_per_step` is not read. 0: agents with a replay."""
    n_step: AtLeastOne = 1
    """Rewards summed before the bootstrap."""
    replay: Literal["uniform", "her"] = "uniform"
    """Replay: transitions as they were, or with goals that were reached later (environments with goals)."""
    her_k: AtLeastOne = 4
    """Of `--replay her`: transitions with a goal of the future for each that keeps its own."""
    her_distance: Annotated[float | None, Bounds(0, open_low=True)] = None
    """Of `--replay her`: reward 0 within this distance of a goal and -1 beyond; none asks the environment."""
    eval_every: NotNegative = 10_000
    """Env steps between evaluations; 0 evaluates never. Unless it is given, steps / 20 in shorter runs."""
    checkpoint_every: NotNegative = 50_000
    """Env steps between checkpoints; 0 saves at the end only."""
    log_every: AtLeastOne = 1_000
    """Env steps between lines of metrics."""
    ranks: Annotated[int, conf.Suppress] = 1
    """Processes that share envs, batches and replay (torchrun); found out at the start."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        check_bounds(self)
        check_names(self)
        if not self.env:
            raise ConfigError("env is empty: name one, e.g. --env HalfCheetah")
        if self.env == NO_ENV:
            raise ConfigError(
                "env none: learning online needs an environment; with --dataset it does without"
            )
        if self.replay == "her" and self.n_step != 1:
            raise ConfigError(
                f"n_step = {self.n_step} with replay her: one sum would be of several goals; use n_step = 1"
            )
        least = self.num_envs * self.n_step
        if self.replay_size < least:
            raise ConfigError(
                f"replay_size = {self.replay_size}: must hold n_step = {self.n_step} transitions of "
                f"each of num_envs = {self.num_envs}, {least} in all"
            )

    def earned(self, env_steps: int) -> int:
        """Return how many updates so many env steps after the warm-up have earned."""
        if self.epochs:  # a rollout earns nothing before it is whole
            return env_steps // self.replay_size * self.epochs * (self.replay_size // self.batch_size)
        return math.floor(env_steps * self.updates_per_step + 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineConfig(LearnConfig):
    """A run on recorded data, and online afterwards where asked."""

    dataset: str
    """Data to learn from: an id (rlsuite list datasets), a file or a folder."""
    env: str = ""
    """Environment of evaluation and of online steps; empty takes what the data name, none does without."""
    steps: NotNegative = 1_000_000
    """Updates on the data; 0 goes online at once (--then-online)."""
    reward: RewardTransform = "none"
    """Reward transform: none; antmaze: reward - 1; antmaze10: 10 reward - 5; antmaze100: 100 reward;
    locomotion: times 1000 / (best - worst return); zero: 0."""
    action_limit: Annotated[float | None, Bounds(0, 1, open_low=True)] = 1 - 1e-5
    """Recorded actions are clipped to plus and minus this; none leaves them as they are."""
    eval_every: NotNegative = 5_000
    """Updates between evaluations; 0 evaluates never. Unless it is given, steps / 20 in shorter runs."""
    checkpoint_every: NotNegative = 50_000
    """Updates between checkpoints; 0 saves at the end only."""
    log_every: AtLeastOne = 1_000
    """Updates between lines of metrics."""
    earlier_run: Annotated[str, conf.arg(name="from", metavar="RUN")] = ""
    """Run folder to take the stages from that this run does not repeat, for agents that learn in stages."""
    earlier_digest: Annotated[str, conf.Suppress] = ""
    """SHA-256 of the agent in the checkpoint that was taken; found out at the start."""
    expert: str = ""
    """Demonstrations, a second data set, for agents that imitate them: an id, a file or a folder."""
    expert_episodes: NotNegative = 0
    """Demonstrations to take, the first episodes of that data set; 0 takes all."""
    then_online: NotNegative = 0
    """Env steps taken online afterwards, with the data in the replay."""
    offline_share: OfflineShare = None
    """Share of every batch online that comes from the data, spread evenly among new transitions; none: one
    replay holds both."""
    warmup_steps: NotNegative = 0
    """First env steps online, with uniform actions and without updates; 0: the policy acts at once."""
    num_envs: EnvCount = 1
    """Envs stepped together online."""
    updates_per_step: Annotated[float, Bounds(0)] = 1.0
    """Updates per env step online."""
    replay_size: AtLeastOne = 2_000_000
    """Capacity of the online replay, the data included, in transitions."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        check_bounds(self)
        check_names(self)
        if not self.dataset:
            raise ConfigError("dataset is empty: name one, e.g. --dataset FILE")
        if not self.steps and not self.then_online:
            raise ConfigError("steps = 0: nothing would be learnt; go online with --then-online STEPS")
        for name in ("eval_every", "then_online"):
            if self.env == NO_ENV and getattr(self, name):
                raise ConfigError(f"{name} = {getattr(self, name)}: env none has nothing to play in; use 0")


def check_names(config: LearnConfig) -> None:
    """Raise ConfigError for a logger or a callback that cannot be one."""
    for name in config.loggers:
        if name not in LOGGERS and not is_target(name):
            raise unknown_name("a logger", name, LOGGERS, "--loggers, or name a class as MODULE:CLASS")
    for text in config.callbacks:
        if not is_target(text.partition(",")[0]):
            raise ConfigError(
                f'--callbacks "{text:.60}": name a class as MODULE:CLASS, or MODULE:CLASS,KEY=VALUE'
            )
    for name in config.logger_options:
        if name not in config.loggers:
            raise ConfigError(f"--logger-option {name}: it is none of --loggers {' '.join(config.loggers)}")


def updates_of(config: LearnConfig) -> int:
    """Return how many updates a run makes from its beginning to its end."""
    if isinstance(config, TrainConfig) and config.epochs:
        return config.earned(config.steps)
    if isinstance(config, TrainConfig):
        return int(max(0, config.steps - config.warmup_steps) * config.updates_per_step)
    assert isinstance(config, OfflineConfig)
    return config.steps + int(max(0, config.then_online - config.warmup_steps) * config.updates_per_step)


def check_prior(config: "TrainConfig | OfflineConfig") -> None:
    """Raise ConfigError for fields of mixed batches that have no data, or none to mix them with."""
    if isinstance(config, OfflineConfig):
        for name in ("offline_share", "warmup_steps"):
            if getattr(config, name) and not config.then_online:
                raise ConfigError(
                    f"{name} = {getattr(config, name)}: it is of env steps after the data: --then-online"
                )
        return
    if config.prior_data:
        if config.epochs:
            raise ConfigError(f"prior_data = {config.prior_data}: an on-policy agent has no use for it")
        if config.n_step != 1 or config.replay != "uniform":
            raise ConfigError(
                f"prior_data with n_step = {config.n_step} and replay {config.replay}: recorded transitions "
                "are single steps with their own goals; use n_step = 1 and replay uniform"
            )
        return
    if config.intervention and config.epochs:
        raise ConfigError("intervention: an on-policy agent learns from its own actions alone")
    for name, unset in (("offline_share", None), ("reward", "none")):
        if (value := getattr(config, name)) != unset:
            raise ConfigError(f"{name} = {value} is of recorded data: name some with --prior-data DATA")


def check_learns(config: LearnConfig) -> None:
    """Raise ConfigError for a run that ends before its first update."""
    if isinstance(config, TrainConfig) and updates_of(config) < 1:
        raise ConfigError(
            f"nothing would be learnt: steps = {config.steps:,} and warmup_steps = {config.warmup_steps:,}, "
            f"at updates_per_step = {config.updates_per_step:g}, leave no update; take more --steps, or "
            f"--warmup-steps {config.steps // 5}"
        )


def spaced(most: int, steps: int) -> int:
    """Return how many steps apart evaluations are unless told otherwise: 20 in a run, or every `most`."""
    return max(1, min(most, steps // 20))
