"""Trunks whose weights have unit norm, FlashSAC's, XQC's and SimbaV2's; leading axes are members and seeds.

A weight row (what one output unit gives its inputs) is brought back to norm 1 by `project` after every step
of its optimiser, so that a step's size relative to the weights never shrinks.

Legend: N rows, I input features, O output features, D width; leading axes are independent networks.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rlsuite import distributed as ranks
from rlsuite.blocks.mlp import LayerNorm, Lead, product
from rlsuite.blocks.networks import check_widths
from rlsuite.blocks.noise import Source, fill

Trunk = Literal["flash", "xqc", "simbav2"]
Norm = Literal["batch", "layer"]
Statistics = Literal["running", "batch", "learn"]
"""Which statistics batch norms use: their running ones, the batch's, or the batch's that also move these."""

EXPANSION = 4  # width inside a block over that of the stream; FlashSAC and SimbaV2
MOMENTUM = 0.01  # of the running statistics; all three sources
BATCH_EPS = {"flash": 1e-5, "xqc": 1e-3}
RMS_EPS = 1e-6
UNIT_EPS = 1e-8  # added to a squared norm before its root
SHIFT = 3.0  # SimbaV2's third input beside observation and action
RELU_FLOOR = 1e-8  # SimbaV2 adds it behind ReLU: a stream of zeros has no direction


def unit(x: Tensor) -> Tensor:
    """Return `x` with norm 1 along the last axis."""
    return x * (x.square().sum(-1, keepdim=True) + UNIT_EPS).rsqrt()


class UnitLinear(nn.Module):
    """`y = x W^T (+ b)` whose rows of W have norm 1; begins orthogonal, biases zero."""

    weight_axes: ClassVar[int] = 2  # what of a weight is one matrix; the axes before are networks

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = False, lead: Lead = (), generator: Source = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*lead, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(*lead, outputs)) if bias else None
        with torch.no_grad():
            drawn = fill(torch.empty_like(self.weight), generator, _orthogonal)
            self.weight.copy_(unit(drawn))

    def forward(self, x: Tensor) -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`."""
        y = product(x, self.weight)
        return y if self.bias is None else y + self.bias.unsqueeze(-2)

    def projected(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield parameters and what they should be."""
        yield self.weight, unit(self.weight)


def _orthogonal(part: Tensor, generator: torch.Generator | None) -> None:
    for matrix in part.view(-1, *part.shape[-2:]):
        nn.init.orthogonal_(matrix, generator=generator)


class BatchNorm(nn.Module):
    """Batch normalisation over the rows, with gain, shift and running statistics of every network.

    A batch that is not finite leaves the running statistics as they are. Their variance is the unbiased one.

    Args:
        features: F.
        lead: independent networks along leading axes.
        eps: added to the variance.
        unit_norm: gain and shift together have norm sqrt(F) (FlashSAC); they are free in XQC.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, features: int, *, lead: Lead = (), eps: float = 1e-5, unit_norm: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*lead, features))
        self.bias = nn.Parameter(torch.zeros(*lead, features))
        self.register_buffer("mean", torch.zeros(*lead, features))
        self.register_buffer("var", torch.ones(*lead, features))
        self.eps, self.unit_norm = eps, unit_norm

    def forward(self, x: Tensor, statistics: Statistics = "running") -> Tensor:
        """Normalise `[*lead, N, F]`; see `Statistics`."""
        x = x.to(self.weight.dtype)
        if statistics == "running":
            mean, var = self.mean, self.var
        else:
            var, mean = torch.var_mean(x, -2, correction=0)
            if statistics == "learn":
                self.observe(mean.detach(), var.detach(), x.shape[-2])
        scale = self.weight * (var + self.eps).rsqrt()
        return torch.addcmul(self.bias.unsqueeze(-2), x - mean.unsqueeze(-2), scale.unsqueeze(-2))

    @torch.no_grad()
    def observe(self, mean: Tensor, var: Tensor, rows: int) -> None:
        """Move the running statistics by a batch's mean and (biased) variance, each `[*lead, F]`."""
        var = var * (rows / max(1, rows - 1))
        if ranks.size() > 1:  # every rank has rows of its own, and all follow the same statistics
            local, mean = mean, ranks.mean(mean)
            var = ranks.mean(var + (local - mean).square())
        finite = (mean + var).isfinite().all(-1, keepdim=True)
        self.mean.copy_(torch.where(finite, self.mean.lerp(mean, MOMENTUM), self.mean))
        self.var.copy_(torch.where(finite, self.var.lerp(var, MOMENTUM), self.var))

    def projected(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield parameters and what they should be."""
        if self.unit_norm:
            both = unit(torch.cat((self.weight, self.bias), -1)) * math.sqrt(self.weight.shape[-1])
            yield from zip((self.weight, self.bias), both.chunk(2, -1), strict=True)


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2) with a learnt gain, whose norm stays sqrt(F) (FlashSAC)."""

    def __init__(self, features: int, *, lead: Lead = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*lead, features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[*lead, N, F]` over F."""
        return x * (x.square().mean(-1, keepdim=True) + RMS_EPS).rsqrt() * self.weight.unsqueeze(-2)

    def projected(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield parameters and what they should be."""
        yield self.weight, unit(self.weight) * math.sqrt(self.weight.shape[-1])


class Scaler(nn.Module):
    """A learnt factor per feature, stored as `stored` and used times `factor` (SimbaV2).

    Adam's steps have one size for all parameters: what is stored small moves more, relative to itself.
    """

    def __init__(self, features: int, stored: float, *, factor: float = 1.0, lead: Lead = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((*lead, features), stored))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `[*lead, N, F]`."""
        return x.to(self.weight.dtype) * (self.factor * self.weight).unsqueeze(-2)


@torch.no_grad()
def project(network: nn.Module, norm: Tensor | None = None) -> None:
    """Bring everything in a network that has unit norm back to it, in place.

    Args:
        network: holds `UnitLinear`, `BatchNorm`, `RMSNorm`.
        norm: of the step's gradients; where it is not finite there was no step, and nothing moves.
    """
    taken = None if norm is None else norm.sum().isfinite()
    for module in network.modules():
        if isinstance(module, UnitLinear | BatchNorm | RMSNorm):
            for parameter, wanted in list(module.projected()):
                parameter.copy_(wanted if taken is None else torch.where(taken, wanted, parameter))


class FlashBlock(nn.Module):
    """x + relu(norm(W2 relu(norm(W1 x)))), four times as wide inside."""

    def __init__(self, width: int, norm: Norm, shape: dict[str, Any]) -> None:
        super().__init__()
        self.wide = UnitLinear(width, EXPANSION * width, **shape)
        self.narrow = UnitLinear(EXPANSION * width, width, **shape)
        self.norms = nn.ModuleList([_norm(norm, size, shape) for size in (EXPANSION * width, width)])

    def forward(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Return `[*lead, N, D]`."""
        y = x
        for layer, norm in zip((self.wide, self.narrow), self.norms, strict=True):
            y = layer(y)
            y = norm(y, statistics) if isinstance(norm, BatchNorm) else norm(y.to(x.dtype))
            y = y.relu()
        return x + y


def _norm(norm: Norm, features: int, shape: dict[str, Any]) -> nn.Module:
    if norm == "layer":
        return LayerNorm(features, lead=shape["lead"])
    return BatchNorm(features, lead=shape["lead"], eps=BATCH_EPS["flash"], unit_norm=True)


class FlashTrunk(nn.Module):
    """FlashSAC's network (Kim et al. 2026, arXiv 2604.04539), read in the authors' code.

    Batch norm of the inputs, a stem, residual blocks (`FlashBlock`), RMS norm, linear head. With layer norms
    instead (our choice, half the price as no joint pass is needed) the inputs are left as they are.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, *, norm: Norm, **shape: Any) -> None:
        super().__init__()
        width, lead = hidden[0], shape["lead"]
        self.entry = _norm(norm, inputs, shape) if norm == "batch" else None
        self.stem = UnitLinear(inputs, width, **shape)
        self.blocks = nn.ModuleList([FlashBlock(width, norm, shape) for _ in hidden[1:]])
        self.last = RMSNorm(width, lead=lead)
        self.head = UnitLinear(width, outputs, bias=True, **shape)

    def forward(self, x: Tensor, statistics: Statistics = "running") -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`."""
        if self.entry is not None:
            x = self.entry(x, statistics)
        x = self.stem(x).to(x.dtype)
        for block in self.blocks:
            x = block(x, statistics)
        return self.head(self.last(x))


class XQCTrunk(nn.Module):
    """XQC's network (Palenicek et al. 2026, arXiv 2509.25174): batch norm, then linear, batch norm, ReLU."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, **shape: Any) -> None:
        super().__init__()
        sizes, eps = (inputs, *hidden), BATCH_EPS["xqc"]
        self.norms = nn.ModuleList([BatchNorm(size, lead=shape["lead"], eps=eps) for size in sizes])
        self.layers = nn.ModuleList(
            [UnitLinear(a, b, **shape) for a, b in zip(sizes[:-1], hidden, strict=True)]
        )
        self.head = UnitLinear(sizes[-1], outputs, bias=True, **shape)

    def forward(self, x: Tensor, statistics: Statistics = "running") -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`."""
        x = self.norms[0](x, statistics)
        for layer, norm in zip(self.layers, list(self.norms)[1:], strict=True):
            x = norm(layer(x), statistics).relu()
        return self.head(x)


class HyperTrunk(nn.Module):
    """SimbaV2's network (Lee et al. 2025, arXiv 2502.15280): the stream itself has unit norm everywhere.

    Inputs get a constant third entry and are normalised; blocks move the stream by a learnt share `step`
    towards their own output and normalise; heads are linear, scale, linear with bias.

    Args:
        inputs: I.
        hidden: width of the stem, and once more for every block.
        outputs: O, cut evenly into `heads` with hidden layers of their own.
        heads: how many.
        shape: `lead` and `generator`.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, *, heads: int = 1, **shape: Any
    ) -> None:
        super().__init__()
        width, blocks, lead = hidden[0], len(hidden) - 1, shape["lead"]
        stored = math.sqrt(2 / width)
        self.stem, self.stem_scale = UnitLinear(inputs + 1, width, **shape), Scaler(width, stored, lead=lead)
        wide = EXPANSION * width
        self.widen = nn.ModuleList([UnitLinear(width, wide, **shape) for _ in range(blocks)])
        # By their own width, as in the authors' code: what follows has its direction alone, but Adam's steps
        # are of one size, so that what is stored decides how fast these learn.
        self.scales = nn.ModuleList([Scaler(wide, math.sqrt(2 / wide), lead=lead) for _ in range(blocks)])
        self.narrow = nn.ModuleList([UnitLinear(wide, width, **shape) for _ in range(blocks)])
        share = {"stored": 1 / math.sqrt(width), "factor": math.sqrt(width) / (blocks + 1)}
        self.steps = nn.ModuleList([Scaler(width, lead=lead, **share) for _ in range(blocks)])
        self.head_layers = nn.ModuleList([UnitLinear(width, width, **shape) for _ in range(heads)])
        self.head_scales = nn.ModuleList([Scaler(width, 1.0, lead=lead) for _ in range(heads)])
        self.heads = nn.ModuleList(
            [UnitLinear(width, outputs // heads, bias=True, **shape) for _ in range(heads)]
        )

    def forward(self, x: Tensor, statistics: Statistics = "running") -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`; there are no statistics."""
        x = unit(torch.cat((x, torch.full_like(x[..., :1], SHIFT)), -1))
        x = unit(self.stem_scale(self.stem(x)))
        for widen, scale, narrow, step in zip(self.widen, self.scales, self.narrow, self.steps, strict=True):
            y = unit(narrow(scale(widen(x)).relu() + RELU_FLOOR).to(x.dtype))
            x = unit(x + step(y - x))
        parts = zip(self.head_layers, self.head_scales, self.heads, strict=True)
        return torch.cat([head(scale(layer(x))) for layer, scale, head in parts], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitShape:
    """Shape of networks of unit norm: everything but input and output sizes.

    Attributes:
        hidden: widths; of residual trunks that of the stem and of every block.
        trunk_name: which trunk.
        norm: of FlashSAC's blocks.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    hidden: Sequence[int]
    trunk_name: Trunk = "flash"
    norm: Norm = "batch"
    lead: Lead = ()
    generator: Source = None

    def trunk(self, inputs: int, outputs: int, members: Lead = (), heads: int = 1) -> Any:
        """Make a trunk `[*lead, *members, N, inputs]` -> `[*lead, *members, N, outputs]`.

        Args:
            inputs: input features.
            outputs: output features.
            members: further leading axes, behind `lead`.
            heads: of SimbaV2, equal parts of the outputs with hidden layers of their own.
        """
        if self.trunk_name != "xqc":
            check_widths("residual", self.hidden)
        shape = {"lead": (*self.lead, *members), "generator": self.generator}
        if self.trunk_name == "flash":
            return FlashTrunk(inputs, self.hidden, outputs, norm=self.norm, **shape)
        if self.trunk_name == "xqc":
            return XQCTrunk(inputs, self.hidden, outputs, **shape)
        return HyperTrunk(inputs, self.hidden, outputs, heads=heads, **shape)
