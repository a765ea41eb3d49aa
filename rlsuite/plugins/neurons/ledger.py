"""State of a traced pass: what activations carry, what parameters are called, what was lost."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rlsuite.plugins.neurons.labels import Label, Segment, Unit, View, shown


class Call(NamedTuple):
    """One torch function of the pass, by its canonical name; `tensors` are its operands."""

    func: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: list[Tensor]
    outputs: list[Tensor]


class Ledger:
    """Labels and views by the identity of tensors, all of which are kept alive.

    Args:
        module: whose parameters are known by name.
        args: what the pass begins with.
    """

    def __init__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.names = {id(p): name for name, p in module.named_parameters(remove_duplicate=True)}
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.views: dict[int, View] = {}
        self.labels: dict[int, Label] = {}
        self.problems: list[str] = []
        self.unusable: dict[str, str] = {}  # weight -> why
        held = [args, list(module.buffers()), [list(vars(part).values()) for part in module.modules()]]
        # A freed tensor's id would be given to another one.
        self.alive: list[Tensor] = [leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor)]
        self.made = {id(tensor) for tensor in self.alive}  # given, or returned by a function that was seen

    def label_of(self, value: Any) -> Label:
        """Return the label of a tensor; an empty one for everything else."""
        return self.labels.get(id(value), Label(-1, ()))

    def view_of(self, value: Any) -> View | None:
        """Return which parameter a tensor is, or shows."""
        if id(value) in self.names:
            return View(self.names[id(value)])
        return self.views.get(id(value))

    def labelled(self, call: Call) -> list[Tensor]:
        """Return the operands that carry units."""
        return [t for t in call.tensors if id(t) in self.labels]

    def others(self, call: Call) -> list[Tensor]:
        """Return the operands that carry none."""
        return [t for t in call.tensors if id(t) not in self.labels]

    def viewed(self, call: Call) -> dict[int, tuple[Tensor, View]]:
        """Return the operands that are parameters or show them, each once."""
        return {id(t): (t, view) for t in call.tensors if (view := self.view_of(t)) is not None}

    def matrices(self, views: dict[int, tuple[Tensor, View]]) -> list[str]:
        """Name those parameters that are more than vectors."""
        return [view.name for _, view in views.values() if len(self.shapes[view.name]) > 1]

    def keep(self, tensor: Tensor, label: Label) -> None:
        """Note what a tensor carries."""
        self.labels[id(tensor)] = label
        self.alive.append(tensor)

    def lose(self, how: str, call: Call) -> None:
        """Make all results of a function opaque."""
        labels = [self.label_of(t) for t in self.labelled(call)]
        for output in call.outputs:
            self.keep(output, opaque(how, labels, output))

    def refuse(self, problem: str, units: Sequence[Unit] = ()) -> None:
        """Note what cannot be followed, and whose units can therefore not be reset."""
        if problem not in self.problems:
            self.problems.append(problem)
        for unit in units:
            self.unusable.setdefault(unit.layer.name, problem)

    def is_strange(self, tensor: Tensor) -> bool:
        """Return whether no function that was seen has made a tensor, as scripted and foreign code does."""
        return not (id(tensor) in self.made or id(tensor) in self.labels or self.view_of(tensor))

    def show(self, call: Call) -> None:
        """Follow the parameters among the operands to what shows them now."""
        several = len(call.tensors) > 1
        for output in call.outputs:
            if self.view_of(output) is None or several:
                source, view = next(iter(self.viewed(call).values()))
                if several:
                    view = replace(view, lost=view.lost or call.name)
                shape = self.shapes[view.name]
                self.views[id(output)] = shown(view, call.name, call.args, source, output, shape)

    def overwritten(self, name: str, written: Tensor) -> None:
        """Views of a tensor that was written in place lose their labels."""
        memory = written.untyped_storage()._cdata
        for tensor in {id(t): t for t in self.alive}.values():
            if tensor is not written and tensor.untyped_storage()._cdata == memory:
                self.keep(tensor, opaque(name, [self.label_of(tensor), self.label_of(written)], tensor))


def opaque(how: str, labels: Sequence[Label], output: Tensor) -> Label:
    """Return a label that says whose units are lost in `output`, and by what."""
    units = tuple(dict.fromkeys(unit for label in labels for unit in label.units))
    return Label(-1, (Segment(units, output.shape[-1] if output.dim() else 1),), opaque=how)
