"""Fresh weights of a reset unit: initialisers of what enters it, and small columns for what reads it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlsuite.blocks.noise import Source, fill, generators_of, normal
from rlsuite.plugins.neurons.chains import Layer, own_parameter

SMALL = 0.1  # of the median norm of live columns, for outgoing="small"; AgileRL's idea, our number

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


def owner_of(module: nn.Module, layer: Layer) -> nn.Module | None:
    """Return the submodule that holds a weight under this very name."""
    for part in module.modules():
        if own_parameter(part, "weight") is layer.weight:
            return part
    return None


def by_reset_parameters(layer: Layer, owner: nn.Module, source: Source) -> tuple[Tensor, Tensor]:
    """Draw by the layer's own method, from a stream of ours, and leave the layer as it was."""
    before = {name: parameter.clone() for name, parameter in owner.named_parameters()}
    devices = [layer.weight.device] if layer.weight.is_cuda else []
    generators = generators_of(source)
    with torch.random.fork_rng(devices, enabled=bool(generators)):
        if generators:
            first = generators[0]
            torch.manual_seed(int(torch.randint(2**62, (), generator=first, device=first.device)))
        owner.reset_parameters()  # type: ignore[operator]
    weight, bias = layer.weight.clone(), own_parameter(owner, "bias")
    fresh = weight.new_zeros(layer.units) if bias is None else bias.clone()
    for name, parameter in owner.named_parameters():
        parameter.copy_(before[name])
    return weight, fresh


def small_columns(layer: Layer, columns: Tensor, source: Source) -> Tensor:
    """Draw columns whose norm is `SMALL` of the median norm of the columns that stay, of every network."""
    others = tuple(
        i for i in range(len(layer.lead), layer.weight.dim()) if i != layer.weight.dim() + layer.in_axis
    )
    norms = layer.weight.square().sum(others, keepdim=True).sqrt()
    live = norms.masked_fill(columns, math.nan).flatten(len(layer.lead))
    median = live.nanmedian(-1).values.nan_to_num(0.0)
    noise = normal(layer.weight, source)
    length = noise.square().sum(others, keepdim=True).sqrt()
    return noise / length * SMALL * median.view(*median.shape, *[1] * (noise.dim() - median.dim()))
