"""The fields of a training run; agents bring their own (`--agent.NAME`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro import conf

from rlsuite.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """An online run. The same dataclass is the command line, the preset and `config.toml`."""

    env: str
    """Environment: HalfCheetah, gym:Pendulum-v1, dmc:cheetah-run, ..."""
    env_options: Annotated[Mapping[str, Any], conf.Suppress] = field(default_factory=dict)
    """Constructor arguments of the environment, by name (`--env-option KEY=VALUE`)."""
    legacy_margin: bool = False
    """Contacts of MuJoCo models begin where they did before MuJoCo 3.5, to compare with older results."""
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
    batch_size: int = 256
    """Replayed rows per update."""
    replay_size: int = 1_000_000
    """Capacity of the replay, in env steps."""
    n_step: int = 1
    """Rewards summed before the bootstrap."""
    eval_every: int = 10_000
    """Env steps between evaluations; 0 evaluates never."""
    eval_episodes: int = 10
    """Deterministic episodes of each evaluation."""
    checkpoint_every: int = 50_000
    """Env steps between checkpoints; 0 saves at the end only."""
    log_every: int = 1_000
    """Env steps between lines of metrics."""
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
    cuda_graphs: bool = True
    """On CUDA, replay updates as graphs, after a check that they equal eager ones."""
    loggers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Where metrics go beside metrics.jsonl; TensorBoard is left out silently when not installed."""
    guard: bool = True
    """Stop with a dump when a loss or a gradient is not finite."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        for name in (
            "steps",
            "num_envs",
            "batch_size",
            "replay_size",
            "n_step",
            "seeds",
            "eval_episodes",
            "log_every",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("warmup_steps", "eval_every", "checkpoint_every", "threads", "updates_per_step"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: must not be negative")
        if not self.env:
            raise ConfigError("env is empty: name one, e.g. --env HalfCheetah")
