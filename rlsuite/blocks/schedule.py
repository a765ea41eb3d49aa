"""Learning rates that change while training, as tensors that optimisers read."""

import math
from typing import Literal

import torch
from torch import Tensor, nn


class CosineRate(nn.Module):
    """A learning rate that falls along half a cosine and stays at 0, until it is held.

    `rate` is what the optimiser's group holds as its "lr": it lives on the device and changes in place, so
    that a captured update follows it, and all of it is saved with the agent. It never rises again by itself:
    `torch.optim.lr_scheduler.CosineAnnealingLR` is periodic beyond its last step.

    Args:
        initial: rate of the first step.
        updates: steps until the rate is 0; 0 keeps it at `initial`.
    """

    rate: Tensor
    count: Tensor
    held: Tensor

    def __init__(self, initial: float, updates: int) -> None:
        super().__init__()
        self.initial, self.updates = initial, updates
        self.register_buffer("rate", torch.tensor(initial, dtype=torch.float32))  # fused Adam asks for it
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("held", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def step(self) -> None:
        """Set the rate of the next step; called after every step."""
        if not self.updates:
            return
        self.count.add_(1)
        angle = math.pi * (self.count / self.updates).clamp(max=1)
        falling = 0.5 * self.initial * (1 + angle.cos())
        self.rate.copy_(torch.where(self.held, self.initial, falling))

    def hold(self) -> None:
        """Put the rate back to its initial value, for good."""
        self.held.fill_(True)
        self.rate.fill_(self.initial)


class FallingRate(nn.Module):
    """A learning rate that falls to a share of itself over the run's updates, evenly or along half a cosine.

    `rate` is read and saved as that of `CosineRate`. It stays as it is until `updates` is told, and behind
    them.

    Args:
        initial: rate of the first step.
        share: of it that is left at the end.
        form: of the way there.
    """

    rate: Tensor
    count: Tensor

    def __init__(self, initial: float, share: float, form: Literal["linear", "cosine"]) -> None:
        super().__init__()
        self.initial, self.share, self.form, self.updates = initial, share, form, 0
        self.register_buffer("rate", torch.tensor(initial, dtype=torch.float32))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def step(self) -> None:
        """Set the rate of the next step; called after every update."""
        if not self.updates or self.share == 1:
            return
        self.count.add_(1)
        done = (self.count / self.updates).clamp(max=1)
        left = 1 - done if self.form == "linear" else 0.5 * (1 + (math.pi * done).cos())
        self.rate.copy_(self.initial * (self.share + (1 - self.share) * left))
