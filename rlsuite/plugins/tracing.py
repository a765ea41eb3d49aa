"""Find the chains of a network by one traced forward pass; see `rlsuite.plugins.chains`.

A `TorchFunctionMode` sees every torch function of the pass. Each activation carries a label: which units lie
on which of its axes. Products with a parameter read units and make new ones; elementwise functions pass
labels on; sums of two labels are residual streams. What a label cannot be carried through is opaque: harmless
at the end of a network, an error where another layer reads it.
"""

import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rlsuite.errors import ConfigError
from rlsuite.plugins.chains import Chain, Layer, Reader

IMAGE_SIDES = (84, 64, 96, 32, 28, 16, 8)  # tried for a network that begins with a convolution
GUESSES = 8  # weights whose width is tried as the input's
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
SOURCES = {"embedding", "embedding_bag"}  # read a table by index: their results are inputs, not units


class _Unit:
    """What the trace has learnt of the units of one weight."""

    def __init__(self, layer: "_Layer", bias: str | None) -> None:
        self.layer, self.bias = layer, bias
        self.readers: dict[tuple[str, int, int], tuple[_Layer, str | None]] = {}
        self.gains: tuple[str, ...] = ()
        self.shifts: tuple[str, ...] = ()
        self.read = self.shared = False
        self.module: str | None = None
        self.added_from: str | None = None


@dataclass(frozen=True)
class _Layer:
    name: str
    out_axis: int
    in_axis: int


@dataclass(frozen=True)
class _Segment:
    """`size` units, each on `repeat` neighbouring positions; `units` says whose (several: a stream's)."""

    units: tuple[_Unit, ...]
    size: int
    repeat: int = 1
    gains: tuple[str, ...] = ()
    shifts: tuple[str, ...] = ()
    normed: bool = False


@dataclass(frozen=True)
class _Label:
    axis: int
    segments: tuple[_Segment, ...]
    opaque: str = ""

    @property
    def units(self) -> tuple[_Unit, ...]:
        return tuple(dict.fromkeys(unit for segment in self.segments for unit in segment.units))


@dataclass(frozen=True)
class _View:
    """A parameter, or a view of it with its last two axes swapped; `lost` says by what it was changed."""

    name: str
    swapped: bool = False
    lost: str = ""


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
        ConfigError: the pass cannot be made up, or does something that cannot be followed.
    """
    args = _guessed(module) if example is None else tuple(example)
    trace = _Trace(module)
    with _undisturbed(module), trace.watching(), trace:
        output = module(*args)
    heads = {unit for leaf in tree_leaves(output) for unit in trace.label_of(leaf).units}
    found = [unit for unit in trace.units if unit.read and unit not in heads]
    names = [unit.layer.name.removesuffix(".weight") for unit in found]
    if layers is not None:
        if missing := [name for name in layers if name not in names]:
            raise ConfigError(f"no hidden layer is called {', '.join(missing)}; there are {', '.join(names)}")
        found = [unit for unit, name in zip(found, names, strict=True) if name in layers]
    elif trace.problems:
        raise ConfigError(f"{'; '.join(trace.problems)}. Name the layers to be reset: layers={names}")
    weights = dict(module.named_parameters()) if parameters is None else parameters
    chains = tuple(_chain(unit, weights) for unit in found if unit.layer.name not in trace.unusable)
    if not chains:
        raise ConfigError(f"{type(module).__name__} has no hidden layer: nothing can be reset")
    for chain in chains:
        chain.check()
    return chains


def _chain(unit: _Unit, weights: Mapping[str, nn.Parameter]) -> Chain:
    def layer(traced: _Layer) -> Layer:
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


class _Trace(TorchFunctionMode):
    """Carries labels through one forward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names = {id(p): name for name, p in module.named_parameters(remove_duplicate=True)}
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.views: dict[int, _View] = {}
        self.labels: dict[int, _Label] = {}
        self.alive: list[Any] = []  # a freed tensor's id would be given to another one
        self.by_name: dict[str, _Unit] = {}
        self.inputs: dict[str, tuple[_Segment, ...]] = {}
        self.outputs: list[tuple[str, tuple[_Segment, ...]]] = []
        self.problems: list[str] = []
        self.unusable: set[str] = set()

    @property
    def units(self) -> list[_Unit]:
        return list(self.by_name.values())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what goes into and comes out of every submodule while the pass runs."""
        hooks = []
        for name, part in self.module.named_modules():
            hooks.append(part.register_forward_pre_hook(self._entering(name)))
            hooks.append(part.register_forward_hook(self._leaving(name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _entering(self, name: str) -> Callable[..., None]:
        def note(part: nn.Module, args: tuple[Any, ...]) -> None:
            self.inputs[name] = self.label_of(args[0]).segments if len(args) == 1 else ()

        return note

    def _leaving(self, name: str) -> Callable[..., None]:
        def note(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            label = self.label_of(output)
            self.outputs.append((name, label.segments))
            for unit in label.units:
                if unit.module is None and _owner(unit.layer.name) == name:
                    unit.module = name

        return note

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # a property, such as Tensor.mT
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if outputs:
            self._note(name, args, kwargs, outputs)
        return result

    def label_of(self, value: Any) -> _Label:
        """Return the label of a tensor; an empty one for everything else."""
        return self.labels.get(id(value), _Label(-1, ()))

    def view_of(self, value: Any) -> _View | None:
        """Return which parameter a tensor is, or shows."""
        if id(value) in self.names:
            return _View(self.names[id(value)])
        return self.views.get(id(value))

    def _keep(self, tensor: Tensor, label: _Label) -> None:
        self.labels[id(tensor)] = label
        self.alive.append(tensor)

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.alive += tensors
        if self._product(name, args, kwargs, outputs[0]):
            return
        views = [(t, view) for t in tensors if (view := self.view_of(t)) is not None]
        labelled = [t for t in tensors if id(t) in self.labels]
        if not labelled and views:
            if name not in SOURCES:
                self._show(name, args, tensors, views[0], outputs)
        elif labelled:
            matrices = [view.name for _, view in views if len(self.shapes[view.name]) > 1]
            if matrices and (name in MIXING or outputs[0].shape != labelled[0].shape):
                self.problems.append(f"{name} uses {', '.join(matrices)} in a way that is not followed")
            self._flow(
                name, args, kwargs, labelled, [t for t in tensors if id(t) not in self.labels], outputs
            )

    def _show(
        self,
        name: str,
        args: tuple[Any, ...],
        tensors: list[Tensor],
        first: tuple[Tensor, _View],
        outputs: list[Tensor],
    ) -> None:
        """Follow a parameter through a function of its own: transposed, reshaped in front, or changed."""
        source, view = first
        for output in outputs:
            if self.view_of(output) is not None and len(tensors) == 1:
                continue
            last = source.shape[-2:]
            if len(tensors) > 1 or view.lost:
                shown = replace(view, lost=view.lost or name)
            elif name in TURNING:
                dims = [d % source.dim() for d in args[1:] if isinstance(d, int)]
                swaps = not dims or sorted(dims) == [source.dim() - 2, source.dim() - 1]
                whole = name in {"mT", "mH", "t", "adjoint"} or (name == "T" and source.dim() == 2)
                known = whole or (name in {"transpose", "swapaxes", "swapdims"} and swaps)
                shown = replace(view, swapped=not view.swapped) if known else replace(view, lost=name)
            elif output.shape[-2:] == last or (
                len(self.shapes[view.name]) == 1 and output.numel() == source.numel()
            ):
                shown = view
            elif output.dim() > 1 and output.shape[-2:] == (1, last[-1]) and output.numel() == source.numel():
                shown = view  # biases of several networks, made to broadcast over the batch
            else:
                shown = replace(view, lost=name)
            self.views[id(output)] = shown
            self.alive.append(output)

    def _product(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> bool:
        """Follow a layer: units are read, others made. Return whether `name` was such a function."""
        bias: Any = None
        spatial = CONVOLUTIONS.get(name, 0)
        if name == "linear" or spatial:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            x, weight, bias = given["input"], given["weight"], given.get("bias")
            out_axis, in_axis = -2 - spatial, -1 - spatial
            groups = kwargs.get("groups", args[6] if len(args) > 6 else 1) if spatial else 1
        elif name in PRODUCTS:
            x, weight = args[PRODUCTS[name] : PRODUCTS[name] + 2]
            bias = args[0] if PRODUCTS[name] else None
            out_axis, in_axis, groups = -1, -2, 1
        elif name == "einsum":
            axes = _einsum_axes(args)
            if axes is None:
                return False
            (x, weight), (out_axis, in_axis), groups = args[1:3], axes, 1
        else:
            return False
        view, label, seen = self.view_of(weight), self.label_of(x), (out_axis, in_axis)
        if view is None or len(self.shapes[view.name]) < 2 or view.lost:
            if view is not None and view.lost:
                self.problems.append(f"{name} uses {view.name} after {view.lost}, which is not followed")
            return False  # a product of activations: opaque
        if view.swapped:
            out_axis, in_axis = in_axis, out_axis
        known = self.shapes[view.name]
        if any(weight.shape[axis] != known[new] for axis, new in zip(seen, (out_axis, in_axis), strict=True)):
            self.problems.append(f"{name} uses {view.name} in another shape")
            return False
        layer = _Layer(view.name, out_axis, in_axis)
        position = -1 - spatial
        if groups != 1:
            self.problems.append(f"{view.name} is a convolution in {groups} groups")
            self.unusable.add(view.name)
        elif label.segments:
            self._read(label, position, layer)
        unit = self.by_name.get(view.name)
        if unit is None:
            shown = self.view_of(bias) if isinstance(bias, Tensor) else None
            unit = self.by_name[view.name] = _Unit(layer, None if shown is None else shown.name)
        size = self.shapes[view.name][out_axis]
        self._keep(output, _Label(position, (_Segment((unit,), size),)))
        return True

    def _read(self, label: _Label, position: int, layer: _Layer) -> None:
        """Note that `layer` reads the units of `label`."""
        start = 0
        for segment in label.segments:
            for unit in segment.units:
                unit.read = True
            if label.opaque or label.axis != position:
                how = label.opaque or "an axis that it does not read"
                names = ", ".join(unit.layer.name for unit in segment.units)
                self.problems.append(f"{layer.name} reads {names} through {how}")
                self.unusable |= {unit.layer.name for unit in segment.units}
            elif len(segment.units) == 1:
                (unit,) = segment.units
                seen = self.inputs.get(_owner(layer.name)) == label.segments
                module = _owner(layer.name) if seen else None
                unit.readers.setdefault((layer.name, start, segment.repeat), (layer, module))
                if not unit.shared:
                    unit.gains, unit.shifts = segment.gains, segment.shifts
            start += segment.size * segment.repeat
        if not label.opaque and start != self.shapes[layer.name][layer.in_axis]:
            self.problems.append(
                f"{layer.name} has another number of columns than the {start} units before it"
            )

    def _flow(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        labelled: list[Tensor],
        others: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        """Carry labels through a function that is no layer."""
        x, label = labelled[0], self.label_of(labelled[0])
        output = outputs[0]
        if name in CONCATENATING:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            joined = self._concatenated(args[0] if args else kwargs["tensors"], dim)
            self._keep(output, joined or self._opaque(name, labelled, output))
            return
        different = {self.label_of(t).segments for t in labelled}
        if len(different) > 1:
            self._keep(output, self._merged(name, labelled, output))
            return
        if not label.opaque:
            label = self._affine(name, args, kwargs, label, others)
            if name in ADDING and any(self._is_stream(t, x, label) for t in others):
                label = self._shared([label])
        for each in outputs:
            axis, repeat = _moved(name, args, kwargs, x, each, label.axis)
            if axis is None or label.opaque:
                self._keep(each, self._opaque(label.opaque or name, labelled, each))
            else:
                segments = tuple(replace(s, repeat=s.repeat * repeat) for s in label.segments)
                self._keep(each, _Label(axis, segments))

    def _affine(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], label: _Label, others: list[Tensor]
    ) -> _Label:
        """Note the parameters that scale and shift single units: norms, and biases that are added."""
        if len(label.segments) != 1 or len(label.segments[0].units) != 1:
            return label
        (segment,) = label.segments
        (unit,) = segment.units

        def of(value: Any) -> tuple[str, ...]:
            view = self.view_of(value)
            fits = view is not None and not view.lost and self.shapes[view.name].numel() % segment.size == 0
            return (view.name,) if fits and view is not None else ()

        gains: tuple[str, ...] = ()
        shifts: tuple[str, ...] = ()
        if name in NORMS:
            places = dict(zip(("weight", "bias"), NORMS[name], strict=True))
            found = [kwargs.get(key, args[at] if len(args) > at else None) for key, at in places.items()]
            gains, shifts = of(found[0]), of(found[1])
            segment = replace(segment, normed=True)
        elif name == "addcmul":
            shifts = of(args[0])
            gains = tuple(found for value in args[1:3] for found in of(value))
        elif name in SCALING:
            gains = tuple(found for value in others for found in of(value))
        elif name in ADDING:
            shifts = tuple(found for value in others for found in of(value))
            if shifts and unit.bias is None and not (segment.normed or segment.gains):
                unit.bias, shifts = shifts[0], ()
        new = replace(
            segment,
            gains=segment.gains + tuple(g for g in gains if g not in segment.gains),
            shifts=segment.shifts + tuple(s for s in shifts if s not in segment.shifts),
        )
        return replace(label, segments=(new,))

    def _is_stream(self, other: Tensor, x: Tensor, label: _Label) -> bool:
        """Whether `other`, added to units, is data with a number for each of them."""
        if self.view_of(other) is not None or other.dim() < -label.axis:
            return False
        return other.shape[label.axis] == x.shape[label.axis] > 1

    def _shared(self, labels: Sequence[_Label]) -> _Label:
        """Join labels that are added: from here on their coordinates belong to all of them."""
        joined = []
        for segments in zip(*(label.segments for label in labels), strict=True):
            for segment in segments:
                if len(segment.units) == 1 and not segment.units[0].shared:
                    (unit,) = segment.units
                    unit.shared, unit.gains, unit.shifts = True, segment.gains, segment.shifts
                    sources = [name for name, out in self.outputs if out == (segment,)]
                    unit.added_from = sources[-1] if sources else None
            units = dict.fromkeys(unit for segment in segments for unit in segment.units)
            joined.append(_Segment(tuple(units), segments[0].size, segments[0].repeat, normed=True))
        # A sum of one label with data is a stream, too: two names for one unit keep it from being one's own.
        for i, segment in enumerate(joined):
            if len(segment.units) == 1:
                joined[i] = replace(segment, units=segment.units * 2)
        return _Label(labels[0].axis, tuple(joined))

    def _merged(self, name: str, labelled: list[Tensor], output: Tensor) -> _Label:
        """Follow a function of several activations: a sum or product makes their coordinates shared."""
        labels = [self.label_of(t) for t in labelled]
        first = labels[0]
        sizes = {(label.axis, tuple((s.size, s.repeat) for s in label.segments)) for label in labels}
        alike = len(sizes) == 1 and output.dim() >= -first.axis
        fits = alike and output.shape[first.axis] == labelled[0].shape[first.axis]
        if not fits or name in JOINING or name in PRODUCTS or any(label.opaque for label in labels):
            return self._opaque(name, labelled, output)
        return self._shared(labels)

    def _concatenated(self, tensors: Sequence[Tensor], dim: int) -> _Label | None:
        labels = [self.label_of(t) for t in tensors]
        if any(label.opaque for label in labels):
            return None
        known = [label for label in labels if label.segments]
        ndim = tensors[0].dim()
        place = (dim % ndim) - ndim
        if any(label.axis != known[0].axis for label in known):
            return None
        if place == known[0].axis:
            parts = [
                label.segments or (_Segment((), t.shape[dim]),)
                for label, t in zip(labels, tensors, strict=True)
            ]
            return _Label(place, tuple(segment for part in parts for segment in part))
        same = len(known) == len(labels) and len({label.segments for label in labels}) == 1
        return known[0] if same else None

    def _opaque(self, name: str, labelled: list[Tensor], output: Tensor) -> _Label:
        units = tuple(dict.fromkeys(unit for t in labelled for unit in self.label_of(t).units))
        return _Label(-1, (_Segment(units, output.shape[-1] if output.dim() else 1),), opaque=name)


def _moved(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor, output: Tensor, axis: int
) -> tuple[int | None, int]:
    """Return where `axis` of `x` lies in `output` (None: nowhere) and how many positions each unit takes."""
    ndim, size = x.dim(), x.shape[axis]
    if name in PERMUTING or (name == "__getitem__" and _picks(args[1])):
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


def _picks(index: Any) -> bool:
    """Whether an index may pick or reorder units: slices, new axes and integers do not."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Tensor | list) for part in parts)


def _einsum_axes(args: tuple[Any, ...]) -> tuple[int, int] | None:
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


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _guessed(module: nn.Module) -> tuple[Tensor, ...]:
    """Make up the input of a network of one flat or image input, from its first weights."""
    weights = [p for p in module.parameters() if p.dim() > 1]
    hint = "give its arguments, e.g. attach(..., example=(observation, action))"
    if not weights:
        raise ConfigError(f"{type(module).__name__} has no weights with two axes: nothing can be reset")
    first = weights[0]
    widths = dict.fromkeys(weight.shape[-1] for weight in weights[:GUESSES])
    flat = [first.new_zeros(2, width) for width in widths]
    images = [first.new_zeros(2, first.shape[1], *[side] * (first.dim() - 2)) for side in IMAGE_SIDES]
    for guess in [*flat, *(images if first.dim() > 2 else [])]:
        try:
            with _undisturbed(module):
                module(guess)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            continue  # another shape may fit
        return (guess,)
    raise ConfigError(f"the input of {type(module).__name__} cannot be made up: {hint}")


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Run without gradient, in evaluation mode, and put modes, buffers and torch's random streams back."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.no_grad(), torch.random.fork_rng():
        module.eval()
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training
            for buffer, before in buffers:
                buffer.copy_(before)
