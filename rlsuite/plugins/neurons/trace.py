"""Follow the units of a network through one forward pass, for `tracing.py`.

A `TorchFunctionMode` sees every torch function of the pass. Each activation carries a label: which units lie
on which of its axes. Products with a parameter (`products.py`) read units and make new ones; functions that
are known to keep units pass labels on (`moves.py`, `flows.py`); sums of two labels are residual streams.
Through every other function a label becomes opaque: harmless at the end of a network, an error where another
layer reads it.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rlsuite.plugins.neurons.flows import flow
from rlsuite.plugins.neurons.labels import (
    CONCATENATING,
    LEAVING,
    SHOWING,
    SOURCES,
    Label,
    Segment,
    TracedLayer,
    Unit,
    View,
)
from rlsuite.plugins.neurons.ledger import Call, Ledger
from rlsuite.plugins.neurons.moves import CONSTANT, ELEMENTWISE, MOVING, canonical
from rlsuite.plugins.neurons.products import Product, product

Columns = tuple[int, int, tuple[Unit, ...]]  # from, to, and whose units lie there
KEEPING = ELEMENTWISE | MOVING | CONCATENATING | SOURCES  # whose parameters are known not to mix units


class Passing(NamedTuple):
    """A tensor that went into or came out of a submodule: `side` is "input" or "output"."""

    module: str
    side: str
    tensor: int


class Trace(TorchFunctionMode):
    """Carries labels through one forward pass."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.module = module
        self.ledger = Ledger(module, args)
        self.by_name: dict[str, Unit] = {}
        self.inputs: dict[str, tuple[Segment, ...]] = {}
        self.passed: list[Passing] = []
        self.reads: dict[str, list[Columns]] = {}  # of every layer

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
            self.inputs[name] = self.ledger.label_of(args[0]).segments if len(args) == 1 else ()
            if len(args) == 1:
                self._passes(name, "input", args[0])

        return note

    def _leaving(self, name: str) -> Callable[..., None]:
        def note(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._passes(name, "output", output)
            for unit in self.ledger.label_of(output).units:
                if unit.module is None and _owner(unit.layer.name) == name:
                    unit.module = name

        return note

    def _passes(self, module: str, side: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.ledger.alive.append(value)
            self.passed.append(Passing(module, side, id(value)))

    def seen_at(self, unit: Unit) -> Passing | None:
        """Return where what a unit adds to a stream can be seen in later passes, or None.

        A module that is called on other units, too, such as an activation that many layers share, is no such
        place: the last call would be seen.
        """
        for place in reversed(self.passed):
            calls = [p.tensor for p in self.passed if (p.module, p.side) == (place.module, place.side)]
            if place.tensor == unit.added and len({self._units_on(tensor) for tensor in calls}) == 1:
                return place
        return None

    def _units_on(self, tensor: int) -> tuple[Unit, ...]:
        return self.ledger.labels[tensor].units if tensor in self.ledger.labels else ()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "__get__":  # a property, such as Tensor.mT
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        if name == "__iter__":
            return iter(self.__torch_function__(Tensor.unbind, types, args))
        result = func(*args, **kwargs)
        written = args[:1] if name == "__setitem__" else result
        outputs = [leaf for leaf in tree_leaves(written) if isinstance(leaf, Tensor)]
        if outputs:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            core, in_place = canonical(name)
            if in_place and core not in ELEMENTWISE:
                core = name  # no function by its name: the operands are not what they were
            self._note(Call(func, core, args, kwargs, tensors, outputs))
        elif name in LEAVING and self.ledger.label_of(args[0]).segments:
            self.ledger.refuse(f"activations leave torch by {name}()")
        return result

    def _note(self, call: Call) -> None:
        """Say what the results of one function are."""
        ledger = self.ledger
        ledger.alive += [*call.tensors, *call.outputs]
        if not call.tensors or not all(ledger.is_strange(t) for t in call.tensors):
            ledger.made |= {id(output) for output in call.outputs}
        before = [ledger.label_of(output) for output in call.outputs]
        if self._layer(call):
            return
        labelled = bool(ledger.labelled(call))
        if labelled and call.name not in CONSTANT:
            self._check_parameters(call)
            flow(ledger, call)
        elif not labelled and call.name not in SOURCES and ledger.viewed(call):
            self._check_alone(call)
            ledger.show(call)
        for output, label in zip(call.outputs, before, strict=True):
            if any(output is t for t in call.tensors) and ledger.label_of(output) != label:
                ledger.overwritten(call.name, output)

    def _check_parameters(self, call: Call) -> None:
        """Refuse a function of activations and parameters that may mix units."""
        views, labelled = self.ledger.viewed(call), self.ledger.labelled(call)
        reshaped = call.outputs[0].shape != labelled[0].shape and call.name not in CONCATENATING
        if views and (call.name not in KEEPING or (reshaped and self.ledger.matrices(views))):
            units = [unit for t in labelled for unit in self.ledger.label_of(t).units]
            used = ", ".join(view.name for _, view in views.values())
            self.ledger.refuse(f"{call.name} uses {used} in a way that is not followed", units)

    def _check_alone(self, call: Call) -> None:
        """Refuse a function of parameters and data that may be a layer."""
        views = self.ledger.viewed(call)
        matrices = self.ledger.matrices(views)
        if matrices and call.name not in KEEPING and any(id(t) not in views for t in call.tensors):
            self.ledger.refuse(f"{call.name} uses {', '.join(matrices)} in a way that is not followed")

    def _layer(self, call: Call) -> bool:
        """Follow a layer: units are read, others made. Return whether the function was one."""
        made = product(call.name, call.args, call.kwargs)
        view = None if made is None else self.ledger.view_of(made.weight)
        if made is None or view is None or len(self.ledger.shapes[view.name]) < 2:
            return False  # no product, one of activations, or with a constant: opaque
        label, bias = self.ledger.label_of(made.x), self.ledger.view_of(made.bias)
        out_axis, in_axis = made.out_axis, made.in_axis
        if view.swapped:
            out_axis, in_axis = in_axis, out_axis
        problem = self._unreadable(call.name, made, view, (out_axis, in_axis))
        if problem:
            self.ledger.refuse(problem, (*label.units, *self.ledger.label_of(made.bias).units))
            return False
        layer = TracedLayer(view.name, out_axis, in_axis)
        unit = self.by_name.setdefault(view.name, Unit(layer, None if bias is None else bias.name))
        if unit.layer != layer:
            self.ledger.refuse(f"{view.name} is used as it is and turned", (*label.units, unit))
            return False
        if made.groups != 1:
            self.ledger.refuse(f"{view.name} is a convolution in {made.groups} groups", (*label.units, unit))
        else:
            if len(self.by_name) > 1 and self.ledger.is_strange(made.x):
                self.ledger.refuse(f"{view.name} reads what no torch function of the pass has made")
            self._read(label, -1 - made.spatial, layer)
        segment = Segment((unit,), self.ledger.shapes[view.name][out_axis])
        self.ledger.keep(call.outputs[0], Label(-1 - made.spatial, (segment,)))
        return True

    def _unreadable(self, name: str, made: Product, view: View, axes: tuple[int, int]) -> str:
        """Say why a weight or bias is not what a layer of known axes has; empty where it is."""
        if view.lost:
            return f"{name} uses {view.name} after {view.lost}, which is not followed"
        if isinstance(made.bias, Tensor) and not self._is_bias(made.bias):
            return f"{name} adds to {view.name} what is no parameter"
        shape = self.ledger.shapes[view.name]
        given = [made.weight.shape[axis] for axis in (made.out_axis, made.in_axis)]
        return "" if given == [shape[axis] for axis in axes] else f"{name} uses {view.name} in another shape"

    def _is_bias(self, bias: Tensor) -> bool:
        """Return whether a tensor is a parameter, or a view of all of it with the units' axis still last."""
        view = self.ledger.view_of(bias)
        if view is None:
            return False
        shape = self.ledger.shapes[view.name]
        whole = bias.numel() == shape.numel() and bias.dim() > 0 and bias.shape[-1] == shape[-1]
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
                self.ledger.refuse(f"{layer.name} reads {names} through {how}", segment.units)
            elif len(segment.units) == 1:
                self._read_segment(segment, start, label, layer)
            start += segment.size * segment.repeat
        if label.segments and not label.opaque and start != self.ledger.shapes[layer.name][layer.in_axis]:
            self.ledger.refuse(
                f"{layer.name} has another number of columns than the {start} units before it", label.units
            )
        # A layer that is called again on other units, or on data, has columns that belong to both.
        columns = columns or [(0, self.ledger.shapes[layer.name][layer.in_axis], ())]
        for new, old in itertools.product(columns, self.reads.setdefault(layer.name, [])):
            if new != old and new[0] < old[1] and old[0] < new[1]:
                for unit in (*new[2], *old[2]):
                    unit.shared = True
        self.reads[layer.name] += columns

    def _read_segment(self, segment: Segment, start: int, label: Label, layer: TracedLayer) -> None:
        """Note that `layer` reads a unit's record from column `start` on."""
        (unit,) = segment.units
        alone = self.inputs.get(_owner(layer.name)) == label.segments
        module = _owner(layer.name) if alone else None
        unit.readers.setdefault((layer.name, start, segment.repeat), (layer, module))
        if not unit.shared:
            unit.gains, unit.shifts = segment.gains, segment.shifts


def _owner(parameter: str) -> str:
    """Name the module that holds a parameter."""
    return parameter.rpartition(".")[0]
