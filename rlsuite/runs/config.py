"""The fields of a training run; agents bring their own (`--agent.NAME`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro import conf

from rlsuite.errors import ConfigError

NO_ENV = "none"  # `--env none`: recorded data alone; `rlsuite.envs.absent` tells an agent their sizes

AT_LEAST_ONE = (
    "steps",
    "num_envs",
    "batch_size",
    "replay_size",
    "n_step",
    "seeds",
    "eval_episodes",
    "log_every",
)
NOT_NEGATIVE = (
    "warmup_steps",
    "eval_every",
    "checkpoint_every",
    "threads",
    "updates_per_step",
    "step_timeout",
    "then_online",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnConfig:
    """What online and offline runs have in common."""

    env_options: Annotated[Mapping[str, Any], conf.Suppress] = field(default_factory=dict)
    """Constructor arguments of the environment, by name (`--env-option KEY=VALUE`)."""
    observation_keys: tuple[str, ...] = ()
    """Parts of a dictionary observation, of a gym: environment and of Minari's data, in this order; by
    default all, the state first and the goal last."""
    plugins: Annotated[Mapping[str, Any], conf.Suppress] = field(default_factory=dict)
    """Fields of each plug-in, by its name (`--plugins NAME,NAME --NAME.FIELD VALUE`)."""
    legacy_margin: bool = False
    """Contacts of MuJoCo models begin where they did before MuJoCo 3.5, to compare with older results."""
    batch_size: int = 256
    """Replayed rows per update."""
    eval_episodes: int = 10
    """Deterministic episodes of each evaluation."""
    seed: int = 0
    """Root of every random stream of the run."""
    seeds: int = 1
    """Independent agents trained together in one process, of seeds `seed`, `seed` + 1, ...; steps, worlds,
    batch and replay size are those of each."""
    engine: Literal["auto", "native", "warp", "gym", "dmc"] = "auto"
    """Physics engine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks and the replay live."""
    threads: int = 0
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
    step_timeout: float = 600.0
    """Seconds for one call of a gym: environment, after which the run ends with exit code 5; 0: no limit."""
    eval_every: int = 0
    checkpoint_every: int = 0
    log_every: int = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(LearnConfig):
    """An online run. The same dataclass is the command line, the preset and `config.toml`."""

    env: str
    """Environment: HalfCheetah, gym:Pendulum-v1, dmc:cheetah-run, ..."""
    steps: int = 1_000_000
    """Env steps of the whole run, over all worlds."""
    num_envs: int = 1
    """Worlds stepped together."""
    updates_per_step: float = 1.0
    """Gradient updates per env step; 0.05 is one update every 20 env steps."""
    warmup_steps: int = 5_000
    """Env steps before the first update."""
    warmup_policy: Literal["uniform", "tanh_normal", "agent"] = "uniform"
    """Who acts before the first update: uniform actions, tanh of normal ones, or the untrained policy."""
    replay_size: int = 1_000_000
    """Capacity of the replay, in env steps."""
    n_step: int = 1
    """Rewards summed before the bootstrap."""
    eval_every: int = 10_000
    """Env steps between evaluations; 0 evaluates never."""
    checkpoint_every: int = 50_000
    """Env steps between checkpoints; 0 saves at the end only."""
    log_every: int = 1_000
    """Env steps between lines of metrics."""
    ranks: Annotated[int, conf.Suppress] = 1
    """Processes that share worlds, batches and replay (torchrun); found out at the start."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        _check(self)
        if not self.env:
            raise ConfigError("env is empty: name one, e.g. --env HalfCheetah")
        if self.env == NO_ENV:
            raise ConfigError(
                "env none: learning online needs an environment; with --dataset it does without"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineConfig(LearnConfig):
    """A run on recorded data, and online afterwards where asked."""

    dataset: str
    """Data to learn from: an id (rlsuite list datasets), a file or a folder."""
    env: str = ""
    """Environment of evaluation and of online steps; empty takes what the data name, none does without."""
    steps: int = 1_000_000
    """Updates on the data."""
    reward: Literal["none", "antmaze", "locomotion"] = "none"
    """Reward transform: none; antmaze: reward - 1; locomotion: times 1000 / (best - worst return)."""
    action_limit: float | None = 1 - 1e-5
    """Recorded actions are clipped to plus and minus this; none leaves them as they are."""
    eval_every: int = 5_000
    """Updates between evaluations; 0 evaluates never."""
    checkpoint_every: int = 50_000
    """Updates between checkpoints; 0 saves at the end only."""
    log_every: int = 1_000
    """Updates between lines of metrics."""
    earlier_run: Annotated[str, conf.arg(name="from", metavar="RUN")] = ""
    """Run folder to take the stages from that this run does not repeat, for agents that learn in stages."""
    earlier_digest: Annotated[str, conf.Suppress] = ""
    """SHA-256 of the agent in the checkpoint that was taken; found out at the start."""
    then_online: int = 0
    """Env steps taken online afterwards, with the data in the replay."""
    num_envs: int = 1
    """Worlds stepped together online."""
    updates_per_step: float = 1.0
    """Updates per env step online."""
    replay_size: int = 2_000_000
    """Capacity of the online replay, the data included, in rows."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        _check(self)
        if not self.dataset:
            raise ConfigError("dataset is empty: name one, e.g. --dataset FILE")
        for name in ("eval_every", "then_online"):
            if self.env == NO_ENV and getattr(self, name):
                raise ConfigError(f"{name} = {getattr(self, name)}: env none has nothing to play in; use 0")
        if self.action_limit is not None and not 0 < self.action_limit <= 1:
            raise ConfigError(f"action_limit = {self.action_limit}: must be in (0, 1]")


def _check(config: LearnConfig) -> None:
    for name in AT_LEAST_ONE:
        if getattr(config, name, 1) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)}: must be at least 1")
    for name in NOT_NEGATIVE:
        if getattr(config, name, 0) < 0:
            raise ConfigError(f"{name} = {getattr(config, name)}: must not be negative")
