"""Transitions as rows of one float32 matrix: which column is what, writing rows and viewing them.

float32 holds flags, bytes and 16-bit integers exactly; wider integers are refused, float64 is rounded.

Legend: R transitions, O observation, A action, W columns of the matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.replay.batch import Batch

MATRIX, LAYOUT = "packed", "layout"  # what a checkpoint calls the matrix and the widths of its columns
FLAGS = ("terminated", "truncated", "done", "valid")  # the last columns, in this order
FLAT_NAMES = (
    "observation",
    "action",
    "next/observation",
    "next/reward",
    "next/terminated",
    "next/truncated",
    "next/done",
    "valid",
)
"""All columns in their order, as checkpoints of earlier releases and tools name them."""
FITTING = frozenset({"bool", "uint8", "int8", "int16", "uint16", "float16", "float32", "float64"})


@dataclass(frozen=True)
class Layout:
    """Says which columns of a packed matrix are what: observation, action, next observation, reward, flags.

    Reward and flags are neighbours, so that an n-step sum touches one cache line of a transition.

    Attributes:
        observation: width O.
        action: width A.
    """

    observation: int
    action: int

    @cached_property
    def width(self) -> int:
        """Number of columns, W."""
        return 2 * self.observation + self.action + 1 + len(FLAGS)

    @cached_property
    def reward(self) -> int:
        """Column of the reward."""
        return self.width - 1 - len(FLAGS)

    @cached_property
    def done(self) -> int:
        """Column of `done`."""
        return self.width - 2

    @cached_property
    def valid(self) -> int:
        """Column that is 0 where the transition must not be learned from."""
        return self.width - 1

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Widths of observation, action, next observation, reward, terminated and the other flags."""
        return (self.observation, self.action, self.observation, 1, 1, len(FLAGS) - 1)

    @cached_property
    def tensor(self) -> Tensor:
        """The widths as a checkpoint holds them, int64 `[2]`."""
        return torch.tensor([self.observation, self.action])

    def widths(self) -> tuple[int, ...]:
        """Widths of the columns of `FLAT_NAMES`."""
        return (self.observation, self.action, self.observation, 1, *(1 for _ in FLAGS))

    def split(self, packed: Tensor) -> Sequence[Tensor]:
        """View packed transitions `[..., W]` as the parts of `sizes`."""
        return torch.split_with_sizes(packed, self.sizes, -1)  # `Tensor.split`, at half its price

    def batch(self, packed: Tensor, gamma: float) -> Batch:
        """View packed transitions `[..., W]` as a one-step batch."""
        observation, action, next_observation, reward, terminated, _ = self.split(packed)
        return Batch(
            observation, action, reward.select(-1, 0), next_observation, terminated.select(-1, 0), gamma
        )

    def columns(self, packed: Tensor) -> dict[str, Tensor]:
        """Return the columns of packed transitions `[..., W]` by `FLAT_NAMES`: views, and flags as bool."""
        columns = packed.split((*self.widths()[: -len(FLAGS)], len(FLAGS)), -1)
        flags = (columns[-1] != 0).split(1, -1)
        return dict(zip(FLAT_NAMES, (*columns[:-1], *flags), strict=True))

    def table(self, packed: Tensor) -> TensorDict:
        """Return packed transitions `[..., W]` as a TensorDict with TorchRL's keys; see `columns`."""
        columns, shape = self.columns(packed), packed.shape[:-1]
        next_td = {
            key: columns.pop(f"next/{key}")
            for key in ("observation", "reward", "terminated", "truncated", "done")
        }
        return TensorDict({**columns, "next": TensorDict(next_td, shape)}, shape)

    def write(self, packed: Tensor, columns: Sequence[Tensor | None]) -> None:
        """Write columns `[..., width]` in the order of `FLAT_NAMES` into `packed` `[..., W]`; None is 1.

        Axes of length 1 are repeated.
        """
        for part, column in zip(packed.split(self.widths(), -1), columns, strict=True):
            if column is None:
                part.fill_(1.0)
            else:
                part.copy_(column)


def read_columns(td: TensorDictBase) -> list[Any]:
    """Return the columns of a TensorDict with TorchRL's keys in the order of `FLAT_NAMES`.

    What is missing is None.

    Raises:
        ValueError: there is no "next".
    """
    next_td = td.get("next", None)
    if next_td is None:
        raise ValueError(f'a transition needs a "next"; there are only {sorted(map(str, td.keys()))}')
    return [
        td.get("observation", None),
        td.get("action", None),
        next_td.get("observation", None),
        next_td.get("reward", None),
        next_td.get("terminated", None),
        next_td.get("truncated", None),
        next_td.get("done", None),
        next_td.get("valid", None),
    ]


def layout_of(columns: Sequence[Any]) -> Layout:
    """Return the layout that fits columns `[R, ...]` of tensors or arrays, in the order of `FLAT_NAMES`.

    Rewards and flags may be `[R]` or `[R, 1]`; `valid` may be None.

    Raises:
        ValueError: a column is missing, its shape does not fit, or float32 does not hold its type.
    """
    missing = [name for name, column in zip(FLAT_NAMES[:-1], columns, strict=False) if column is None]
    if missing:
        raise ValueError(f"transitions without {', '.join(missing)} cannot be stored")
    observation, action = columns[:2]
    for name, column in zip(FLAT_NAMES[:2], (observation, action), strict=True):
        if column.ndim != 2 or not column.shape[1]:
            raise ValueError(
                f"{name} has shape {list(column.shape)}: transitions are stored flat, "
                "[transitions, numbers of each]"
            )
    layout = Layout(observation.shape[1], action.shape[1])
    count = len(observation)
    for name, width, column in zip(FLAT_NAMES, layout.widths(), columns, strict=True):
        if column is None:
            continue
        shape, dtype = tuple(column.shape), str(column.dtype).removeprefix("torch.")
        flat = name in ("observation", "action", "next/observation")
        if shape != (count, width) and (flat or shape != (count,)):
            raise ValueError(f"{name} has shape {list(shape)}; [{count}, {width}] was expected")
        if dtype not in FITTING:
            raise ValueError(
                f"{name} is {dtype}, which the replay's float32 does not hold exactly: hand out float32, "
                "or integers of at most 16 bits"
            )
    return layout


def pack(td: TensorDictBase) -> tuple[Layout, Tensor]:
    """Copy transitions `[R]` with TorchRL's keys into a new matrix `[R, W]` on their device.

    Raises:
        ValueError: see `layout_of`.
    """
    columns = read_columns(td)
    layout = layout_of(columns)
    packed = torch.empty(len(td), layout.width, device=columns[0].device)
    layout.write(packed, as_wide(columns))
    return layout, packed


def as_wide(columns: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Give rewards and flags `[R]` their last axis."""
    return [column if column is None or column.dim() > 1 else column.unsqueeze(-1) for column in columns]


def chunk_columns(chunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the columns of a checkpoint's chunk by `FLAT_NAMES`, of this release or an earlier one.

    Numbers are float32, flags bool. What lies in an earlier release's chunk beyond that is kept as it is.

    Raises:
        ValueError: a packed chunk is not what its layout says, or has flags other than 0 and 1.
    """
    if MATRIX not in chunk:
        return {
            name: column.float() if column.dtype == torch.float64 else column
            for name, column in chunk.items()
        }
    layout, packed = packed_chunk(chunk)
    return layout.columns(packed)


def packed_chunk(chunk: Mapping[str, Tensor]) -> tuple[Layout, Tensor]:
    """Return the layout and the matrix `[R, W]` of a checkpoint's chunk, both checked.

    Raises:
        ValueError: see `chunk_columns`; KeyError where a column of an earlier release's chunk is missing.
    """
    if MATRIX not in chunk:
        columns = [chunk[name] for name in FLAT_NAMES]
        layout = layout_of(columns)
        packed = torch.empty(len(columns[0]), layout.width)
        layout.write(packed, as_wide(columns))
        return layout, packed
    packed, widths = chunk[MATRIX], chunk.get(LAYOUT)
    if set(chunk) != {MATRIX, LAYOUT} or widths is None or widths.dtype != torch.int64:
        raise ValueError(f"a packed chunk has {MATRIX} and {LAYOUT} (int64), not {sorted(chunk)[:4]}")
    sizes = widths.tolist() if tuple(widths.shape) == (2,) else []
    layout = Layout(*sizes) if sizes and min(sizes) > 0 else Layout(0, 0)
    if not layout.action or packed.dtype != torch.float32 or tuple(packed.shape[1:]) != (layout.width,):
        raise ValueError(
            f"a packed chunk is {list(packed.shape)} {packed.dtype}, its layout says {widths.tolist()!s:.40}"
        )
    flags = packed[:, -len(FLAGS) :]
    if not bool(((flags == 0) | (flags == 1)).all()):
        raise ValueError("a packed chunk has flags other than 0 and 1")
    return layout, packed


def as_array(column: Tensor | np.ndarray) -> np.ndarray:
    """Return a tensor as an array, without a copy where it lies in the host's memory."""
    return column if isinstance(column, np.ndarray) else column.numpy(force=True)
