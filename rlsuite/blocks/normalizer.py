"""Normalised observations: by running statistics, or by fixed ones that are saved with the network.

Legend: N rows, F features; leading axes are independent seeds.
"""

import torch
from torch import Tensor, nn

from rlsuite import distributed as ranks
from rlsuite.blocks.mlp import Lead
from rlsuite.errors import DataError

MIN_STD = 1e-2  # in units of the observation: what hardly varies is not blown up
CLIP = 10.0  # of normalised observations, in stds; our choice, that of common vector normalisers


class RunningNorm(nn.Module):
    """Observations standardised by running mean and std, cut at 10.

    The statistics are those of all rows that `observe` was shown, merged batch by batch (Chan et al. 1983).
    Before the first batch observations pass unchanged.

    Args:
        features: F.
        raw: how many of the last numbers pass as they are: masks of actions.
        lead: independent statistics along leading axes.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, features: int, *, raw: int = 0, lead: Lead = ()) -> None:
        super().__init__()
        self.raw = raw
        # Exact far beyond 2^24 rows. Of one axis: a compiled function loses what it writes in place into a
        # double without axes.
        self.register_buffer("count", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(*lead, features))
        self.register_buffer("var", torch.ones(*lead, features))

    @torch.no_grad()
    def observe(self, rows: Tensor) -> None:
        """Merge `[*lead, N, F]` rows into the statistics.

        A feature that is not finite in them keeps its own; a batch without a finite one does not count.
        """
        size = rows.shape[-2]
        var, mean = torch.var_mean(rows, dim=-2, correction=0)
        if ranks.size() > 1:  # every rank shows rows of its own, and all follow the same statistics
            size, local, mean = size * ranks.size(), mean, ranks.mean(mean)
            var = ranks.mean(var + (local - mean).square())
        share = (size / (self.count + size)).to(rows.dtype)  # of this batch in what has been seen
        delta = mean - self.mean
        merged = (1 - share) * self.var + share * var + share * (1 - share) * delta.square()
        finite = torch.isfinite(merged)
        self.var.copy_(torch.where(finite, merged, self.var))
        self.mean.copy_(torch.where(finite, self.mean + share * delta, self.mean))
        self.count.add_(size * finite.any())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[*lead, N, F]`, or the first numbers alone, which an actor sees."""
        mean, var = self.mean, self.var
        if x.shape[-1] != mean.shape[-1]:
            mean, var = mean[..., : x.shape[-1]], var[..., : x.shape[-1]]
        scaled = (x - mean.unsqueeze(-2)) / var.sqrt().clamp(min=MIN_STD).unsqueeze(-2)
        scaled = scaled.clamp(-CLIP, CLIP)
        return torch.cat((scaled[..., : -self.raw], x[..., -self.raw :]), -1) if self.raw else scaled


class Standardise(nn.Module):
    """(x - mean) / std with fixed buffers; in front of a policy trained on standardised data.

    Args:
        mean: `[O]`.
        std: `[O]`, positive.

    Raises:
        ValueError: shapes differ or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        if mean.shape != std.shape or not bool((std > 0).all()):
            raise ValueError(f"mean {list(mean.shape)} and std {list(std.shape)} must agree, std be positive")
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    @torch.no_grad()
    def adopt(self, mean: Tensor, std: Tensor) -> None:
        """Take other moments, each `[O]`, in place.

        Raises:
            DataError: a number is not finite or a std not positive; nothing is taken then.
        """
        if mean.shape != self.mean.shape or std.shape != self.std.shape:
            raise DataError(
                f"moments of shape {list(mean.shape)} and {list(std.shape)} came for observations of "
                f"{list(self.mean.shape)}: the data belong to another environment"
            )
        if not bool(mean.isfinite().all() & std.isfinite().all() & (std > 0).all()):
            raise DataError(
                "means and deviations of the observations must be finite and deviations positive: "
                "look for numbers that are not finite in the data"
            )
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, observation: Tensor) -> Tensor:
        """Return standardised observations `[..., O]`."""
        return (observation - self.mean) / self.std


def identity(size: int) -> Standardise:
    """Return a module that changes nothing, to be filled from a state_dict."""
    return Standardise(torch.zeros(size), torch.ones(size))
