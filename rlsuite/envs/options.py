"""Options of every environment: the fields that `make_env` takes."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

import torch

from rlsuite.envs.engines.warp_options import WarpOptions
from rlsuite.envs.seeding import Seeds
from rlsuite.errors import ConfigError, unknown_name

ENGINES = ("auto", "native", "warp", "gym", "dmc")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvOptions:
    """Options common to all environments.

    Raises:
        ConfigError: an unknown engine, or a number out of its range.
    """

    engine: str = "auto"
    """Physics: `auto` takes the native engine for our own tasks; `warp` runs them on a GPU; `gym` and `dmc`
    are Gymnasium's and dm_control's own environments."""
    device: torch.device | str = "cpu"
    """Where tensors are handed out, and where `warp` runs."""
    seed: Seeds = 0
    """Of env 0, env i using seed + i; or one for every env."""
    dtype: torch.dtype = torch.float32
    """Of observations, rewards and actions."""
    threads: int = 0
    """Of the native engine, at most so many; 0 takes all cores."""
    workers: int = 0
    """Processes that step a gym: environment; 0 steps the copies one after the other in this process."""
    step_timeout: float = 600.0
    """Seconds that one step or reset of the workers may take, 0 for no limit."""
    max_episode_steps: int | None = None
    """Instead of the environment's registered limit."""
    observation_keys: Sequence[str] | None = None
    """Parts of a gym: dictionary observation, in this order; by default all, the state first."""
    render: bool = False
    """`frame()` will be called; only Gymnasium's own environments must know beforehand."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Constructor arguments by Gymnasium's names, such as healthy_z_range; those of wrappers have prefixes
    (stock_gamma, discrete_bins)."""
    legacy_margin: bool = False
    """Contacts begin where they did before MuJoCo 3.5, as in all literature up to 3.4."""
    infos: bool = False
    """Gymnasium's MuJoCo tasks say what Gymnasium's environments put into `info` (`MujocoEnv.infos`)."""
    warp: WarpOptions | None = None
    """Settings of the engine `warp`."""

    def __post_init__(self) -> None:
        """Check what holds for all environments."""
        if self.engine not in ENGINES:
            raise unknown_name("an engine", self.engine, ENGINES, "rlsuite train --help")
        if self.max_episode_steps is not None:
            check_whole("max_episode_steps", self.max_episode_steps, 1)
        for name in ("threads", "workers"):
            check_whole(name, getattr(self, name), 0, " (0: the default)")
        if isinstance(self.seed, Sequence):
            object.__setattr__(self, "seed", [check_whole("seed", seed, 0) for seed in self.seed])
        elif self.seed is not None:
            object.__setattr__(self, "seed", check_whole("seed", self.seed, 0))
        if self.observation_keys is not None and not self.observation_keys:
            raise ConfigError("observation_keys names no part: leave it out for all of them")
        if not 0 <= self.step_timeout < float("inf"):
            raise ConfigError(
                f"step_timeout = {self.step_timeout}: must be finite and not negative (0: none)"
            )
        if self.dtype not in (torch.float32, torch.float64):
            raise ConfigError(f"dtype = {self.dtype}: must be torch.float32 or torch.float64")


def check_whole(name: str, value: Any, least: int, more: str = "") -> int:
    """Return a whole number, of Python or numpy, as an int; ConfigError unless it is at least `least`."""
    try:
        whole = index(value)
    except TypeError as error:
        raise ConfigError(f"{name} = {value!r}: must be a whole number") from error
    if whole < least:
        demand = f"must be at least {least}" if least else "must not be negative"
        raise ConfigError(f"{name} = {value}: {demand}{more}")
    return whole


def changed(base: EnvOptions | None, changes: Mapping[str, Any]) -> EnvOptions:
    """Return `base` (None: the defaults) with the given fields changed.

    Raises:
        ConfigError: there is no such field, or its value is out of range.
    """
    known = [field.name for field in dataclasses.fields(EnvOptions)]
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f'Did you mean "{near[0]}"?' if near else f"Allowed: {', '.join(known)}"
            raise ConfigError(f'make_env has no option "{name}". {hint}')
    given = {name: value for name, value in changes.items() if not (name == "options" and value is None)}
    return dataclasses.replace(base or EnvOptions(), **given)
