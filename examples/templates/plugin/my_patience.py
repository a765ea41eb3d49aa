"""Patience: end episodes in which nothing has moved for a while; a template of a plug-in.

An episode that is cut here is truncated, not terminated: its last row bootstraps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from rlsuite.blocks.noise import Source
from rlsuite.bounds import AtLeastOne, Bounds, check_bounds
from rlsuite.plugins.base import Plugin


@dataclass(frozen=True, slots=True, kw_only=True)
class MyPatienceConfig:
    """Fields become flags, `--my-patience.steps`."""

    steps: AtLeastOne = 50
    """Env steps without a change after which the episode ends."""
    least: Annotated[float, Bounds(0)] = 1e-3
    """Change of any number of the observation that counts as one."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)


class MyPatience(Plugin):
    """Counts the steps in which a world's observation stood still. What changes is in `state_dict`."""

    Config: ClassVar[type] = MyPatienceConfig

    def __init__(self, config: MyPatienceConfig, agent: Any, source: Source) -> None:
        super().__init__(config, agent, source)
        # Offline there are no worlds, and no `begin`.
        self.still = self.ended = torch.zeros(0, dtype=torch.int64)

    def begin(self, num_envs: int, max_episode_steps: int | None, env_steps: int) -> None:
        """Learn how many worlds there are: those of all seeds, in equal groups."""
        self.still = torch.zeros(num_envs, dtype=torch.int64)  # env steps, per world
        self.ended = torch.zeros(num_envs, dtype=torch.int64)  # episodes ended here, per world

    def stop_mask(self, step: Any) -> Tensor:
        """Say which worlds end here, `[num_envs]`."""
        change = (step["next", "observation"] - step["observation"]).abs().amax(-1)
        self.still = self.still.to(change.device)
        self.ended = self.ended.to(change.device)
        self.still = torch.where(change < self.config.least, self.still + 1, 0)
        stop = self.still >= self.config.steps
        self.ended += stop
        self.still[stop | step["next", "done"].squeeze(-1)] = 0
        return stop

    def numbers(self) -> list[dict[str, float]]:
        """Return what every log line of each seed says beside the agent's metrics."""
        groups = self.ended.view(self.agent.lead[0] if self.agent.lead else 1, -1)
        return [{"my_patience/ended": float(count)} for count in groups.sum(-1)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold, so that a resumed run equals the unbroken one."""
        return {"still": self.still, "ended": self.ended}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self.still, self.ended = state["still"].clone(), state["ended"].clone()
