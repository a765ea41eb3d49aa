"""Find the chains of a network by one traced forward pass; see `chains.py` for what they are."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from rlsuite.errors import ConfigError
from rlsuite.plugins.neurons.chains import Chain, Layer, Reader, ties
from rlsuite.plugins.neurons.labels import TracedLayer, Unit
from rlsuite.plugins.neurons.ledger import Ledger
from rlsuite.plugins.neurons.probing import guessed, undisturbed
from rlsuite.plugins.neurons.trace import Passing, Trace


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
    _refuse_ties(trace)
    usable = _usable(trace, output)
    _check_wanted(trace.ledger, list(usable), layers)
    weights = dict(module.named_parameters()) if parameters is None else parameters
    chains = tuple(
        _chain(unit, trace.seen_at(unit), weights)
        for name, unit in usable.items()
        if layers is None or name in layers
    )
    if not chains:
        raise ConfigError(f"{type(module).__name__} has no hidden layer: nothing can be reset")
    for chain in chains:
        chain.check()
    return chains


def _refuse_ties(trace: Trace) -> None:
    """Refuse units whose reset would write to a tensor that stands in several places."""
    tied = {trace.ledger.names[key]: reason for key, reason in ties(trace.module).items()}
    for unit in trace.units:
        readers = [] if unit.shared else [name for name, _, _ in unit.readers]
        for name in (unit.layer.name, unit.bias, *unit.gains, *unit.shifts, *readers):
            if name in tied:
                trace.ledger.refuse(tied[name], [unit])


def _usable(trace: Trace, output: Any) -> dict[str, Unit]:
    """Return the hidden layers that could be followed, by name: those that are read and are no heads."""
    heads = {unit for leaf in tree_leaves(output) for unit in trace.ledger.label_of(leaf).units}
    return {
        unit.layer.name.removesuffix(".weight"): unit
        for unit in trace.units
        if unit.read and unit not in heads and unit.layer.name not in trace.ledger.unusable
    }


def _check_wanted(ledger: Ledger, usable: Sequence[str], layers: Sequence[str] | None) -> None:
    """Raise ConfigError where a layer is asked for that cannot be reset, or all are and one cannot."""
    known = f"there are {', '.join(usable)}" if usable else "there is none that could be followed"
    for name in layers or ():
        for known_as in (name, f"{name}.weight"):
            if reason := ledger.unusable.get(known_as):
                raise ConfigError(f"{name} cannot be reset: {reason}; {known}")
        if name not in usable:
            raise ConfigError(f"no hidden layer is called {name}; {known}")
    if layers is None and ledger.problems:
        way = "No layers=[...] can be named"
        if usable:
            way = f"Name the layers to be reset: layers={list(usable)}"
        raise ConfigError(f"{'; '.join(ledger.problems)}. {way}, or write chains=[chain(...)] down")


def _chain(unit: Unit, seen: Passing | None, weights: Mapping[str, nn.Parameter]) -> Chain:
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
        output_of=None if seen is None or seen.side != "output" else seen.module,
        input_of=None if seen is None or seen.side != "input" else seen.module,
    )
