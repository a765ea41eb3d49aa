"""Batch renormalisation and a perceptron with it (Ioffe 2017, arXiv 1702.03275; CrossQ, Bhatt et al. 2024).

Whether a pass belongs to learning is said by the noise: an update hands its noise in, and the pass is
normalised by its batch and moves the running statistics; without noise, as in acting and evaluating, the
running statistics normalise and nothing moves. No module has to be switched between two modes.

Legend: N rows, F features; leading axes are independent networks (members, seeds), with statistics each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlsuite import distributed as ranks
from rlsuite.blocks.mlp import ACTIVATIONS, Activation, Lead, Linear
from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import Noise, Source


class BatchRenorm(nn.Module):
    """Normalises features by their batch, corrected towards running statistics once these are warm.

    x' = (x - mean_B) / sd_B r + d with r = sd_B / sd, d = (mean_B - mean) / sd, both cut, without gradient;
    sd = sqrt(var + eps). Before `warmup` passes r = 1 and d = 0: plain batch normalisation. Running variances
    are of the population, as in the authors' code (torch's own are corrected for the sample). A pass whose
    rows are not finite leaves the statistics of its network alone.

    Args:
        features: F.
        lead: independent networks along leading axes.
        rate: share of a batch in the running statistics; authors' code: 0.01.
        eps: added to variances; authors' code: 1e-3.
        warmup: learning passes until r and d act; authors' code: 100,000.
        max_r: r is cut to [1 / max_r, max_r].
        max_d: d is cut to [-max_d, max_d].
    """

    mean: Tensor
    var: Tensor
    passes: Tensor

    def __init__(
        self,
        features: int,
        *,
        lead: Lead = (),
        rate: float = 0.01,
        eps: float = 1e-3,
        warmup: int = 100_000,
        max_r: float = 3.0,
        max_d: float = 5.0,
    ) -> None:
        super().__init__()
        self.rate, self.eps, self.warmup, self.max_r, self.max_d = rate, eps, warmup, max_r, max_d
        self.weight = nn.Parameter(torch.ones(*lead, features))
        self.bias = nn.Parameter(torch.zeros(*lead, features))
        self.register_buffer("mean", torch.zeros(*lead, features))
        self.register_buffer("var", torch.ones(*lead, features))
        self.register_buffer("passes", torch.zeros(*lead, 1, dtype=torch.int64))

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Normalise `[*lead, N, F]` over N; `noise` marks a pass of learning (see the module's docstring)."""
        x = x.to(self.mean.dtype)  # under autocast the layer before computes in bfloat16
        std = (self.var + self.eps).sqrt()
        if noise is None:
            return self._affine((x - self.mean.unsqueeze(-2)) / std.unsqueeze(-2))
        var, mean = torch.var_mean(x, dim=-2, correction=0)
        batch_std = (var + self.eps).sqrt()
        with torch.no_grad():
            warm = (self.passes >= self.warmup).to(x.dtype)
            r = (batch_std / std).clamp(1 / self.max_r, self.max_r)
            r = 1 + warm * (r - 1)
            d = warm * ((mean - self.mean) / std).clamp(-self.max_d, self.max_d)
            self._observe(mean.detach(), var.detach())
        return self._affine((x - mean.unsqueeze(-2)) * (r / batch_std).unsqueeze(-2) + d.unsqueeze(-2))

    def _affine(self, x: Tensor) -> Tensor:
        """Scale and shift, in a form by which plug-ins know units apart."""
        return torch.addcmul(self.bias.unsqueeze(-2), x, self.weight.unsqueeze(-2))

    def _observe(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards a batch's."""
        if ranks.size() > 1:  # every rank has rows of its own, and all follow the same statistics
            local, mean = mean, ranks.mean(mean)
            var = ranks.mean(var + (local - mean).square())
        finite = (mean.isfinite() & var.isfinite()).all(-1, keepdim=True)
        self.mean.copy_(torch.where(finite, self.mean.lerp(mean, self.rate), self.mean))
        self.var.copy_(torch.where(finite, self.var.lerp(var, self.rate), self.var))
        self.passes.copy_(self.passes + finite.to(self.passes.dtype))


class RenormMLP(nn.Module):
    """Perceptron whose input and hidden layers are batch-renormalised behind the activation (CrossQ).

    Args:
        inputs: I.
        hidden: widths of the hidden layers.
        outputs: O.
        activation: name in `ACTIVATIONS`.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
        norm: arguments of every `BatchRenorm`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Activation = "relu",
        lead: Lead = (),
        generator: Source = None,
        **norm: Any,
    ) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        self.norms = nn.ModuleList([BatchRenorm(width, lead=lead, **norm) for width in widths])
        self.layers = nn.ModuleList(
            [
                Linear(*sizes, lead=lead, generator=generator)
                for sizes in zip(widths, (*hidden, outputs), strict=True)
            ]
        )
        self.acts = nn.ModuleList([ACTIVATIONS[activation]() for _ in hidden])  # plug-ins look at each
        self.lead = lead

    @property
    def head(self) -> Linear:
        """The output layer."""
        return self.layers[-1]  # type: ignore[return-value]

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`; `noise` marks a pass of learning."""
        x = self.norms[0](x.expand(*self.lead, *x.shape[-2:]), noise)
        for layer, act, norm in zip(self.layers, self.acts, self.norms[1:], strict=False):
            x = norm(act(layer(x)), noise)
        return self.head(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenormShape(NetShape):
    """Shape of networks whose trunk is a `RenormMLP`; `network`, `layer_norm` and `dropout` are not read.

    Attributes:
        warmup: learning passes until batch normalisation becomes renormalisation.
    """

    warmup: int = 100_000

    def trunk(self, inputs: int, outputs: int, members: Lead = ()) -> RenormMLP:
        """Make a trunk; see `NetShape.trunk`."""
        return RenormMLP(
            inputs,
            self.hidden,
            outputs,
            activation=self.activation,
            lead=(*self.lead, *members),
            generator=self.generator,
            warmup=self.warmup,
        )
