"""Find the chains of a network by one traced forward pass; see `chains.py` for what they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from rlsuite.errors import ConfigError
from rlsuite.plugins.neurons.chains import Chain, Layer, Reader
from rlsuite.plugins.neurons.labels import TracedLayer, Unit
from rlsuite.plugins.neurons.probing import guessed, undisturbed
from rlsuite.plugins.neurons.trace import Trace


def find_chains(
    module: nn.Module,
    example: Sequence[Any] | None = None,
    parameters: Mapping[str, nn.Parameter] | None = None,
    layers: Sequence[str] | None = None,
) -> tuple[Chain, ...]:
    """Trace one forward pass and return the chains of all hidden layers, in their order.

    The pass runs without gradient, in evaluation mode, and leaves buffers and random streams as they were.
    Layers whose units reach the output without another layer are heads and make no chain.

    Args:
        module: any network.
        example: positional arguments of its forward; None makes them up for networks of one flat or image
            input.
        parameters: weights by name where they are not the module's own (stacked by `torch.func`); they may
            have further leading axes.
        layers: names of the layers wanted; None takes all.

    Raises:
        ConfigError: a weight has no shape yet, the pass cannot be made up or does something that cannot be
            followed, or `layers` names a layer whose units cannot be.
    """
    if lazy := [name for name, p in module.named_parameters() if is_lazy(p)]:
        raise ConfigError(f"{', '.join(lazy)} have no shape yet: call the network once on an input first")
    args = guessed(module) if example is None else tuple(example)
    trace = Trace(module, args)
    with undisturbed(module), trace.watching(), trace:
        output = module(*args)
    heads = {unit for leaf in tree_leaves(output) for unit in trace.label_of(leaf).units}
    hidden = {unit.layer.name.removesuffix(".weight"): unit for unit in trace.units if unit.read}
    found = {
        name: unit
        for name, unit in hidden.items()
        if unit not in heads and unit.layer.name not in trace.unusable
    }
    known = f"there are {', '.join(found)}" if found else "there is none that could be followed"
    for name in layers or ():
        for known_as in (name, f"{name}.weight"):
            if reason := trace.unusable.get(known_as):
                raise ConfigError(f"{name} cannot be reset: {reason}; {known}")
        if name not in found:
            raise ConfigError(f"no hidden layer is called {name}; {known}")
    if layers is None and trace.problems:
        way = "No layers=[...] can be named"
        if found:
            way = f"Name the layers to be reset: layers={list(found)}"
        raise ConfigError(f"{'; '.join(trace.problems)}. {way}, or write chains=[chain(...)] down")
    weights = dict(module.named_parameters()) if parameters is None else parameters
    chains = tuple(_chain(unit, weights) for name, unit in found.items() if layers is None or name in layers)
    if not chains:
        raise ConfigError(f"{type(module).__name__} has no hidden layer: nothing can be reset")
    for chain in chains:
        chain.check()
    return chains


def _chain(unit: Unit, weights: Mapping[str, nn.Parameter]) -> Chain:
    def layer(traced: TracedLayer) -> Layer:
        return Layer(traced.name, weights[traced.name], traced.out_axis, traced.in_axis)

    readers = tuple(
        Reader(layer(reader), start, repeat, module)
        for (_, start, repeat), (reader, module) in unit.readers.items()
    )
    return Chain(
        producer=layer(unit.layer),
        bias=None if unit.bias is None else weights[unit.bias],
        gains=tuple(weights[name] for name in unit.gains),
        shifts=tuple(weights[name] for name in unit.shifts),
        readers=() if unit.shared else readers,
        shared=unit.shared,
        module=unit.module,
        added_from=unit.added_from,
    )
