"""Chains of a network: which weights make units, and which read them.

A *unit* is a row of a weight. Its *chain* is that weight with its bias, the affine norm behind it, and the
layers whose columns read the unit. `find_chains` in `tracing.py` finds chains by itself; `chain` writes one
down.

Legend: weights are `[*lead, out, in, *kernel]` in any order of out and in; leading axes are independent
networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlsuite.errors import ConfigError

# Of a convolution's weight: spatial axes, and whether units come before inputs.
SPATIAL = {f"Conv{n}d": (n, True) for n in (1, 2, 3)} | {f"ConvTranspose{n}d": (n, False) for n in (1, 2, 3)}


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A weight and the meaning of its axes, both counted from the end.

    Attributes:
        name: of the parameter, as `named_parameters` says it.
        weight: the parameter, `[*lead, out, in, *kernel]` or `[*lead, in, out, *kernel]`.
        out_axis: axis of the units that it makes.
        in_axis: axis of what it reads.
    """

    name: str
    weight: nn.Parameter
    out_axis: int = -2
    in_axis: int = -1

    @property
    def lead(self) -> tuple[int, ...]:
        """Sizes of the axes of independent networks."""
        return tuple(self.weight.shape[: self.weight.dim() + min(self.out_axis, self.in_axis)])

    @property
    def units(self) -> int:
        """Units that the layer makes."""
        return self.weight.shape[self.out_axis]

    @property
    def inputs(self) -> int:
        """Columns: features or channels that the layer reads."""
        return self.weight.shape[self.in_axis]

    @property
    def axis(self) -> int:
        """Axis of the activations that it reads and makes, from the end: before the spatial ones."""
        return max(self.out_axis, self.in_axis)

    @property
    def fan_in(self) -> int:
        """Numbers that enter one unit: inputs times the size of a kernel."""
        return self.weight[(0,) * len(self.lead)].numel() // self.units


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A layer that reads units: unit i fills `repeat` columns from `start + i * repeat` on.

    `module` names the module whose only input the units are, where there is one: activations are seen there.
    """

    layer: Layer
    start: int = 0
    repeat: int = 1
    module: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """The units of one layer and everything that belongs to them.

    Attributes:
        producer: makes the units, `[*lead, H]` of them.
        bias: of the producer, or None.
        gains: affine scales behind the producer (norms), reset to one.
        shifts: affine shifts behind the producer, reset to zero.
        readers: layers whose columns belong to the units alone; empty where `shared`.
        shared: the units are added into a residual stream: its columns belong to others, too.
        module: name of the module whose output is the units' pre-activation, or None.
        output_of: of shared units: name of a module whose output is what they add, or None.
        input_of: likewise, of a module whose input that is.
    """

    producer: Layer
    bias: nn.Parameter | None = None
    gains: tuple[nn.Parameter, ...] = ()
    shifts: tuple[nn.Parameter, ...] = ()
    readers: tuple[Reader, ...] = ()
    shared: bool = False
    module: str | None = None
    output_of: str | None = None
    input_of: str | None = None

    @property
    def name(self) -> str:
        """Name of the producer without `.weight`."""
        return self.producer.name.removesuffix(".weight")

    def check(self) -> None:
        """Raise ConfigError where shapes contradict each other."""
        lead, units = self.producer.lead, self.producer.units
        for vector in (self.bias, *self.gains, *self.shifts):
            if vector is not None and vector.numel() != math.prod(lead) * units:
                raise ConfigError(
                    f"{self.name} makes {[*lead, units]} units and has a bias or norm of shape "
                    f"{list(vector.shape)}: leave the layer out with layers=[...]"
                )
        for reader in self.readers:
            if reader.layer.lead[: len(lead)] != lead:
                raise ConfigError(
                    f"{reader.layer.name} has leading axes {list(reader.layer.lead)} and reads {self.name} "
                    f"with {list(lead)}: leave the layer out with layers=[...]"
                )
            last = reader.start + reader.repeat * units
            if last > reader.layer.inputs:
                raise ConfigError(
                    f"{reader.layer.name} has {reader.layer.inputs} columns, {self.name} would need {last}"
                )

    def parameters(self) -> list[nn.Parameter]:
        """Return every parameter that a reset of the units may touch."""
        incoming = [self.producer.weight, self.bias, *self.gains, *self.shifts]
        return [p for p in incoming if p is not None] + [reader.layer.weight for reader in self.readers]


def chain(
    module: nn.Module,
    producer: str,
    readers: Sequence[str | tuple[str, int]] = (),
    *,
    norm: str | None = None,
    output_of: str | None = None,
    input_of: str | None = None,
) -> Chain:
    """Write a chain down by the names of submodules of the torch kinds (weight `[*lead, out, in, *kernel]`).

    Args:
        module: searched for the names.
        producer: the layer that makes the units.
        readers: layers that read them and nothing else, or with the first column of the units where they
            read other things, too; none resets incoming rows only (residual streams).
        norm: affine norm behind the producer.
        output_of: without readers: a module whose output is what the units add to a stream; by default the
            norm or producer.
        input_of: likewise, a module whose input that is.

    Raises:
        ConfigError: no such submodule or weight, or sizes that do not fit.
    """
    made = _layer(module, producer)
    reading = []
    for reader in readers:
        name, start = (reader, None) if isinstance(reader, str) else reader
        layer = _layer(module, name)
        repeat, left = divmod(layer.inputs, made.units) if start is None else (1, 0)
        if left or not repeat:
            raise ConfigError(f"{name} has {layer.inputs} inputs, not a multiple of the {made.units} units")
        reading.append(Reader(layer, start or 0, repeat, name))
    gain = None if norm is None else own_parameter(_part(module, norm), "weight")
    shift = None if norm is None else own_parameter(_part(module, norm), "bias")
    written = Chain(
        made,
        own_parameter(_part(module, producer), "bias"),
        () if gain is None else (gain,),
        () if shift is None else (shift,),
        tuple(reading),
        shared=not reading,
        module=producer,
        output_of=None if reading or input_of else output_of or norm or producer,
        input_of=None if reading else input_of,
    )
    written.check()
    return written


def _part(module: nn.Module, name: str) -> nn.Module:
    """Return a submodule that has a weight."""
    try:
        part = module.get_submodule(name)
    except AttributeError:
        known = [name for name, part in module.named_modules() if own_parameter(part, "weight") is not None]
        raise ConfigError(f'"{name}" is no submodule; those with a weight: {", ".join(known)}') from None
    if own_parameter(part, "weight") is None:
        raise ConfigError(f'"{name}" ({type(part).__name__}) has no weight')
    return part


def _layer(module: nn.Module, name: str) -> Layer:
    """Return the layer of a submodule of one of the torch kinds."""
    part = _part(module, name)
    weight = own_parameter(part, "weight")
    assert weight is not None  # `_part` has seen to it
    spatial, out_first = SPATIAL.get(type(part).__name__, (0, True))
    axes = (-2 - spatial, -1 - spatial) if out_first else (-1 - spatial, -2 - spatial)
    return Layer(f"{name}.weight", weight, *axes)


def ties(module: nn.Module) -> dict[int, str]:
    """Return, by identity of each parameter that stands in several places, what says so.

    A module that has two names is no tie: its layer is one.
    """
    places: dict[int, dict[tuple[int, str], str]] = {}
    for prefix, part in module.named_modules():  # every module once
        for name, parameter in part._parameters.items():
            if parameter is not None:
                full = f"{prefix}.{name}" if prefix else name
                places.setdefault(id(parameter), {})[id(part), name] = full
    return {
        key: f"{' and '.join(names.values())} are one tensor (tied weights): a reset would change them all"
        for key, names in places.items()
        if len(names) > 1
    }


def check_untied(chain: Chain, module: nn.Module) -> None:
    """Raise ConfigError where a reset of the chain would write to a tied parameter."""
    tied = ties(module)
    for parameter in chain.parameters():
        if reason := tied.get(id(parameter)):
            raise ConfigError(f"{chain.name} cannot be reset: {reason}; leave it out with layers=[...]")


def own_parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """Return a parameter registered on this very module, or None."""
    return module._parameters.get(name)


def unit_mean(values: Tensor, lead: int, axis: int) -> Tensor:
    """Mean over all axes but the `lead` first ones and `axis`: `[*lead, H]`."""
    values = values.movedim(axis, lead)
    return values.flatten(lead + 1).mean(-1) if values.dim() > lead + 1 else values


def per_unit(mask: Tensor, like: Tensor, axis: int) -> Tensor:
    """View a mask `[*lead, H]` so that it broadcasts over `like`, with H on `axis` (from the end)."""
    lead = mask.dim() - 1
    shape = [1] * like.dim()
    shape[:lead] = mask.shape[:-1]
    shape[like.dim() + axis] = mask.shape[-1]
    return mask.view(shape)


def columns_of(mask: Tensor, reader: Reader) -> Tensor:
    """Spread a mask of units `[*lead, H]` over the columns of a reader: `[*lead, columns]`."""
    columns = torch.zeros(*mask.shape[:-1], reader.layer.inputs, dtype=torch.bool, device=mask.device)
    repeated = mask.repeat_interleave(reader.repeat, -1)
    columns[..., reader.start : reader.start + repeated.shape[-1]] = repeated
    return columns
