"""Tables of what torch functions that are no layers do to labels.

`AFFINE`: what scales or shifts single units by parameters. `FLOWS`: what joins activations in another way
than number by number. Whatever is in neither keeps labels where `moves.places` says.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlsuite.plugins.neurons.labels import CONCATENATING, NORMS, ON_LAST, Label, Segment
from rlsuite.plugins.neurons.ledger import Call, Ledger, opaque
from rlsuite.plugins.neurons.moves import ADDING, ELEMENTWISE, SCALING, places

Affine = Callable[[Ledger, Call, Tensor, Label], Segment]


def flow(ledger: Ledger, call: Call) -> None:
    """Carry labels through a function of activations that is no layer."""
    FLOWS.get(call.name, _number_by_number)(ledger, call)


def _number_by_number(ledger: Ledger, call: Call) -> None:
    labelled = ledger.labelled(call)
    known = [t for t in labelled if not _is_statistic(ledger, t, call.name, labelled)]
    labels = {ledger.label_of(t) for t in known}
    if how := next((label.opaque for label in labels if label.opaque), ""):
        ledger.lose(how, call)
    elif len(labels) > 1:
        _merge(ledger, call)
    else:
        label = ledger.label_of(known[0])
        if len(known) < len(labelled):  # a norm, written out
            label = replace(label, segments=tuple(replace(s, normed=True) for s in label.segments))
        _pass_on(ledger, call, known, label)


def _pass_on(ledger: Ledger, call: Call, known: Sequence[Tensor], label: Label) -> None:
    """Give the results the label that all `known` operands have, where it lies now."""
    x, axes = known[0], {id(t): label.axis for t in known}
    to = places(call.func, call.name, call.args, call.kwargs, axes, x, call.outputs)
    if any(to):
        handler = AFFINE.get(call.name)
        if handler is not None and len(label.segments) == 1 and len(label.segments[0].units) == 1:
            label = replace(label, segments=(handler(ledger, call, x, label),))
        if call.name in ADDING and any(_is_stream(ledger, t, x, label) for t in ledger.others(call)):
            label = _shared([(label, x)])
    for output, place in zip(call.outputs, to, strict=True):
        if place is None:
            labels = [ledger.label_of(t) for t in ledger.labelled(call)]
            ledger.keep(output, opaque(call.name, labels, output))
        else:
            segments = tuple(replace(s, repeat=s.repeat * place[1]) for s in label.segments)
            ledger.keep(output, Label(place[0], segments))


def _per_unit(ledger: Ledger, value: Any, x: Tensor, label: Label, axis: int) -> tuple[str, ...]:
    """Name a parameter that has a number for each unit of the only segment, else nothing."""
    view = ledger.view_of(value)
    if view is None or view.lost or ledger.shapes[view.name].numel() % label.segments[0].size:
        return ()
    fits = value.dim() >= -axis and value.shape[axis] == x.shape[label.axis]
    return (view.name,) if fits else ()


def _norm(ledger: Ledger, call: Call, x: Tensor, label: Label) -> Segment:
    segment = replace(label.segments[0], normed=True)
    if label.axis != (-1 if call.name in ON_LAST else 1 - x.dim()):
        return segment
    positions = zip(("weight", "bias"), NORMS[call.name], strict=True)
    values = [call.kwargs.get(key, call.args[at] if len(call.args) > at else None) for key, at in positions]
    gains, shifts = (_per_unit(ledger, value, x, label, -1) for value in values)
    return segment.moved_by(gains, shifts)


def _addcmul(ledger: Ledger, call: Call, x: Tensor, label: Label) -> Segment:
    shift, *gains = (_per_unit(ledger, value, x, label, label.axis) for value in call.args[:3])
    return label.segments[0].moved_by(tuple(itertools.chain(*gains)), shift)


def _scale(ledger: Ledger, call: Call, x: Tensor, label: Label) -> Segment:
    gains = [_per_unit(ledger, value, x, label, label.axis) for value in ledger.others(call)]
    return label.segments[0].moved_by(tuple(itertools.chain(*gains)), ())


def _add(ledger: Ledger, call: Call, x: Tensor, label: Label) -> Segment:
    (segment,) = label.segments
    (unit,) = segment.units
    each = [_per_unit(ledger, value, x, label, label.axis) for value in ledger.others(call)]
    shifts = tuple(itertools.chain(*each))
    if shifts and unit.bias is None and not (segment.normed or segment.gains):
        unit.bias, shifts = shifts[0], ()
    return segment.moved_by((), shifts)


AFFINE: dict[str, Affine] = {
    **dict.fromkeys(ADDING, _add),
    **dict.fromkeys(SCALING, _scale),
    **dict.fromkeys(NORMS, _norm),
    "addcmul": _addcmul,
}


def _is_statistic(ledger: Ledger, tensor: Tensor, name: str, labelled: Sequence[Tensor]) -> bool:
    """Return whether a tensor is a statistic (such as the mean) of all units of another operand."""
    made_of = set(ledger.label_of(tensor).units)
    if name not in ELEMENTWISE or not ledger.label_of(tensor).opaque:
        return False
    for other in labelled:
        label = ledger.label_of(other)
        if not label.opaque and made_of <= set(label.units) and other.shape[label.axis] > 1:
            return tensor.dim() < -label.axis or tensor.shape[label.axis] == 1
    return False


def _is_stream(ledger: Ledger, other: Tensor, x: Tensor, label: Label) -> bool:
    """Return whether `other`, added to units, is data with a number for each of them."""
    view = ledger.view_of(other)
    if (view is not None and not view.lost) or other.dim() < -label.axis or other.dtype == torch.bool:
        return False
    return other.shape[label.axis] == x.shape[label.axis] > 1


def _merge(ledger: Ledger, call: Call) -> None:
    """Follow a function of several activations: a sum or product makes their coordinates shared."""
    labelled = ledger.labelled(call)
    labels = [ledger.label_of(t) for t in labelled]
    axis = labels[0].axis
    sizes = {(label.axis, tuple((s.size, s.repeat) for s in label.segments)) for label in labels}
    alike = len(sizes) == 1 and call.name in ELEMENTWISE
    for output in call.outputs:
        if alike and output.dim() >= -axis and output.shape[axis] == labelled[0].shape[axis]:
            ledger.keep(output, _shared(list(zip(labels, labelled, strict=True))))
        else:
            ledger.keep(output, opaque(call.name, labels, output))


def _shared(summands: Sequence[tuple[Label, Tensor]]) -> Label:
    """Join labels that are added: from here on their coordinates belong to all of them."""
    for label, tensor in summands:
        for segment in label.segments:
            if len(segment.units) == 1 and not segment.units[0].shared:
                (unit,) = segment.units
                unit.shared, unit.gains, unit.shifts = True, segment.gains, segment.shifts
                unit.added = id(tensor) if label.is_made_by(unit) else None
    labels = [label for label, _ in summands]
    joined = []
    for segments in zip(*(label.segments for label in labels), strict=True):
        units = tuple(dict.fromkeys(unit for segment in segments for unit in segment.units))
        # A sum of one label with data is a stream, too: two names for one unit keep it from being alone.
        units = units * 2 if len(units) == 1 else units
        joined.append(Segment(units, segments[0].size, segments[0].repeat, normed=True))
    return Label(labels[0].axis, tuple(joined))


def _concatenate(ledger: Ledger, call: Call) -> None:
    """Lay the units of several activations side by side."""
    tensors = call.args[0] if call.args else call.kwargs["tensors"]
    at = call.args[1] if len(call.args) > 1 else 0
    label = _side_by_side(ledger, tensors, call.kwargs.get("dim", call.kwargs.get("axis", at)))
    if label is None:
        ledger.lose(call.name, call)
    else:
        ledger.keep(call.outputs[0], label)


def _side_by_side(ledger: Ledger, tensors: Sequence[Tensor], dim: int) -> Label | None:
    labels = [ledger.label_of(t) for t in tensors]
    known = [label for label in labels if label.segments]
    if any(label.opaque or label.axis != known[0].axis for label in known):
        return None
    axis = (dim % tensors[0].dim()) - tensors[0].dim()
    if axis == known[0].axis:
        parts = zip(labels, tensors, strict=True)
        segments = (label.segments or (Segment((), t.shape[dim]),) for label, t in parts)
        return Label(axis, tuple(itertools.chain(*segments)))
    same = len(known) == len(labels) and len({label.segments for label in labels}) == 1
    return known[0] if same else None


FLOWS: dict[str, Callable[[Ledger, Call], None]] = dict.fromkeys(CONCATENATING, _concatenate)
