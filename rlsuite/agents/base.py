"""What every agent is: networks, optimisers, a policy, and one update on a batch of replayed rows.

Legend for shape suffixes in `agents/`: N batch, M ensemble members, O observation, A action.
Leading axes (independent seeds) may stand in front of all of them.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Spaces:
    """What an agent must know of an environment.

    Attributes:
        observation: length of the flat observation vector, O.
        action: length of the action vector, A. Agents act in [-1, 1].
        half_range: (high - low) / 2 of each action in the environment's units, A numbers.
    """

    observation: int
    action: int
    half_range: tuple[float, ...]


class Trained(NamedTuple):
    """One named part of an agent; `optimizer` is None for what no optimiser moves (targets)."""

    name: str
    module: nn.Module
    optimizer: Optimizer | None


class Agent(nn.Module):
    """Base of all agents. Subclasses set `Config` and define `update`, `values` and `parts`.

    Everything that changes while training is a parameter, a buffer, an optimiser of `parts` or one of
    `generators`; the checkpoint saves these four and needs no other knowledge of the algorithm.
    """

    Config: ClassVar[type]
    policy: TensorDictModule
    generators: dict[str, torch.Generator]

    def update(self, batch: TensorDict) -> dict[str, Tensor]:
        """Take one gradient step on `batch` (`[N]` replayed rows); return scalar metrics on the device."""
        raise NotImplementedError

    def values(self, batch: TensorDict) -> TensorDict:
        """Return `q` and `td_error`, each `[N]`, for rows of `batch`, without gradient."""
        raise NotImplementedError

    def parts(self) -> tuple[Trained, ...]:
        """Return every trained part and every target, by name."""
        raise NotImplementedError


GENERATOR_NAMES = ("init", "act", "learn")


def make_generators(seed: int, device: torch.device | str = "cpu") -> dict[str, torch.Generator]:
    """Return the three random streams of an agent from one seed, for use outside the training loop."""
    children = torch.randint(2**62, (len(GENERATOR_NAMES),), generator=torch.Generator().manual_seed(seed))
    return {
        name: torch.Generator(device).manual_seed(int(child))
        for name, child in zip(GENERATOR_NAMES, children, strict=True)
    }


def check_range(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    """Raise ValueError unless low <= value <= high (low < value with `open_low`)."""
    if not (low < value if open_low else low <= value) or not value <= high:
        bracket = "(" if open_low else "["
        raise ValueError(f"{name} = {value} is outside {bracket}{low}, {high}]")
