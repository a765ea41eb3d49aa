"""Actor and critics on the trunks of unit norm (`rlsuite.blocks.normed`): categorical or Gaussian returns.

Legend: N batch, O observation, A action, M members, K atoms; leading axes are independent seeds.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.blocks.categorical import Categorical
from rlsuite.blocks.heads import Gaussian
from rlsuite.blocks.normed import Statistics, UnitShape

LOG_STD_CENTER, LOG_STD_HALF = -10.0, 6.0  # log std = -10 + 6 (1 + tanh raw); FlashSAC and SimbaV2
LOG_STD_CLAMP = (-10.0, 2.0)  # XQC
STD_START = 0.1  # of Gaussian returns, in scaled units; softplus(0) = 0.69 is far too wide. Our choice

Rows = Literal["all", "first", "second"]
"""Which half of the rows is returned: batch norms see both."""


def half(x: Tensor, rows: Rows) -> Tensor:
    """Return all, the first or the second half of the rows of `[..., N, F]`."""
    if rows == "all":
        return x
    count = x.shape[-2] // 2
    return x[..., :count, :] if rows == "first" else x[..., count:, :]


class UnitActor(nn.Module):
    """Gaussian before the tanh on a trunk of unit norm.

    Args:
        observation: O.
        action: A.
        shape: of the trunk.
        std: "tanh" maps the second output smoothly to log std in (-10, 2), and begins at 0.018; "clamp" cuts
            it off there, and begins near 1.
    """

    def __init__(
        self, observation: int, action: int, shape: UnitShape, *, std: Literal["tanh", "clamp"] = "tanh"
    ) -> None:
        super().__init__()
        self.trunk = shape.trunk(observation, 2 * action, heads=2)
        self.std = std

    def forward(
        self, observation: Tensor, statistics: Statistics = "running", rows: Rows = "all"
    ) -> Gaussian:
        """Return the Gaussian, `[*lead, N, A]` each, for `[*lead, N, O]`."""
        output = half(self.trunk(observation, statistics).to(observation.dtype), rows)
        mean, raw = output.chunk(2, -1)
        if self.std == "clamp":
            return Gaussian(mean, raw.clamp(*LOG_STD_CLAMP).exp())
        return Gaussian(mean, (LOG_STD_CENTER + LOG_STD_HALF * (1 + raw.tanh())).exp())


class _UnitCritic(nn.Module):
    """M members over concatenated (observation, action) on a trunk of unit norm."""

    def __init__(
        self, observation: int, action: int, shape: UnitShape, *, members: int, outputs: int
    ) -> None:
        super().__init__()
        self.trunk = shape.trunk(observation + action, outputs, members=(members,))

    def features(self, observation: Tensor, action: Tensor, statistics: Statistics, rows: Rows) -> Tensor:
        joined = torch.cat((observation, action), -1).unsqueeze(-3)
        return half(self.trunk(joined, statistics).to(observation.dtype), rows)


class CategoricalCritic(_UnitCritic):
    """Probabilities of K returns that lie evenly in [-bound, bound], for M members."""

    support: Tensor

    def __init__(
        self, observation: int, action: int, shape: UnitShape, *, members: int, atoms: int, bound: float
    ) -> None:
        super().__init__(observation, action, shape, members=members, outputs=atoms)
        self.register_buffer("support", torch.linspace(-bound, bound, atoms), persistent=False)

    def forward(
        self, observation: Tensor, action: Tensor, statistics: Statistics = "running", rows: Rows = "all"
    ) -> Categorical:
        """Return the distributions, logits `[*lead, M, N, K]`, for `[*lead, N, O]` and `[*lead, N, A]`."""
        return Categorical(self.features(observation, action, statistics, rows), self.support)


class UnitGaussianCritic(_UnitCritic):
    """Mean and standard deviation of the scaled return for M members; std = softplus, from 0.1."""

    def __init__(self, observation: int, action: int, shape: UnitShape, *, members: int) -> None:
        super().__init__(observation, action, shape, members=members, outputs=2)
        with torch.no_grad():
            bias = (self.trunk.heads[0] if hasattr(self.trunk, "heads") else self.trunk.head).bias
            bias[..., 1] = math.log(math.expm1(STD_START))

    def forward(
        self, observation: Tensor, action: Tensor, statistics: Statistics = "running", rows: Rows = "all"
    ) -> Gaussian:
        """Return the return's Gaussian, `[*lead, M, N]` each, for `[*lead, N, O]` and `[*lead, N, A]`."""
        mean, raw = self.features(observation, action, statistics, rows).unbind(-1)
        return Gaussian(mean, F.softplus(raw))
