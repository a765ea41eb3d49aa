"""Batches of two sources: a fixed share of recorded transitions, and new ones from the ring.

Legend: N batch, S seeds, W columns of the matrix.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlsuite.replay.offline import OfflineReplay
from rlsuite.replay.packed import Layout
from rlsuite.replay.uniform import UniformReplay

RECORDED = "recorded_"  # before the names of the data's fingerprint, in the state


def recorded_of(share: float, batch_size: int) -> int:
    """Return how many rows of a batch are recorded ones.

    Raises:
        ValueError: a share above 0 of which not one row would come, or a share below 1 that leaves none new.
    """
    count = int(share * batch_size + 0.5)
    if (share > 0 and not count) or (share < 1 and count == batch_size):
        raise ValueError(
            f"offline_share = {share:g} of batch_size = {batch_size} rounds to {count} recorded rows: take a "
            "larger batch"
        )
    return count


def interleaved(recorded: int, batch_size: int) -> Tensor:
    """Return the order that spreads `recorded` rows evenly among `batch_size`, int64 `[N]`.

    Of rows that lie recorded ones first. Any stretch of a batch so has its share, to one row: whoever cuts a
    large batch into slices gets mixed ones (RLPD, Ball et al. 2023, arXiv 2302.02948).
    """
    place = torch.arange(batch_size + 1) * recorded
    before = -(-place // batch_size)  # recorded rows among the first 0, 1, .. N
    is_recorded = before[1:] > before[:-1]
    return torch.where(is_recorded, before[:-1], recorded + torch.arange(batch_size) - before[:-1])


class MixedReplay(UniformReplay):
    """A ring of new transitions whose batches have a fixed share of recorded ones, evenly spread among them.

    Only the ring is written and saved; of the data a checkpoint has the fingerprint. Recorded rows are drawn
    after the new ones, from the same stream; with a share of 0 nothing is drawn, and all is as without data.

    Args:
        capacity: of the ring, as in `UniformReplay`.
        recorded: the data; its batch size is the number of recorded rows in a batch.
        batch_size: transitions per sample of each seed, N, recorded ones among them.
        more: further arguments of `UniformReplay`.

    Raises:
        ValueError: n-step sums, which recorded transitions do not have.
    """

    def __init__(self, capacity: int, *, recorded: OfflineReplay, batch_size: int, **more: Any) -> None:
        super().__init__(capacity, batch_size=batch_size - recorded.batch_size, **more)
        if self.n_step != 1:
            raise ValueError(f"n_step = {self.n_step}: recorded transitions are single steps; use n_step = 1")
        self.recorded = recorded
        self._order = interleaved(recorded.batch_size, batch_size).to(self.device)

    @property
    def new_share(self) -> float | None:
        """The share of every batch that is new."""
        return self.batch_size / (self.batch_size + self.recorded.batch_size)

    def _fit(self, layout: Layout) -> None:
        theirs = self.recorded.packed[0]
        if layout != theirs:
            raise ValueError(
                f"recorded transitions of {theirs.observation} observations and {theirs.action} actions do "
                f"not fit new ones, of {layout.observation} and {layout.action}"
            )
        super()._fit(layout)

    def _rows(self, index: Tensor) -> Tensor:
        """Gather new rows at `index` `[*count, N - k]`, and k recorded ones, `[*count, N, W]`."""
        new = super()._rows(index)
        if not self.recorded.batch_size:
            return new
        count = tuple(index.shape[: -1 if self.seeds == 1 else -2])
        old = torch.embedding(self.recorded.packed[1], self.recorded.draw(count))
        return torch.cat((old, new), -2).index_select(-2, self._order)

    def state_dict(self) -> dict[str, int]:
        """Counters of the ring, and the fingerprint of the data."""
        marks = {f"{RECORDED}{name}": value for name, value in self.recorded.state_dict().items()}
        return super().state_dict() | marks

    def load(self, state: dict[str, int], chunks: Iterator[dict[str, Tensor]]) -> None:
        """Refill an empty ring; see `UniformReplay`.

        Raises:
            ValueError: also where the run began with other data.
        """
        marks = {
            name.removeprefix(RECORDED): value for name, value in state.items() if name.startswith(RECORDED)
        }
        self.recorded.load(marks, iter(()))
        super().load({name: value for name, value in state.items() if not name.startswith(RECORDED)}, chunks)
