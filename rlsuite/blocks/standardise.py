"""Observations with mean 0 and deviation 1, by moments that are saved with the network that reads them."""

import torch
from torch import Tensor, nn


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

    def forward(self, observation: Tensor) -> Tensor:
        """Return standardised observations `[..., O]`."""
        return (observation - self.mean) / self.std


def identity(size: int) -> Standardise:
    """Return a module that changes nothing, to be filled from a state_dict."""
    return Standardise(torch.zeros(size), torch.ones(size))
