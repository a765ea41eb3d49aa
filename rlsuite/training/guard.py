"""Stopping a run whose losses are no longer numbers, without asking the device at every update.

Our agents skip an optimiser step whose gradients are not finite (`rlsuite.agents.steps.take_step`), so that
the weights stay finite; the guard here notices that it happened, keeps the first batch it happened on, and
at its next reading writes `dump/` and stops the run.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlsuite.errors import NumericalError
from rlsuite.runs.files import DISK, FileLayer
from rlsuite.runs.metrics import finite
from rlsuite.runs.tensorfile import tensor_bytes

logger = logging.getLogger(__name__)

DUMP_FOLDER = "dump"
READ_EVERY = 256  # updates between readings by the loop: each waits for the device


@dataclass(frozen=True, slots=True)
class _Latch:
    """Device memory for the first offending update of one layout of metrics and batch."""

    names: dict[str, int]  # metrics in their order, with how many numbers each has
    values: Tensor  # all metrics, flat
    batch: dict[str, Tensor]
    update: Tensor  # number of the update


class LearnerGuard:
    """Watches the metrics of every update; `check` never waits for the device, `read` does."""

    def __init__(self, folder: Path, *, fs: FileLayer = DISK) -> None:
        """Write a dump, should one be needed, into `folder / "dump"` (or `dump-1`, ... if that exists)."""
        self._folder = folder
        self._fs = fs
        self._bad: Tensor | None = None
        self._latches: dict[tuple[Any, ...], _Latch] = {}

    def check(
        self,
        metrics: Mapping[str, Tensor],
        batch: Mapping[Any, Tensor] | TensorDictBase,
        update: int | Tensor,
    ) -> None:
        """Note whether any number in `metrics` is not finite and keep the first batch where one was.

        Args:
            metrics: losses and norms of one update, any shapes, on one device.
            batch: the rows it was computed from: a mapping, or a TensorDict.
            update: number of this gradient update; a tensor `[1]` where a graph counts them.
        """
        if not metrics:
            return
        values = torch.cat([metric.detach().reshape(-1) for metric in metrics.values()])
        bad = ~torch.isfinite(values).all()
        if self._bad is None:
            self._bad = torch.zeros_like(bad)
        if bad.is_cpu and not bad:  # on the CPU asking costs nothing and saves the copies below
            return
        leaves = batch.items(True, True) if isinstance(batch, TensorDictBase) else batch.items()
        tensors = {key if isinstance(key, str) else ".".join(key): tensor for key, tensor in leaves}
        # The host knows shapes, so this key costs no wait; agents with delayed updates have two layouts.
        names = {name: metric.numel() for name, metric in metrics.items()}
        layout = (*names.items(), *((name, tensor.shape) for name, tensor in tensors.items()))
        if layout not in self._latches:
            empty = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
            self._latches[layout] = _Latch(
                names, torch.zeros_like(values), empty, values.new_zeros(1, dtype=torch.int64)
            )
        latch = self._latches[layout]
        first = bad & ~self._bad
        torch.where(first, values, latch.values, out=latch.values)
        for name, tensor in tensors.items():
            torch.where(first, tensor, latch.batch[name], out=latch.batch[name])
        number = update if isinstance(update, Tensor) else torch.full_like(latch.update, update)
        torch.where(first, number, latch.update, out=latch.update)
        self._bad |= bad

    def tensors(self) -> dict[str, Tensor]:
        """Return the device memory of what was noted, for whoever makes updates that shall leave no trace."""
        memory = {} if self._bad is None else {"bad": self._bad}
        for number, latch in enumerate(self._latches.values()):
            memory |= {f"{number}.{name}": tensor for name, tensor in latch.batch.items()}
            memory |= {f"{number}.values": latch.values, f"{number}.update": latch.update}
        return memory

    def read(
        self,
        *,
        norms: Callable[[], Mapping[str, Any]] = dict,
        tensors: Callable[[], Mapping[str, Mapping[str, Tensor]]] = dict,
    ) -> None:
        """Wait for the device; if an update since the start was bad, write the dump and stop the run.

        Args:
            norms: called only for a dump: the norm of each part of the agent, by name.
            tensors: called only for a dump: states that help to reproduce the loss, one file each.

        Raises:
            NumericalError: with the place of the dump and the metrics that were not finite.
        """
        if self._bad is None or not bool(self._bad):
            return
        latch = next(kept for kept in self._latches.values() if not torch.isfinite(kept.values).all())
        pieces = dict(zip(latch.names, latch.values.split(list(latch.names.values())), strict=True))
        culprits = [name for name, piece in pieces.items() if not torch.isfinite(piece).all()]
        report = {
            "update": int(latch.update),
            "metrics": {name: [str(number) for number in piece.tolist()] for name, piece in pieces.items()},
            "part_norms": {name: finite(norm) for name, norm in norms().items()},
        }
        place = write_dump(self._folder, report, {"batch": latch.batch, **tensors()}, self._fs)
        raise NumericalError(
            f"not finite at update {int(latch.update)}: {', '.join(culprits)}; {place}. "
            "Try a smaller learning rate, or go on from the last checkpoint with `rlsuite resume`"
        )


def write_dump(
    run_folder: Path,
    report: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    fs: FileLayer = DISK,
) -> str:
    """Write what a numerical failure leaves behind into a new `dump*` folder; return words that name it.

    Args:
        run_folder: where `dump/` goes (`dump-1/`, ... where that exists).
        report: JSON values, as `metrics.json`.
        tensors: states by name; each becomes `<name>.safetensors`.
    """
    folder, count = run_folder / DUMP_FOLDER, 0
    while folder.exists():
        count += 1
        folder = run_folder / f"{DUMP_FOLDER}-{count}"
    try:
        fs.make_folder(folder)
        fs.write(folder / "metrics.json", json.dumps(report, indent=1).encode())
        for name, part in tensors.items():
            fs.write(folder / f"{name}.safetensors", tensor_bytes(part))
    except OSError as error:  # the run stops all the same: a dump is help, not the cause
        return f"no dump, {folder} could not be written ({error.strerror or error})"
    return f"the dump is in {folder}"
