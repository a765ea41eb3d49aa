"""Follow the units of a network through one forward pass, for `tracing.py`.

A `TorchFunctionMode` sees every torch function of the pass. Each activation carries a label: which units lie
on which of its axes. Products with a parameter read units and make new ones; functions that are known to keep
units pass labels on (`moves.py`); sums of two labels are residual streams. Through every other function a
label becomes opaque: harmless at the end of a network, an error where another layer reads it.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rlsuite.plugins.neurons.labels import (
    CONCATENATING,
    CONVOLUTIONS,
    LEAVING,
    NORMS,
    ON_LAST,
    PRODUCTS,
    SHOWING,
    SOURCES,
    TRANSPOSED,
    Label,
    Segment,
    TracedLayer,
    Unit,
    View,
    einsum_axes,
    shown,
)
from rlsuite.plugins.neurons.moves import ADDING, CONSTANT, ELEMENTWISE, MOVING, SCALING, canonical, places

Columns = tuple[int, int, tuple[Unit, ...]]  # from, to, and whose units lie there


class Trace(TorchFunctionMode):
    """Carries labels through one forward pass."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
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
        self.reads: dict[str, list[Columns]] = {}  # of every layer
        self.problems: list[str] = []
        self.unusable: dict[str, str] = {}  # weight -> why
        held = [args, list(module.buffers()), [list(vars(part).values()) for part in module.modules()]]
        self.alive += [leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor)]
        self.made = {id(tensor) for tensor in self.alive}  # given, or returned by a function that was seen

    @property
    def units(self) -> list[Unit]:
        """Every record of units, in the order of their layers' first calls."""
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
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # a property, such as Tensor.mT
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        if name == "__iter__":
            rows = self.__torch_function__(Tensor.unbind, types, args)
            return iter(rows)
        result = func(*args, **kwargs)
        written = args[:1] if name == "__setitem__" else result
        outputs = [leaf for leaf in tree_leaves(written) if isinstance(leaf, Tensor)]
        if outputs:
            self._note(func, name, args, kwargs, outputs)
        elif name in LEAVING and self.label_of(args[0]).segments:
            self._refuse(f"activations leave torch by {name}()")
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

    def _refuse(self, problem: str, units: Sequence[Unit] = ()) -> None:
        """Note what cannot be followed, and whose units can therefore not be reset."""
        if problem not in self.problems:
            self.problems.append(problem)
        for unit in units:
            self.unusable.setdefault(unit.layer.name, problem)

    def _is_strange(self, tensor: Tensor) -> bool:
        """Whether no function that was seen has made a tensor, as scripted and foreign code does."""
        return not (id(tensor) in self.made or id(tensor) in self.labels or self.view_of(tensor))

    def _note(
        self,
        func: Callable[..., Any],
        called: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: list[Tensor],
    ) -> None:
        """Say what the results of one function are."""
        name, in_place = canonical(called)
        if in_place and name not in ELEMENTWISE:
            name = called  # no function by its name: the operands are not what they were
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.alive += [*tensors, *outputs]
        if not tensors or not all(self._is_strange(t) for t in tensors):
            self.made |= {id(output) for output in outputs}
        before = [self.label_of(output) for output in outputs]
        if self._product(name, args, kwargs, outputs[0]):
            return
        views = {id(t): (t, view) for t in tensors if (view := self.view_of(t)) is not None}
        labelled = [t for t in tensors if id(t) in self.labels]
        matrices = [view.name for _, view in views.values() if len(self.shapes[view.name]) > 1]
        known = name in ELEMENTWISE | MOVING | CONCATENATING | SOURCES
        if labelled and name not in CONSTANT:
            reshaped = matrices and outputs[0].shape != labelled[0].shape and name not in CONCATENATING
            if views and (not known or reshaped):
                units = [unit for t in labelled for unit in self.label_of(t).units]
                used = ", ".join(view.name for _, view in views.values())
                self._refuse(f"{name} uses {used} in a way that is not followed", units)
            self._flow(
                func, name, args, kwargs, labelled, [t for t in tensors if id(t) not in self.labels], outputs
            )
        elif views and not labelled and name not in SOURCES:
            if matrices and not known and any(id(t) not in views for t in tensors):
                self._refuse(f"{name} uses {', '.join(matrices)} in a way that is not followed")
            for output in outputs:
                if self.view_of(output) is None or len(tensors) > 1:
                    source, view = next(iter(views.values()))
                    if len(tensors) > 1:
                        view = replace(view, lost=view.lost or name)
                    self.views[id(output)] = shown(view, name, args, source, output, self.shapes[view.name])
        for output, old in zip(outputs, before, strict=True):
            if any(output is t for t in tensors) and self.label_of(output) != old:
                self._overwritten(name, output)

    def _overwritten(self, name: str, written: Tensor) -> None:
        """Whatever shows the memory of a tensor that was written to holds other units from here on."""
        memory = written.untyped_storage()._cdata
        for tensor in {id(t): t for t in self.alive}.values():
            if tensor is not written and tensor.untyped_storage()._cdata == memory:
                self._keep(tensor, self._opaque(name, [tensor, written], tensor))

    def _product(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> bool:
        """Follow a layer: units are read, others made. Return whether `name` was such a function."""
        bias: Any = None
        turned = name in TRANSPOSED
        spatial = TRANSPOSED.get(name, CONVOLUTIONS.get(name, 0))
        if name == "linear" or spatial:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            x, weight, bias = given["input"], given["weight"], given.get("bias")
            out_axis, in_axis = (-1 - spatial, -2 - spatial) if turned else (-2 - spatial, -1 - spatial)
            groups = kwargs.get("groups", args[6] if len(args) > 6 else 1) if spatial else 1
        elif name in PRODUCTS and len(args) > PRODUCTS[name] + 1:
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
        if view is None or len(self.shapes[view.name]) < 2:
            return False  # a product of activations, or with a constant: opaque
        added = self.view_of(bias)
        if view.lost:
            self._refuse(f"{name} uses {view.name} after {view.lost}, which is not followed", label.units)
            return False
        if isinstance(bias, Tensor) and (added is None or not self._is_bias(bias, added)):
            units = (*label.units, *self.label_of(bias).units)
            self._refuse(f"{name} adds to {view.name} what is no parameter", units)
            return False
        if view.swapped:
            out_axis, in_axis = in_axis, out_axis
        known = self.shapes[view.name]
        if any(weight.shape[axis] != known[new] for axis, new in zip(seen, (out_axis, in_axis), strict=True)):
            self._refuse(f"{name} uses {view.name} in another shape", label.units)
            return False
        layer = TracedLayer(view.name, out_axis, in_axis)
        unit = self.by_name.setdefault(view.name, Unit(layer, None if added is None else added.name))
        if unit.layer != layer:
            self._refuse(f"{view.name} is used as it is and turned", (*label.units, unit))
            return False
        if groups != 1:
            self._refuse(f"{view.name} is a convolution in {groups} groups", (*label.units, unit))
        else:
            if len(self.by_name) > 1 and self._is_strange(x):
                self._refuse(f"{view.name} reads what no torch function of the pass has made")
            self._read(label, -1 - spatial, layer)
        self._keep(output, Label(-1 - spatial, (Segment((unit,), known[out_axis]),)))
        return True

    def _is_bias(self, bias: Tensor, view: View) -> bool:
        """Whether a view of a parameter has all its numbers with its last axis, the units, where it was."""
        whole = bias.numel() == self.shapes[view.name].numel() and bias.dim() > 0
        whole = whole and bias.shape[-1] == self.shapes[view.name][-1]
        return not view.lost or (view.lost in SHOWING - {"__getitem__"} and whole)

    def _read(self, label: Label, position: int, layer: TracedLayer) -> None:
        """Note that `layer` reads the units of `label`."""
        start = 0
        columns: list[Columns] = []
        for segment in label.segments:
            columns.append((start, start + segment.size * segment.repeat, segment.units))
            for unit in segment.units:
                unit.read = True
            if label.opaque or label.axis != position:
                how = label.opaque or "an axis that it does not read"
                names = ", ".join(unit.layer.name for unit in segment.units)
                self._refuse(f"{layer.name} reads {names} through {how}", segment.units)
            elif len(segment.units) == 1:
                (unit,) = segment.units
                seen = self.inputs.get(_owner(layer.name)) == label.segments
                module = _owner(layer.name) if seen else None
                unit.readers.setdefault((layer.name, start, segment.repeat), (layer, module))
                if not unit.shared:
                    unit.gains, unit.shifts = segment.gains, segment.shifts
            start += segment.size * segment.repeat
        if label.segments and not label.opaque and start != self.shapes[layer.name][layer.in_axis]:
            self._refuse(
                f"{layer.name} has another number of columns than the {start} units before it", label.units
            )
        # A layer that is called again on other units, or on data, has columns that belong to both.
        columns = columns or [(0, self.shapes[layer.name][layer.in_axis], ())]
        for one, other in itertools.product(columns, self.reads.setdefault(layer.name, [])):
            if one != other and one[0] < other[1] and other[0] < one[1]:
                for unit in (*one[2], *other[2]):
                    unit.shared = True
        self.reads[layer.name] += columns

    def _flow(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        labelled: list[Tensor],
        others: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        """Carry labels through a function that is no layer."""
        if name in CONCATENATING:
            tensors = args[0] if args else kwargs["tensors"]
            dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
            joined = self._concatenated(tensors, dim)
            self._keep(outputs[0], joined or self._opaque(name, labelled, outputs[0]))
            return
        known = [t for t in labelled if not self._is_statistic(t, name, labelled)]
        x, labels = known[0], {self.label_of(t) for t in known}
        label = self.label_of(x)
        if opaque := next((each.opaque for each in labels if each.opaque), ""):
            for output in outputs:
                self._keep(output, self._opaque(opaque, labelled, output))
            return
        if len(labels) > 1:
            for output in outputs:
                self._keep(output, self._merged(name, labelled, output))
            return
        if len(known) < len(labelled):  # a norm, written out
            label = replace(label, segments=tuple(replace(s, normed=True) for s in label.segments))
        axes = {id(t): label.axis for t in known}
        found = places(func, name, args, kwargs, axes, x, outputs)
        if any(found):
            label = self._affine(name, args, kwargs, x, label, others)
            if name in ADDING and any(self._is_stream(t, x, label) for t in others):
                label = self._shared([label])
        for output, place in zip(outputs, found, strict=True):
            if place is None:
                self._keep(output, self._opaque(name, labelled, output))
            else:
                segments = tuple(replace(s, repeat=s.repeat * place[1]) for s in label.segments)
                self._keep(output, Label(place[0], segments))

    def _affine(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        x: Tensor,
        label: Label,
        others: list[Tensor],
    ) -> Label:
        """Note the parameters that scale and shift single units: norms, and biases that are added."""
        if len(label.segments) != 1 or len(label.segments[0].units) != 1:
            return label
        (segment,) = label.segments
        (unit,) = segment.units

        def of(value: Any, axis: int = label.axis) -> tuple[str, ...]:
            """Name a parameter that has a number for each unit."""
            view = self.view_of(value)
            if view is None or view.lost or self.shapes[view.name].numel() % segment.size:
                return ()
            fits = value.dim() >= -axis and value.shape[axis] == x.shape[label.axis]
            return (view.name,) if fits else ()

        gains: tuple[str, ...] = ()
        shifts: tuple[str, ...] = ()
        if name in NORMS:
            places = dict(zip(("weight", "bias"), NORMS[name], strict=True))
            found = [kwargs.get(key, args[at] if len(args) > at else None) for key, at in places.items()]
            if label.axis == (-1 if name in ON_LAST else 1 - x.dim()):
                gains, shifts = of(found[0], -1), of(found[1], -1)
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

    def _is_statistic(self, tensor: Tensor, name: str, labelled: list[Tensor]) -> bool:
        """Whether a tensor is one number for all units of another operand, made of these: their mean, say."""
        made_of = set(self.label_of(tensor).units)
        if name not in ELEMENTWISE or not self.label_of(tensor).opaque:
            return False
        for other in labelled:
            label = self.label_of(other)
            if not label.opaque and made_of <= set(label.units) and other.shape[label.axis] > 1:
                return tensor.dim() < -label.axis or tensor.shape[label.axis] == 1
        return False

    def _is_stream(self, other: Tensor, x: Tensor, label: Label) -> bool:
        """Whether `other`, added to units, is data with a number for each of them."""
        view = self.view_of(other)
        if (view is not None and not view.lost) or other.dim() < -label.axis or other.dtype == torch.bool:
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
        if not fits or name not in ELEMENTWISE:
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
    """Name the module that holds a parameter."""
    return parameter.rpartition(".")[0]
