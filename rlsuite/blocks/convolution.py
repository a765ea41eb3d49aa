"""A small convolutional trunk for pictures that come flat, with independent networks along leading axes.

Legend: N batch, H height, W width, C channels, F features.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.blocks.mlp import ACTIVATIONS, MLP, Activation, Lead
from rlsuite.blocks.noise import Source, fill

CHANNELS = 16  # of the only convolution; MinAtar's authors' network (Young and Tian 2019, arXiv 1903.03176)
KERNEL = 3  # cells, stride 1, no padding; ibid.


class ConvTrunk(nn.Module):
    """One 3 x 3 convolution, then an MLP: the network of MinAtar's authors.

    Args:
        picture: height, width and channels of a picture, whose last axis changes fastest.
        hidden: widths of the hidden layers after the convolution.
        outputs: F.
        activation: name of the activation.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    weight_axes: ClassVar[int] = 4  # what of a weight is one kernel; the axes before are networks

    def __init__(
        self,
        picture: Sequence[int],
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Activation = "relu",
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__()
        height, width, channels = picture
        if min(height, width) < KERNEL:
            raise ValueError(f"pictures of {height} x {width}: at least {KERNEL} x {KERNEL} are needed")
        self.picture, self.lead = tuple(picture), lead
        self.weight = nn.Parameter(torch.empty(*lead, CHANNELS, channels, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.empty(*lead, CHANNELS))
        bound = 1 / math.sqrt(channels * KERNEL**2)
        with torch.no_grad():
            for parameter in (self.weight, self.bias):
                fill(parameter, generator, lambda part, rng: part.uniform_(-bound, bound, generator=rng))
        self.activation = ACTIVATIONS[activation]()
        cells = (height - KERNEL + 1) * (width - KERNEL + 1)
        self.trunk = MLP(
            CHANNELS * cells, hidden, outputs, activation=activation, lead=lead, generator=generator
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `[*lead, N, F]` for flat pictures `[*lead, N, H W C]`."""
        # One grouped convolution serves all networks: their channels stand side by side.
        flat = x.reshape(-1, *x.shape[-2:]) if self.lead else x.unsqueeze(0)
        seeds, rows = flat.shape[:2]
        pictures = flat.unflatten(-1, self.picture).permute(1, 0, 4, 2, 3).flatten(1, 2)
        maps = F.conv2d(
            pictures, self.weight.flatten(0, -4), self.bias.flatten(), groups=seeds
        )  # [N, S * 16, H', W']
        features = self.activation(maps).unflatten(1, (seeds, CHANNELS)).flatten(2).transpose(0, 1)
        return self.trunk(features.reshape(*self.lead, rows, features.shape[-1]))
