"""Initialisers of the incoming weights of a reset unit."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlsuite.blocks.noise import Source, fill
from rlsuite.plugins.neurons.chains import Layer

Fresh = Callable[[Layer, Source], tuple[Tensor, Tensor]]
"""(layer, random stream) -> new weight and bias, in the shapes of `layer.weight` and `[*lead, H]`."""


def _uniform(layer: Layer, source: Source, weight_bound: float, bias_bound: float) -> tuple[Tensor, Tensor]:
    weight, bias = torch.empty_like(layer.weight), layer.weight.new_empty(*layer.lead, layer.units)
    for tensor, bound in ((weight, weight_bound), (bias, bias_bound)):
        fill(tensor, source, lambda part, generator, b=bound: part.uniform_(-b, b, generator=generator))  # type: ignore[misc]
    return weight, bias


def default_init(layer: Layer, source: Source) -> tuple[Tensor, Tensor]:
    """Draw what `torch.nn.Linear` and convolutions draw: U(+-1/sqrt(fan in)), the bias as well."""
    bound = 1 / math.sqrt(layer.fan_in)
    return _uniform(layer, source, bound, bound)


def kaiming_init(layer: Layer, source: Source) -> tuple[Tensor, Tensor]:
    """U(+-sqrt(6 / fan in)), bias U(+-1/sqrt(fan in)): the GraMa authors' released code."""
    return _uniform(layer, source, math.sqrt(6 / layer.fan_in), 1 / math.sqrt(layer.fan_in))


def xavier_init(layer: Layer, source: Source) -> tuple[Tensor, Tensor]:
    """U(+-sqrt(6 / (fan in + fan out))), bias 0: ReDo in dopamine."""
    fan_out = layer.fan_in // layer.inputs * layer.units
    return _uniform(layer, source, math.sqrt(6 / (layer.fan_in + fan_out)), 0.0)


def lecun_init(layer: Layer, source: Source) -> tuple[Tensor, Tensor]:
    """Draw N(0, 1/fan in) cut at two stds, bias 0."""
    weight = torch.empty_like(layer.weight)
    std = 1 / math.sqrt(layer.fan_in)

    def draw(part: Tensor, generator: torch.Generator | None) -> None:
        nn.init.trunc_normal_(part, 0.0, std, -2 * std, 2 * std, generator=generator)

    return fill(weight, source, draw), weight.new_zeros(*layer.lead, layer.units)


INITIALISERS: dict[str, Fresh] = {
    "default": default_init,
    "kaiming": kaiming_init,
    "lecun": lecun_init,
    "xavier": xavier_init,
}
