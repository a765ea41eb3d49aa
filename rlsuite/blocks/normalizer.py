"""Running mean and deviation of observations, as buffers of whoever learns from them.

Legend: N rows, F features; leading axes are independent seeds.
"""

import torch
from torch import Tensor, nn

from rlsuite.blocks import ranks
from rlsuite.blocks.mlp import Lead

MIN_STD = 1e-2  # in units of the observation: what hardly varies is not blown up
CLIP = 10.0  # of normalised observations, in deviations; our choice, that of common vector normalisers


class RunningNorm(nn.Module):
    """Observations less their running mean, in running deviations, cut at 10.

    The statistics are those of all rows that `observe` was shown, merged batch by batch (Chan et al. 1983).
    Before the first batch observations pass unchanged.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, features: int, *, lead: Lead = ()) -> None:
        super().__init__()
        # Exact far beyond 2^24 rows. Of one axis: a compiled function loses what it writes in place into a
        # double without axes.
        self.register_buffer("count", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(*lead, features))
        self.register_buffer("var", torch.ones(*lead, features))

    @torch.no_grad()
    def observe(self, rows: Tensor) -> None:
        """Merge `[*lead, N, F]` rows into the statistics; a batch that is not finite leaves them alone."""
        size = rows.shape[-2]
        var, mean = torch.var_mean(rows, dim=-2, correction=0)
        if ranks.size() > 1:  # every rank shows rows of its own, and all follow the same statistics
            size, own, mean = size * ranks.size(), mean, ranks.mean(mean)
            var = ranks.mean(var + (own - mean).square())
        share = (size / (self.count + size)).to(rows.dtype)  # of this batch in what has been seen
        delta = mean - self.mean
        merged = (1 - share) * self.var + share * var + share * (1 - share) * delta.square()
        finite = torch.isfinite(merged)
        self.var.copy_(torch.where(finite, merged, self.var))
        self.mean.copy_(torch.where(finite, self.mean + share * delta, self.mean))
        self.count.add_(size)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[*lead, N, F]`."""
        scaled = (x - self.mean.unsqueeze(-2)) / self.var.sqrt().clamp(min=MIN_STD).unsqueeze(-2)
        return scaled.clamp(-CLIP, CLIP)
