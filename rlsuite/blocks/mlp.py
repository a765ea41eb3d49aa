"""Multi-layer perceptrons whose leading axes are independent networks (ensembles, seeds).

A block with `lead = ()` is a plain network. With `lead = (2,)` it holds twin networks and with `lead =
(S, 2)` the twins of S seeds: weights are `[*lead, out, in]` and one batched product serves all of them.

Legend: N batch, I input features, O output features.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.blocks.noise import LANE_VALUES, Noise, Source, fill

Lead = tuple[int, ...]
Activation = Literal["relu", "gelu", "gelu_tanh", "tanh", "silu", "elu"]
Norm = bool | Literal["after"]
"""Layer normalisation of hidden layers: none, before the activation, or after it."""


class TanhGELU(nn.GELU):
    """GELU by tanh, what JAX's networks have by default (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

    def __init__(self) -> None:
        super().__init__(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        """Return activations of the shape of `x`; compiled by the sigmoid, a third of the price of tanh."""
        if not torch.compiler.is_dynamo_compiling():
            return super().forward(x)
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,  # the exact form, with erf
    "gelu_tanh": TanhGELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "elu": nn.ELU,
}


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.mT @ x


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x W^T`, `[*lead, N, O]`.

    Compiled, the gradient of several networks' weights is laid out as they are. Autograd's own lies
    transposed, and optimiser and norm would read it against the grain.

    Args:
        x: `[*lead, N, I]`; missing leading axes are shared.
        weight: `[*lead, O, I]`.
    """
    lead = weight.shape[:-2]
    if not (lead and torch.compiler.is_dynamo_compiling()):
        return x @ weight.mT
    if torch.is_autocast_enabled(x.device.type):  # which does not see into the function
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    return cast("Tensor", _Product.apply(x.expand(*lead, *x.shape[-2:]), weight))


class Linear(nn.Module):
    """`y = x W^T + b` for every network of `lead`; initialised as `torch.nn.Linear` does (U(+-1/sqrt(I))).

    Input `[*lead, N, I]` or anything that broadcasts to it; output `[*lead, N, O]`.
    """

    weight_axes: ClassVar[int] = 2  # what of a weight is one matrix; the axes before are networks

    def __init__(self, inputs: int, outputs: int, *, lead: Lead = (), generator: Source = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*lead, outputs, inputs))
        self.bias = nn.Parameter(torch.empty(*lead, outputs))
        self.gain: float | None = None  # of orthogonal weights; None draws torch's default
        self.glorot = False
        with torch.no_grad():
            for parameter, drawn in zip((self.weight, self.bias), self.fresh(generator), strict=True):
                parameter.copy_(drawn)

    def fresh(self, generator: Source = None) -> tuple[Tensor, Tensor]:
        """Draw weight and bias anew, as this layer was initialised; changes nothing."""
        weight, bias = torch.empty_like(self.weight), torch.zeros_like(self.bias)
        if self.gain is not None:
            gain = self.gain
            return fill(weight, generator, lambda part, rng: _orthogonal(part, gain, rng)), bias
        bound = math.sqrt(6 / sum(weight.shape[-2:])) if self.glorot else 1 / math.sqrt(weight.shape[-1])
        for tensor in (weight,) if self.glorot else (weight, bias):
            fill(tensor, generator, lambda part, rng: part.uniform_(-bound, bound, generator=rng))
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Return `[*lead, N, O]` for `x` of `[*lead, N, I]` (missing leading axes are shared)."""
        weight, bias = self.weight, self.bias
        lead = weight.shape[:-2]
        if not lead:
            if torch.compiler.is_dynamo_compiling():  # a bias outside the product is fused with what follows
                return x @ weight.mT + bias
            return F.linear(x, weight, bias)
        if x.shape[:-2] != lead:
            x = x.expand(*lead, *x.shape[-2:])
        if torch.compiler.is_dynamo_compiling():
            return product(x, weight) + bias.unsqueeze(-2)
        if len(lead) == 1:  # what a batched product takes as it is
            return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
        flat = torch.baddbmm(bias.flatten(0, -2).unsqueeze(1), x.flatten(0, -3), weight.flatten(0, -3).mT)
        return flat.unflatten(0, lead)


class Head(Linear):
    """Output layer: in full precision under autocast, too.

    In bfloat16 the critics' values near 1,000 would be multiples of 4 to 8, as large as a reward.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return `[*lead, N, O]` for `x` of `[*lead, N, I]` (missing leading axes are shared)."""
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


def orthogonal_(module: nn.Module, gain: float, generator: Source = None) -> None:
    """Initialise every `Linear` of `module` anew: orthogonal weights times `gain`, biases zero.

    Args:
        module: searched for layers.
        gain: of the weights; sqrt(2) keeps the scale of activations under ReLU.
        generator: draws the matrices; one per seed where the first leading axis is seeds.
    """
    for layer in module.modules():
        if isinstance(layer, Linear):
            layer.gain = gain
            with torch.no_grad():
                layer.weight.copy_(layer.fresh(generator)[0])
                layer.bias.zero_()


def glorot_(module: nn.Module, generator: Source = None) -> None:
    """Initialise every `Linear` of `module` anew: uniform weights of variance 2 / (I + O), biases zero.

    Glorot and Bengio 2010, equation 16. The arguments are those of `orthogonal_`.
    """
    for layer in module.modules():
        if isinstance(layer, Linear):
            layer.glorot = True
            with torch.no_grad():
                layer.weight.copy_(layer.fresh(generator)[0])
                layer.bias.zero_()


def _orthogonal(part: Tensor, gain: float, generator: torch.Generator | None) -> None:
    for matrix in part.view(-1, *part.shape[-2:]):
        nn.init.orthogonal_(matrix, gain, generator=generator)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, with one gain and shift per network of `lead`."""

    def __init__(self, features: int, *, lead: Lead = (), eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*lead, features))
        self.bias = nn.Parameter(torch.zeros(*lead, features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[*lead, N, F]` over F."""
        features = self.weight.shape[-1]
        if self.weight.dim() == 1:
            return F.layer_norm(x, (features,), self.weight, self.bias, self.eps)
        x = F.layer_norm(x, (features,), eps=self.eps)
        return torch.addcmul(self.bias.unsqueeze(-2), x, self.weight.unsqueeze(-2))


class Dropout(nn.Module):
    """Inverted dropout with a generator of its own, so that a resumed run draws the same masks.

    The masks are those of `rlsuite.blocks.noise.Noise.kept`, whose rate is a multiple of 2^-16.
    """

    def __init__(self, rate: float, generator: Source = None) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout = {rate}: must be in [0, 1)")
        self.rate = round(rate * LANE_VALUES) / LANE_VALUES
        self.generator = generator

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Zero each entry with probability `rate` while training and scale the rest by 1 / (1 - rate).

        Args:
            x: anything.
            noise: where the mask comes from; None is the layer's own generator.
        """
        if not self.training or self.rate == 0:
            return x
        return x * (Noise(self.generator) if noise is None else noise).kept(x, self.rate)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Dropout":
        """Copies (target networks) draw from the same generator: its state is saved once."""
        twin = Dropout(self.rate, self.generator).train(self.training)
        memo[id(self)] = twin
        return twin


class Layers(nn.Sequential):
    """Layers one after the other, of which dropout draws its mask from the noise that is handed in."""

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the last layer's output."""
        for layer in self:
            x = through(layer, x, noise)
        return x


def through(layer: nn.Module, x: Tensor, noise: Noise | None) -> Tensor:
    """Return the layer's output; only layers with dropout are told of the noise."""
    return layer(x, noise) if isinstance(layer, Dropout | Layers) else layer(x)


class MLP(Layers):
    """Hidden layers of (linear, dropout, layer norm, activation) and a linear output layer.

    Dropout stands before the norm as in DroQ (Hiraoka et al. 2022) and STAC (Özalp 2026); by default both are
    left out. The norm may also stand behind the activation, as in ReBRAC (Tarasov et al. 2023).

    Args:
        inputs: input features, I.
        hidden: widths of the hidden layers; empty for a linear map.
        outputs: output features, O.
        activation: name in `ACTIVATIONS`.
        lead: independent networks along leading axes.
        layer_norm: normalise every hidden layer before its activation, or "after" it.
        dropout: rate of every hidden layer, in [0, 1).
        generator: draws the initial weights.
        dropout_generator: draws the dropout masks.
    """

    def __init__(  # noqa: PLR0913 (what NetShape holds, spelt out once)
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Activation = "relu",
        lead: Lead = (),
        layer_norm: Norm = False,
        dropout: float = 0.0,
        generator: Source = None,
        dropout_generator: Source = None,
    ) -> None:
        layers: list[nn.Module] = []
        for width in hidden:
            layers.append(Linear(inputs, width, lead=lead, generator=generator))
            if dropout:
                layers.append(Dropout(dropout, dropout_generator))
            if layer_norm is True:
                layers.append(LayerNorm(width, lead=lead))
            layers.append(ACTIVATIONS[activation]())
            if layer_norm == "after":
                layers.append(LayerNorm(width, lead=lead))
            inputs = width
        layers.append(Head(inputs, outputs, lead=lead, generator=generator))
        super().__init__(*layers)

    @property
    def head(self) -> Linear:
        """The output layer."""
        return self[-1]  # type: ignore[return-value]
