"""What agents share that learn in stages: which one is due, and what a run takes over from an earlier one."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from rlsuite.errors import ConfigError

Name = TypeVar("Name", bound=str)


class Staged(Protocol[Name]):
    """The configuration of an agent that learns in stages."""

    @property
    def order(self) -> tuple[Name, ...]:
        """The stages of this run."""

    def updates_of(self, stage: Name) -> int:
        """Updates of one stage."""


def stage_due(config: Staged[Name], updates: int) -> Name:
    """Return the stage of the next update after so many; the last one goes on for ever."""
    for stage in config.order[:-1]:
        if updates < config.updates_of(stage):
            return stage
        updates -= config.updates_of(stage)
    return config.order[-1]


def check_same(earlier: Any, present: Any, fields: Sequence[str]) -> None:
    """Raise ConfigError where two configurations of an agent differ in one of `fields`."""
    different = [name for name in fields if getattr(earlier, name) != getattr(present, name)]
    if different:
        raise ConfigError(f"the earlier run has other values of {', '.join(different)}: give the same")


def take_over(agent: nn.Module, saved: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> None:
    """Copy saved tensors whose names begin so; ConfigError where one is missing or of another size."""
    tensors = {**dict(agent.named_parameters()), **dict(agent.named_buffers())}
    tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}
    wrong = [name for name in tensors if name not in saved or saved[name].shape != tensors[name].shape]
    if wrong:
        raise ConfigError(
            f"{wrong[0]} (one of {len(wrong)}) has another size in the earlier run: give networks of the "
            "same sizes, and as many seeds"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])
