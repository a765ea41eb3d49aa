"""Pictures to features: a small convolutional encoder, random shifts, the fields of both.

Learning follows DrQ-v2 (Yarats et al. 2021, arXiv 2107.09645): the critics' loss alone trains the encoder,
actors read its features without gradient, targets see it as it is, and pictures are shifted at random while
learning.

Legend: N batch, S seeds, K frames, H height, W width, C channels, F features, P = H W C numbers of a frame.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.blocks.mlp import LayerNorm, Lead, Linear
from rlsuite.blocks.noise import Noise, Source, fill
from rlsuite.bounds import AtLeastOne, NotNegative, Widths
from rlsuite.errors import ConfigError

KERNEL, STRIDE = (
    3,
    2,
)  # of every convolution, no padding; DrQ has the stride at the first alone. Our choice: cost
LEVELS = 255.0  # of a byte

Pixels = tuple[int, int, int, int]
"""Height, width, channels and frames of an observation `[K P]`: the oldest frame first, channels fastest."""


@dataclass(frozen=True, kw_only=True)  # without slots: it joins another base that has some
class EncoderFields:
    """Fields of agents that can learn from pictures; none has a meaning without an encoder."""

    encoder: Literal["none", "cnn"] = "none"
    """What makes features of observations that are pictures: convolutions, trained by the critics alone."""
    encoder_channels: Widths = (32, 32, 32)
    """Channels of the 3 x 3 convolutions, each of stride 2."""
    encoder_features: AtLeastOne = 50
    """Features that actor and critics see."""
    random_shift: NotNegative = 4
    """Most pixels by which replayed pictures are shifted along each axis, at random (DrQ); 0: none."""


def new_encoder(
    fields: object, pixels: Pixels | None, lead: Lead, generator: Source
) -> "PixelEncoder | None":
    """Return the encoder that an agent's configuration asks for; None without one.

    Raises:
        ConfigError: pictures and no encoder, an encoder and no pictures, or it and running statistics.
    """
    wanted = isinstance(fields, EncoderFields) and fields.encoder != "none"
    if pixels is None:
        if wanted:
            raise ConfigError(
                "encoder = cnn: the environment shows numbers, not pictures; leave --agent.encoder out, or "
                "let it show pictures: --env pixels:ID"
            )
        return None
    if not wanted:
        height, width, channels, frames = pixels
        raise ConfigError(
            f"the environment shows {frames} picture(s) of {height} x {width} x {channels}: agents that "
            "learn from them are sac, td3, dsac_t and stac, with --agent.encoder cnn (or --preset pixels)"
        )
    assert isinstance(fields, EncoderFields)
    if getattr(fields, "normalize_observations", False):
        raise ConfigError("normalize_observations: pictures are scaled by their 255 levels; leave it out")
    return PixelEncoder(pixels, fields, lead=lead, generator=generator)


class Convolution(nn.Module):
    """A 3 x 3 convolution of stride 2 for every network of `lead`; initialised as torch's.

    Input `[N, S C, H, W]`, the networks' channels side by side; output the same.
    """

    def __init__(self, inputs: int, outputs: int, *, lead: Lead = (), generator: Source = None) -> None:
        super().__init__()
        self.networks = math.prod(lead)
        self.weight = nn.Parameter(torch.empty(*lead, outputs, inputs, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.empty(*lead, outputs))
        bound = 1 / math.sqrt(inputs * KERNEL**2)
        with torch.no_grad():
            for parameter in (self.weight, self.bias):
                fill(parameter, generator, lambda part, rng: part.uniform_(-bound, bound, generator=rng))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps."""
        weight = self.weight.reshape(-1, *self.weight.shape[-3:])
        return F.conv2d(x, weight, self.bias.flatten(), stride=STRIDE, groups=self.networks)


class PixelEncoder(nn.Module):
    """Convolutions with ReLU, then a linear layer, LayerNorm and tanh: `[*lead, N, K P]` to `[*lead, N, F]`.

    Args:
        pixels: shape of an observation.
        fields: channels, features, shift.
        lead: independent encoders along leading axes.
        generator: draws the initial weights.

    Raises:
        ConfigError: the pictures are too small for so many convolutions.
    """

    def __init__(
        self, pixels: Pixels, fields: EncoderFields, *, lead: Lead = (), generator: Source = None
    ) -> None:
        super().__init__()
        height, width, channels, frames = pixels
        self.pixels, self.lead, self.shift = pixels, lead, fields.random_shift
        self.features = fields.encoder_features
        layers, inputs = [], channels * frames
        for outputs in fields.encoder_channels:
            layers.append(Convolution(inputs, outputs, lead=lead, generator=generator))
            height, width, inputs = (height - KERNEL) // STRIDE + 1, (width - KERNEL) // STRIDE + 1, outputs
        if min(height, width) < 1:
            raise ConfigError(
                f"encoder_channels has {len(layers)} convolutions: too many for pictures of {pixels[0]} x "
                f"{pixels[1]}"
            )
        self.convolutions = nn.ModuleList(layers)
        self.linear = Linear(inputs * height * width, self.features, lead=lead, generator=generator)
        self.norm = LayerNorm(self.features, lead=lead)

    def forward(self, observation: Tensor, noise: Noise | None = None) -> Tensor:
        """Return features; `noise` shifts every row's frames together.

        Args:
            observation: `[*lead, N, K P]`, bytes or their values in any type.
            noise: of the shifts; None leaves pictures as they are.
        """
        height, width, channels, frames = self.pixels
        rows = observation.shape[-2]
        pictures = observation.reshape(-1, frames, height, width, channels)  # [S N, K, H, W, C]
        if noise is not None and self.shift:
            pictures = self.shifted(pictures, noise)
        maps = pictures.permute(0, 1, 4, 2, 3).float() / LEVELS - 0.5
        # One grouped convolution serves all networks: their channels stand side by side.
        maps = maps.reshape(-1, rows, frames * channels, height, width).transpose(0, 1).flatten(1, 2)
        for convolution in self.convolutions:
            maps = convolution(maps).relu()
        seeds = math.prod(self.lead)
        flat = maps.unflatten(1, (seeds, -1)).flatten(2).transpose(0, 1).reshape(*self.lead, rows, -1)
        return self.norm(self.linear(flat)).tanh()

    def shifted(self, pictures: Tensor, noise: Noise) -> Tensor:
        """Return pictures `[S N, K, H, W, C]`, moved by up to `shift` pixels along each axis.

        What comes in at an edge repeats it, as DrQ's padding does; shifts are whole pixels, as in DrQ's
        first form.
        """
        height, width, channels, frames = self.pixels
        count, most = len(pictures), self.shift
        like = torch.empty(*self.lead, count // math.prod(self.lead), 2, device=pictures.device)
        moves = (noise.uniform(like).view(count, 2) * (2 * most + 1)).long()
        edges = (pictures[..., :1, :], pictures[..., -1:, :])
        left, right = (edge.expand(-1, -1, -1, most, -1) for edge in edges)
        # Every line of a shifted picture is a piece of a widened one: a copy of bytes that lie side by side.
        wide = torch.cat((left, pictures, right), -2)
        pieces = wide.view(-1).unfold(0, width * channels, channels)  # from each pixel on, W of them
        line = torch.arange(height, device=pictures.device) + moves[:, :1] - most
        line = line.clamp(0, height - 1).unsqueeze(1)  # [S N, 1, H]
        frame = torch.arange(count * frames, device=pictures.device).view(count, frames, 1) * height
        place = (frame + line) * (width + 2 * most) + moves[:, 1:].unsqueeze(1)
        return pieces.index_select(0, place.flatten()).view_as(pictures)
