"""Observations with mean 0 and deviation 1, by moments that are saved with the network that reads them."""

import torch
from torch import Tensor, nn

from rlsuite.errors import DataError


class Standardise(nn.Module):
    """(x - mean) / std with fixed buffers; in front of a policy trained on standardised data.

    Args:
        mean: `[O]`.
        std: `[O]`, positive.

    Raises:
        ValueError: shapes differ or a deviation is not positive.
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
            DataError: a number is not finite or a deviation not positive; nothing is taken then.
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
