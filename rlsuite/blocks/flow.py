"""Flow matching: networks that say with which velocity noise becomes data, their integration, their loss.

Straight paths from x_0, noise, at time 0 to x_1, data, at time 1 (Lipman et al. 2023, arXiv 2210.02747; Liu
et al. 2023, arXiv 2209.03003). A `Velocity` is any function of where something is and when.

Legend: N batch, C numbers of a context, X numbers that flow, M members, O observation, A action; leading axes
are independent networks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlsuite.blocks.categorical import gaussian_bins
from rlsuite.blocks.networks import NetShape

Velocity = Callable[[Tensor, Tensor], Tensor]
"""x `[*, N, X]` and time `[*, N, 1]` to dx / dt `[*, N, X]`."""

MARGIN = 0.01  # by which the range of values is wider than that of constant rewards; floq's authors' code
FIRST_REWARDS = (-1.0, 0.0)  # range of rewards until data have told theirs


def on_path(start: Tensor, end: Tensor, time: Tensor) -> Tensor:
    """Return the point (1 - t) start + t end."""
    return (1 - time) * start + time * end


def flow_errors(velocity: Velocity, start: Tensor, end: Tensor, time: Tensor) -> Tensor:
    """Return the squared errors of a velocity on straight paths, entry by entry, `[*, N, X]`.

    Args:
        velocity: of points at times; where it has more leading axes than the paths, all see the same.
        start: at time 0, `[*, N, X]`.
        end: at time 1, `[*, N, X]`.
        time: in [0, 1], `[*, N, 1]`.
    """
    return (velocity(on_path(start, end, time), time) - (end - start)).square()


def flow_matching_loss(velocity: Velocity, start: Tensor, end: Tensor, time: Tensor) -> Tensor:
    """Return the mean of `flow_errors` over N and X, `[*]`."""
    return flow_errors(velocity, start, end, time).mean((-2, -1))


def euler(velocity: Velocity, start: Tensor, steps: int) -> Tensor:
    """Return where `start` `[*, N, X]` is at time 1, after equal Euler steps at times 0, 1 / steps, ..."""
    x = start
    for k in range(steps):
        x = x + velocity(x, torch.full_like(x[..., :1], k / steps)) / steps
    return x


class VelocityField(nn.Module):
    """Velocity of X numbers in a context: a trunk over both and the time.

    Args:
        context: C.
        size: X.
        shape: of the trunk.
    """

    trunks = ("trunk",)

    def __init__(self, context: int, size: int, shape: NetShape) -> None:
        super().__init__()
        self.trunk = shape.trunk(context + size + 1, size)

    def forward(self, context: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Return `[*lead, N, X]` for `[*lead, N, C]`, `[*lead, N, X]` and times `[*lead, N, 1]`."""
        return self.trunk(torch.cat((context, x, time), -1)).to(x.dtype)


class ValueField(nn.Module):
    """Velocities of M members that carry a number to the value of (observation, action); floq's critic.

    The number enters as probabilities of bins of a Gaussian around it, so that one network sees near and far
    numbers alike; the time enters as its cosine (authors' code; arXiv 2509.06863). Bins cover the values that
    constant rewards of the data's range have.

    Args:
        observation: O.
        action: A.
        shape: of the trunk.
        members: M; the member axis is the last leading one.
        gamma: discount, below 1.
        bins: how many.
        smoothing: deviation of the Gaussian, in widths of a bin.
    """

    trunks = ("trunk",)
    reward_range: Tensor
    grid: Tensor

    def __init__(
        self,
        observation: int,
        action: int,
        shape: NetShape,
        *,
        members: int = 2,
        gamma: float = 0.99,
        bins: int = 50,
        smoothing: float = 16.0,
    ) -> None:
        super().__init__()
        self.trunk = shape.trunk(observation + action + bins + 1, 1, members=(members,))
        self.horizon, self.smoothing, self.bins = 1 / (1 - gamma), smoothing, bins
        self.register_buffer("reward_range", torch.tensor(FIRST_REWARDS))
        self.register_buffer("grid", torch.linspace(0, 1, bins + 1), persistent=False)

    @torch.no_grad()
    def adopt_rewards(self, low: float, high: float) -> None:
        """Take the range of the data's rewards, in place."""
        self.reward_range.copy_(torch.tensor((low, high)))

    def edges(self) -> Tensor:
        """Return the ends of the bins, `[bins + 1]`: from (low - 0.01) to (high + 0.01) over 1 - gamma."""
        low = (self.reward_range[0] - MARGIN) * self.horizon
        high = (self.reward_range[1] + MARGIN) * self.horizon
        return low + (high - low) * self.grid

    def embedded(self, z: Tensor) -> Tensor:
        """Return the bins' probabilities, `[..., bins]`, of numbers `[..., 1]`."""
        edges = self.edges()
        return gaussian_bins(z.squeeze(-1), edges, self.smoothing * (edges[1] - edges[0]))

    def forward(self, observation: Tensor, action: Tensor, z: Tensor, time: Tensor) -> Tensor:
        """Return velocities `[*lead, M, N, 1]`.

        Args:
            observation: `[*lead, N, O]`.
            action: `[*lead, N, A]`.
            z: `[*lead, M, N, 1]`, or `[*lead, 1, N, 1]` where all members stand at the same.
            time: of the same shape.
        """
        moving = torch.cat((self.embedded(z), time.cos()), -1)
        fixed = torch.cat((observation, action), -1).unsqueeze(-3)
        fixed = fixed.expand(*moving.shape[:-1], fixed.shape[-1])
        return self.trunk(torch.cat((fixed, moving), -1)).to(z.dtype)
