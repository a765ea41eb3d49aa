"""Names of the weights of our networks' hidden layers, for methods that change single units.

A unit is a row of a hidden layer's weight. Beside it belong to the unit its entry of the norm behind the
layer and its column of the layers that read it. Residual streams have no such columns: several layers add to
each of their coordinates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from rlsuite.blocks.mlp import MLP, LayerNorm, Linear
from rlsuite.blocks.networks import BroNet, MultiSkip, RefiningMLP, SimBa

HEADS = "rlsuite.blocks.heads"  # whose networks are a trunk, and functions of its outputs


@dataclass(frozen=True, slots=True)
class HiddenLayer:
    """Names of submodules.

    Attributes:
        layer: makes the units.
        norm: affine norm of the units before anything else reads them.
        readers: layers that read them, each with the first column of the units; none in a residual stream.
        output_of: of a stream's units: a module whose output is what they add.
        input_of: likewise, a module whose input that is.
    """

    layer: str
    norm: str | None = None
    readers: tuple[tuple[str, int], ...] = ()
    output_of: str | None = None
    input_of: str | None = None


def hidden_layers(network: nn.Module, name: str = "") -> tuple[HiddenLayer, ...] | None:
    """Return the hidden layers of an MLP, residual network, denoiser, actor or critic of this package.

    A module may say by an attribute `trunks` that it consists of such networks and functions of their
    outputs.

    Args:
        network: any module.
        name: its own, put before all names.

    Returns:
        the layers in the order of their calls; None for every other module (networks of agents' own,
        convolutions, recurrent ones).
    """
    dot = f"{name}." if name else ""
    if type(network).__module__ == HEADS:
        return hidden_layers(network.get_submodule("trunk"), f"{dot}trunk")
    if trunks := getattr(network, "trunks", ()):  # several of them, whose outputs are no units
        parts = [hidden_layers(network.get_submodule(trunk), f"{dot}{trunk}") for trunk in trunks]
        return None if None in parts else tuple(layer for part in parts for layer in part or ())
    layers_of = _OURS.get(type(network))
    return None if layers_of is None else tuple(layers_of(network, dot))


def _sequence(parts: nn.Sequential, dot: str) -> list[HiddenLayer]:
    """Each linear layer is read by the next one; the last has no reader yet."""
    places = [i for i, part in enumerate(parts) if isinstance(part, Linear | nn.Sequential)]
    layers: list[HiddenLayer] = []
    for here, there in zip(places, [*places[1:], len(parts)], strict=True):
        norm = next((f"{dot}{i}" for i in range(here, there) if isinstance(parts[i], LayerNorm)), None)
        readers = ((_linear(parts[there], f"{dot}{there}"), 0),) if there < len(parts) else ()
        layers.append(HiddenLayer(_linear(parts[here], f"{dot}{here}"), norm, readers))
    return layers


def _linear(part: nn.Module, name: str) -> str:
    """Name the linear layer of a part that may have dropout behind it."""
    return name if isinstance(part, Linear) else f"{name}.0"


def _perceptron(net: MLP, dot: str) -> list[HiddenLayer]:
    return _sequence(net, dot)[:-1]


def _blocks(net: Any, dot: str) -> Iterator[HiddenLayer]:
    """Inside a block as in an MLP, and what comes out is added to the stream."""
    for i, block in enumerate(net.blocks):
        *inner, last = _sequence(block, f"{dot}blocks.{i}.")
        yield from inner
        yield HiddenLayer(last.layer, last.norm, output_of=f"{dot}blocks.{i}")


def _bronet(net: Any, dot: str) -> Iterator[HiddenLayer]:
    stem, norm = _linear(net.stem, f"{dot}stem"), f"{dot}stem_norm"
    if len(net.blocks):  # what the stem adds is behind an activation that the blocks share
        yield HiddenLayer(stem, norm, input_of=f"{dot}blocks.0")
    else:
        yield HiddenLayer(stem, norm, ((f"{dot}head", 0),))
    yield from _blocks(net, dot)


def _simba(net: Any, dot: str) -> Iterator[HiddenLayer]:
    stem = _linear(net.stem, f"{dot}stem")
    if len(net.blocks):
        yield HiddenLayer(stem, output_of=f"{dot}stem")
    else:
        yield HiddenLayer(stem, f"{dot}last", ((f"{dot}head", 0),))
    yield from _blocks(net, dot)


def _multiskip(net: Any, dot: str) -> Iterator[HiddenLayer]:
    stem, norm = _linear(net.stem, f"{dot}stem"), f"{dot}stem_norm"
    (last,) = _sequence(net.last, f"{dot}last.")
    if len(net.blocks):
        yield HiddenLayer(stem, norm, output_of=norm)
    else:
        yield HiddenLayer(stem, norm, ((last.layer, 0),))
    yield from _blocks(net, dot)
    yield HiddenLayer(last.layer, last.norm, ((f"{dot}head", 0),))


def _denoiser(net: Any, dot: str) -> Iterator[HiddenLayer]:
    *hidden, embedding = _sequence(net.time, f"{dot}time.")
    yield from hidden
    first, width = net.net[0], net.time.head.weight.shape[-2]  # the embedded step stands in the last columns
    yield HiddenLayer(embedding.layer, readers=((f"{dot}net.0", first.weight.shape[-1] - width),))
    yield from _perceptron(net.net, f"{dot}net.")


_OURS: dict[type[nn.Module], Callable[[Any, str], Any]] = {
    MLP: _perceptron,
    BroNet: _bronet,
    SimBa: _simba,
    MultiSkip: _multiskip,
    RefiningMLP: _denoiser,
}
