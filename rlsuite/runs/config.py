"""The fields of a training run; agents bring their own (`--agent.NAME`)."""

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
from rlsuite.errors import ConfigError

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
    """Compute the networks' products in bfloat16; weights, moments and losses stay in float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Run every update as one compiled function; auto does where the updates to come repay building it."""
    cuda_graphs: bool = True
    """On CUDA, replay updates as graphs, after a check that they equal eager ones."""
    loggers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Where metrics go beside metrics.jsonl; TensorBoard is left out silently when not installed."""
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
    replay_size: AtLeastOne = 1_000_000
    """Capacity of the replay, in env steps."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineConfig(LearnConfig):
    """A run on recorded data, and online afterwards where asked."""

    dataset: str
    """Data to learn from: an id (rlsuite list datasets), a file or a folder."""
    env: str = ""
    """Environment of evaluation and of online steps; empty takes what the data name, none does without."""
    steps: AtLeastOne = 1_000_000
    """Updates on the data."""
    reward: Literal["none", "antmaze", "locomotion"] = "none"
    """Reward transform: none; antmaze: reward - 1; locomotion: times 1000 / (best - worst return)."""
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
    then_online: NotNegative = 0
    """Env steps taken online afterwards, with the data in the replay."""
    num_envs: EnvCount = 1
    """Envs stepped together online."""
    updates_per_step: Annotated[float, Bounds(0)] = 1.0
    """Updates per env step online."""
    replay_size: AtLeastOne = 2_000_000
    """Capacity of the online replay, the data included, in transitions."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        check_bounds(self)
        if not self.dataset:
            raise ConfigError("dataset is empty: name one, e.g. --dataset FILE")
        for name in ("eval_every", "then_online"):
            if self.env == NO_ENV and getattr(self, name):
                raise ConfigError(f"{name} = {getattr(self, name)}: env none has nothing to play in; use 0")


def updates_of(config: LearnConfig) -> int:
    """Return how many updates a run makes from its beginning to its end."""
    if isinstance(config, TrainConfig):
        return int(max(0, config.steps - config.warmup_steps) * config.updates_per_step)
    assert isinstance(config, OfflineConfig)
    return config.steps + int(config.then_online * config.updates_per_step)


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
