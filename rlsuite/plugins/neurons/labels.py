"""Labels of activations and parameters in a trace: which units lie on which axis, which weight is seen.

All of it is bookkeeping by name: no tensor is kept here, and parameters are their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

# Positions of the affine scale and shift among the arguments.
NORMS = {
    "layer_norm": (2, 3),
    "group_norm": (2, 3),
    "rms_norm": (2, 9),
    "batch_norm": (3, 4),
    "instance_norm": (3, 4),
}
ON_LAST = {"layer_norm", "rms_norm"}  # their scale lies on the last axis; that of the others on axis 1
CONCATENATING = {"cat", "concat", "concatenate"}
# What may be done to a parameter on its way to a layer: swapping its last two axes, or nothing.
SWAPPING = {"transpose", "swapaxes", "swapdims"}
TURNING = SWAPPING | {"permute", "mT", "T", "t", "movedim", "moveaxis", "adjoint", "mH"}
SHOWING = {"unsqueeze", "squeeze", "expand", "expand_as", "broadcast_to", "view", "view_as", "reshape"}
SHOWING |= {"flatten", "unflatten", "contiguous", "clone", "detach", "to", "float", "double", "half"}
SHOWING |= {"bfloat16", "__getitem__"}
LEAVING = {"numpy", "tolist", "__array__", "__dlpack__"}  # what becomes of the numbers is not seen
SOURCES = {"embedding", "embedding_bag"}  # read a table by index: their results are inputs, not units


class Unit:
    """Facts that the trace has learnt of the units of one weight."""

    def __init__(self, layer: "TracedLayer", bias: str | None) -> None:
        self.layer, self.bias = layer, bias
        self.readers: dict[tuple[str, int, int], tuple[TracedLayer, str | None]] = {}
        self.gains: tuple[str, ...] = ()
        self.shifts: tuple[str, ...] = ()
        self.read = self.shared = False
        self.module: str | None = None
        self.added: int | None = None  # identity of the tensor that was added to a stream


@dataclass(frozen=True)
class TracedLayer:
    """A parameter's name and axes; see `Layer`."""

    name: str
    out_axis: int
    in_axis: int


@dataclass(frozen=True)
class Segment:
    """`size` units, each on `repeat` neighbouring positions; `units` says whose (several: a stream's)."""

    units: tuple[Unit, ...]
    size: int
    repeat: int = 1
    gains: tuple[str, ...] = ()
    shifts: tuple[str, ...] = ()
    normed: bool = False

    def moved_by(self, gains: tuple[str, ...], shifts: tuple[str, ...]) -> "Segment":
        """Return the same units behind further scales and shifts, each named once."""
        return replace(
            self,
            gains=self.gains + tuple(g for g in gains if g not in self.gains),
            shifts=self.shifts + tuple(s for s in shifts if s not in self.shifts),
        )


@dataclass(frozen=True)
class Label:
    """Label of the units on `axis` (from the end) of an activation; `opaque` says what made it unknown."""

    axis: int
    segments: tuple[Segment, ...]
    opaque: str = ""

    @property
    def units(self) -> tuple[Unit, ...]:
        """Every unit's record, once."""
        return tuple(dict.fromkeys(unit for segment in self.segments for unit in segment.units))

    def is_made_by(self, unit: Unit) -> bool:
        """Return whether these are one weight's units alone, each once and on the axis where it made them."""
        if len(self.segments) != 1 or self.segments[0].units != (unit,) or self.segments[0].repeat != 1:
            return False
        return self.axis == max(unit.layer.out_axis, unit.layer.in_axis)


@dataclass(frozen=True)
class View:
    """A parameter, or a view of it with its last two axes swapped; `lost` says by what it was changed."""

    name: str
    swapped: bool = False
    lost: str = ""


def shown(
    view: View, name: str, args: tuple[Any, ...], source: Tensor, output: Tensor, shape: Sequence[int]
) -> View:
    """Follow a parameter of `shape`, seen as `source`, through a function of its own."""
    if view.lost:
        return view
    if name in TURNING:
        dims = [d % source.dim() for d in args[1:] if isinstance(d, int)]
        swaps = not dims or sorted(dims) == [source.dim() - 2, source.dim() - 1]
        whole = name in {"mT", "mH", "t", "adjoint"} or (name == "T" and source.dim() == 2)
        known = whole or (name in SWAPPING and swaps)
        return replace(view, swapped=not view.swapped) if known else replace(view, lost=name)
    last = source.shape[-2:]
    whole = name in SHOWING and output.numel() >= source.numel()
    if name == "__getitem__" and picks(args[1]):
        whole = False
    vector = len(shape) == 1 or output.shape[-2:] == (1, last[-1])
    return view if whole and (vector or output.shape[-2:] == last) else replace(view, lost=name)


def picks(index: Any) -> bool:
    """Return whether an index may pick or reorder units: slices, new axes and integers do not."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor | list) for part in parts)
