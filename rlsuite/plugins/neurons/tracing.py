"""Find the chains of a network by one traced forward pass; see `rlsuite.plugins.neurons.chains`.

A `TorchFunctionMode` sees every torch function of the pass. Each activation carries a label: which units lie
on which of its axes. Products with a parameter read units and make new ones; elementwise functions pass
labels on; sums of two labels are residual streams. What a label cannot be carried through is opaque: harmless
at the end of a network, an error where another layer reads it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rlsuite.errors import ConfigError
from rlsuite.plugins.neurons.chains import Chain, Layer, Reader
from rlsuite.plugins.neurons.labels import (
    ADDING,
    CONCATENATING,
    CONVOLUTIONS,
    JOINING,
    MIXING,
    NORMS,
    PRODUCTS,
    SCALING,
    SHOWING,
    SOURCES,
    TURNING,
    Label,
    Segment,
    TracedLayer,
    Unit,
    View,
    einsum_axes,
    moved,
)
from rlsuite.plugins.neurons.probing import guessed, undisturbed


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
    args = guessed(module) if example is None else tuple(example)
    trace = _Trace(module)
    with undisturbed(module), trace.watching(), trace:
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


class _Trace(TorchFunctionMode):
    """Carries labels through one forward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names = {id(p): name for name, p in module.named_parameters(remove_duplicate=True)}
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.views: dict[int, View] = {}
        self.labels: dict[int, Label] = {}
        self.alive: list[Any] = []  # a freed tensor's id would be given to another one
        self.by_name: dict[str, Unit] = {}
        self.inputs: dict[str, tuple[Segment, ...]] = {}
        self.outputs: list[tuple[str, tuple[Segment, ...]]] = []
        self.problems: list[str] = []
        self.unusable: set[str] = set()

    @property
    def units(self) -> list[Unit]:
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

    def label_of(self, value: Any) -> Label:
        """Return the label of a tensor; an empty one for everything else."""
        return self.labels.get(id(value), Label(-1, ()))

    def view_of(self, value: Any) -> View | None:
        """Return which parameter a tensor is, or shows."""
        if id(value) in self.names:
            return View(self.names[id(value)])
        return self.views.get(id(value))

    def _keep(self, tensor: Tensor, label: Label) -> None:
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
        first: tuple[Tensor, View],
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
            else:
                whole = name in SHOWING and output.numel() >= source.numel()
                vector = len(self.shapes[view.name]) == 1 or output.shape[-2:] == (1, last[-1])
                shown = view if whole and (vector or output.shape[-2:] == last) else replace(view, lost=name)
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
            axes = einsum_axes(args)
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
        layer = TracedLayer(view.name, out_axis, in_axis)
        position = -1 - spatial
        if groups != 1:
            self.problems.append(f"{view.name} is a convolution in {groups} groups")
            self.unusable.add(view.name)
        elif label.segments:
            self._read(label, position, layer)
        unit = self.by_name.get(view.name)
        if unit is None:
            shown = self.view_of(bias) if isinstance(bias, Tensor) else None
            unit = self.by_name[view.name] = Unit(layer, None if shown is None else shown.name)
        size = self.shapes[view.name][out_axis]
        self._keep(output, Label(position, (Segment((unit,), size),)))
        return True

    def _read(self, label: Label, position: int, layer: TracedLayer) -> None:
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
            axis, repeat = moved(name, args, kwargs, x, each, label.axis)
            if axis is None or label.opaque:
                self._keep(each, self._opaque(label.opaque or name, labelled, each))
            else:
                segments = tuple(replace(s, repeat=s.repeat * repeat) for s in label.segments)
                self._keep(each, Label(axis, segments))

    def _affine(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], label: Label, others: list[Tensor]
    ) -> Label:
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

    def _is_stream(self, other: Tensor, x: Tensor, label: Label) -> bool:
        """Whether `other`, added to units, is data with a number for each of them."""
        if self.view_of(other) is not None or other.dim() < -label.axis:
            return False
        return other.shape[label.axis] == x.shape[label.axis] > 1

    def _shared(self, labels: Sequence[Label]) -> Label:
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
            joined.append(Segment(tuple(units), segments[0].size, segments[0].repeat, normed=True))
        # A sum of one label with data is a stream, too: two names for one unit keep it from being one's own.
        for i, segment in enumerate(joined):
            if len(segment.units) == 1:
                joined[i] = replace(segment, units=segment.units * 2)
        return Label(labels[0].axis, tuple(joined))

    def _merged(self, name: str, labelled: list[Tensor], output: Tensor) -> Label:
        """Follow a function of several activations: a sum or product makes their coordinates shared."""
        labels = [self.label_of(t) for t in labelled]
        first = labels[0]
        sizes = {(label.axis, tuple((s.size, s.repeat) for s in label.segments)) for label in labels}
        alike = len(sizes) == 1 and output.dim() >= -first.axis
        fits = alike and output.shape[first.axis] == labelled[0].shape[first.axis]
        if not fits or name in JOINING or name in PRODUCTS or any(label.opaque for label in labels):
            return self._opaque(name, labelled, output)
        return self._shared(labels)

    def _concatenated(self, tensors: Sequence[Tensor], dim: int) -> Label | None:
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
                label.segments or (Segment((), t.shape[dim]),)
                for label, t in zip(labels, tensors, strict=True)
            ]
            return Label(place, tuple(segment for part in parts for segment in part))
        same = len(known) == len(labels) and len({label.segments for label in labels}) == 1
        return known[0] if same else None

    def _opaque(self, name: str, labelled: list[Tensor], output: Tensor) -> Label:
        units = tuple(dict.fromkeys(unit for t in labelled for unit in self.label_of(t).units))
        return Label(-1, (Segment(units, output.shape[-1] if output.dim() else 1),), opaque=name)


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]
