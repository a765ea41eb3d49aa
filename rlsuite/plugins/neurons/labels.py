"""What the trace knows of activations: which units lie on which axis, and how functions move them.

All of it is bookkeeping by name: no tensor is kept here, and parameters are their names.
"""

import math
import string
from dataclasses import dataclass
from typing import Any

from torch import Tensor

CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
# Functions of (activation, weight [in, out]), and of (bias, activation, weight [in, out]).
PRODUCTS = {"matmul": 0, "__matmul__": 0, "bmm": 0, "mm": 0, "addmm": 1, "baddbmm": 1}
# Positions of the affine scale and shift among the arguments.
NORMS = {
    "layer_norm": (2, 3),
    "group_norm": (2, 3),
    "rms_norm": (2, 9),
    "batch_norm": (3, 4),
    "instance_norm": (3, 4),
}
ADDING = {
    "add",
    "add_",
    "__add__",
    "__radd__",
    "__iadd__",
    "sub",
    "sub_",
    "__sub__",
    "__rsub__",
    "__isub__",
    "lerp",
}
SCALING = {"mul", "mul_", "__mul__", "__rmul__", "__imul__"}
REDUCING = {"mean", "sum", "amax", "amin", "max", "min", "logsumexp", "prod", "norm", "var", "std"}
PERMUTING = {
    "flip",
    "roll",
    "sort",
    "argsort",
    "cumsum",
    "cumprod",
    "gather",
    "index_select",
    "take_along_dim",
}
JOINING = {"stack", "hstack", "vstack", "dstack"}
CONCATENATING = {"cat", "concat", "concatenate"}
TURNING = {
    "transpose",
    "swapaxes",
    "swapdims",
    "permute",
    "mT",
    "T",
    "t",
    "movedim",
    "moveaxis",
    "adjoint",
    "mH",
}
MIXING = {"multi_head_attention_forward", "bilinear", "gru", "lstm", "rnn_tanh", "rnn_relu"}
MIXING |= {"gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell"}  # weights that are not followed
SHOWING = {
    "unsqueeze",
    "squeeze",
    "expand",
    "expand_as",
    "broadcast_to",
    "view",
    "view_as",
    "reshape",
    "flatten",
}
SHOWING |= {
    "unflatten",
    "contiguous",
    "clone",
    "detach",
    "to",
    "float",
    "double",
    "half",
    "bfloat16",
    "__getitem__",
}
SOURCES = {"embedding", "embedding_bag"}  # read a table by index: their results are inputs, not units


class Unit:
    """What the trace has learnt of the units of one weight."""

    def __init__(self, layer: "TracedLayer", bias: str | None) -> None:
        self.layer, self.bias = layer, bias
        self.readers: dict[tuple[str, int, int], tuple[TracedLayer, str | None]] = {}
        self.gains: tuple[str, ...] = ()
        self.shifts: tuple[str, ...] = ()
        self.read = self.shared = False
        self.module: str | None = None
        self.added_from: str | None = None


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


@dataclass(frozen=True)
class Label:
    """What lies on `axis` (from the end) of an activation; `opaque` says what made it unknown."""

    axis: int
    segments: tuple[Segment, ...]
    opaque: str = ""

    @property
    def units(self) -> tuple[Unit, ...]:
        """Every unit's record, once."""
        return tuple(dict.fromkeys(unit for segment in self.segments for unit in segment.units))


@dataclass(frozen=True)
class View:
    """A parameter, or a view of it with its last two axes swapped; `lost` says by what it was changed."""

    name: str
    swapped: bool = False
    lost: str = ""


def moved(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor, output: Tensor, axis: int
) -> tuple[int | None, int]:
    """Return where `axis` of `x` lies in `output` (None: nowhere) and how many positions each unit takes."""
    ndim, size = x.dim(), x.shape[axis]
    if name in PERMUTING or (name == "__getitem__" and picks(args[1])):
        return None, 1
    if name in REDUCING:
        dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if dims is None:
            return None, 1
        gone = {d % ndim - ndim for d in ([dims] if isinstance(dims, int) else dims)}
        if axis in gone:
            return None, 1
        kept = output.dim() == ndim
        return (axis if kept else axis + sum(d > axis for d in gone)), 1
    if name in {"transpose", "swapaxes", "swapdims"}:
        one, two = (d % ndim - ndim for d in args[1:3])
        return {one: two, two: one}.get(axis, axis), 1
    if name == "permute":
        order = args[1] if isinstance(args[1], tuple | list) else args[1:]
        return [d % ndim - ndim for d in order].index(axis) - ndim, 1
    if name in TURNING:
        return ({-1: -2, -2: -1}.get(axis, axis) if name in {"mT", "t", "T"} and ndim == 2 else None), 1
    if output.dim() == ndim and output.shape[axis] == size:
        return axis, 1
    if output.dim() and axis == -1 and output.shape[-1] == size:
        return -1, 1
    if output.dim() and axis < -1 and output.shape[-1] == math.prod(x.shape[axis:]):
        return -1, math.prod(x.shape[axis:]) // size
    return None, 1


def picks(index: Any) -> bool:
    """Whether an index may pick or reorder units: slices, new axes and integers do not."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor | list) for part in parts)


def einsum_axes(args: tuple[Any, ...]) -> tuple[int, int] | None:
    """Return the out and in axis of the second operand of an `einsum` of (activation, weight), or None."""
    if not isinstance(args[0], str) or len(args) != 3 or "->" not in args[0]:
        return None
    inputs, output = args[0].replace(" ", "").split("->")
    left, right = inputs.split(",")
    letters = [c for c in right if c in string.ascii_letters]
    summed = [c for c in letters if c in left and c not in output]
    made = [c for c in letters if c not in left and c in output]
    if len(summed) != 1 or len(made) != 1 or left[-1] != summed[0] or output[-1] != made[0]:
        return None
    return letters.index(made[0]) - len(letters), letters.index(summed[0]) - len(letters)
