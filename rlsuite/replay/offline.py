"""A read-only replay of recorded episodes: uniform sampling with replacement, and windows inside episodes.

Legend: N batch, S seeds, E episodes, W windows.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from rlsuite.blocks.noise import Source
from rlsuite.replay.batch import Batch, unbind
from rlsuite.replay.packed import Layout, pack
from rlsuite.replay.uniform import Chunk

FURTHER = {"next_action": ("next", "action"), "returns": "return", "expert": "expert"}
"""Fields of a `Batch` that only some agents ask for, and the keys of their columns."""


class OfflineReplay:
    """Uniform samples of transitions that never change.

    Transitions have the keys of `UniformReplay` (docs/design.md, section 3), and those of `FURTHER` where an
    agent asked for them: these come with every sample, too. Those of one episode are
    neighbours in time order, and the last transition of every episode is `done`. The replay has no
    state of its own: the generators belong to whoever made them.

    Args:
        rows: TensorDict `[rows]`.
        episodes: int64 `[E, 2]`, first transition of each episode and the transition after its last.
        batch_size: transitions per sample, N.
        gamma: discount of a `Batch`; only `batch` and `batches` need it.
        generator: draws the indices; a tuple of S generators gives batches `[S, N]`, those of each seed
            as if its generator were the only one. On the device of the transitions.

    Raises:
        ValueError: there are no transitions, or the episodes do not cover them in order.
    """

    def __init__(
        self,
        rows: TensorDict,
        episodes: Tensor,
        *,
        batch_size: int,
        gamma: float | None = None,
        generator: Source = None,
    ) -> None:
        edges = episodes.flatten().tolist()
        covers = len(edges) > 0 and edges[0] == 0 and edges[-1] == len(rows) and edges[1:-1:2] == edges[2::2]
        if not len(rows) or not covers:
            raise ValueError(f"{len(episodes)} episodes do not cover {len(rows)} rows in order")
        self.rows, self.episodes = rows, episodes
        self.batch_size, self.gamma, self.generator = batch_size, gamma, generator

    @cached_property
    def packed(self) -> tuple[Layout, Tensor]:
        """The transitions side by side in one float32 matrix, `[rows, W]`, and which columns are what.

        Made from `rows` when the first transition is sampled; windows do without.
        """
        layout, packed = pack(self.rows)
        further = [self.rows[FURTHER[name]].float() for name in self.further]
        return layout, torch.cat([packed, *further], -1) if further else packed

    @cached_property
    def further(self) -> dict[str, int]:
        """Fields of a batch that these transitions have beside the usual ones, and their widths."""
        keys = set(self.rows.keys(include_nested=True))
        return {name: self.rows[key].shape[-1] for name, key in FURTHER.items() if key in keys}

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self) -> TensorDict:
        """Draw transitions uniformly, with replacement: `[N]`, or `[S, N]` for a tuple of generators."""
        layout, packed = self.packed
        gathered = torch.embedding(packed, self.draw())
        if not self.further:
            return layout.table(gathered)
        usual, *further = gathered.split((layout.width, *self.further.values()), -1)
        table = layout.table(usual)
        for name, column in zip(self.further, further, strict=True):
            table[FURTHER[name]] = column
        return table

    def batch(self) -> Batch:
        """Draw one batch: the content of `sample`, as views of gathered transitions."""
        return self._gather(self.draw())

    def batches(self, count: int) -> list[Batch]:
        """Draw `count` batches at once: on the CPU those of as many calls of `batch`, to the bit."""
        return [self.batch()] if count == 1 else unbind(self._gather(self.draw((count,))))

    def _gather(self, index: Tensor) -> Batch:
        if self.gamma is None:
            raise ValueError("this replay was made without a discount: pass gamma to OfflineReplay")
        layout, packed = self.packed
        gathered = torch.embedding(packed, index)
        if not self.further:
            return layout.batch(gathered, self.gamma)
        usual, *further = gathered.split((layout.width, *self.further.values()), -1)
        columns = {
            name: column if name == "next_action" else column.squeeze(-1)
            for name, column in zip(self.further, further, strict=True)
        }
        return layout.batch(usual, self.gamma)._replace(**columns)

    def draw(self, count: tuple[int, ...] = ()) -> Tensor:
        """Draw numbers below the replay's length uniformly, with replacement.

        Returns:
            `[*count, N]`, or `[*count, S, N]` for a tuple of generators.
        """
        return self._any(len(self), count)

    def _any(self, limit: int, count: tuple[int, ...]) -> Tensor:
        """Draw whole numbers below `limit`, of the shapes of `draw`."""
        device, shape = self.episodes.device, (*count, self.batch_size)

        def draw(generator: torch.Generator | None) -> Tensor:
            return torch.randint(limit, shape, generator=generator, device=device)

        if isinstance(self.generator, tuple):
            return torch.stack([draw(generator) for generator in self.generator], -2)
        return draw(self.generator)

    def state_dict(self) -> dict[str, int]:
        """Return a fingerprint of the data: counts and the bits of a checksum of rewards and actions."""
        seen = self.rows["observation"][:, 0].double()
        said = self.rows["next", "reward"][:, 0].double() + self.rows["action"].double().sum(-1)
        checksum = said.sum() + (seen * said).sum()
        return {
            "rows": len(self),
            "episodes": len(self.episodes),
            "checksum": int(checksum.reshape(1).view(torch.int64)),
        }

    def chunks(self) -> Iterator[Chunk]:
        """Yield nothing: the transitions are in the data set, not in checkpoints."""
        return iter(())

    def load(self, state: dict[str, int], chunks: Iterator[dict[str, Tensor]]) -> None:
        """Check that a run that goes on has the data it began with.

        Raises:
            ValueError: the data are others.
        """
        mine = self.state_dict()
        if state != mine:
            raise ValueError(f"the run began with other data: then {state}, now {mine}")


class DemonstrationReplay(OfflineReplay):
    """Batches of two data sets: the first half of each has other transitions, the second demonstrations.

    `rows` have a column "expert", False for the transitions that come first and True for all that follow;
    arguments as for `OfflineReplay`.

    Raises:
        ValueError: one of both kinds is missing, or they are not in that order, or N is below 2.
    """

    def __init__(self, rows: TensorDict, *fields: Any, **named: Any) -> None:
        super().__init__(rows, *fields, **named)
        expert = rows["expert"].squeeze(-1)
        others = len(rows) - int(expert.sum())
        if not 0 < others < len(rows) or expert[:others].any() or self.batch_size < 2:
            raise ValueError(
                f"{others} transitions must be followed by demonstrations, of which {len(rows) - others} are "
                f"here, and a batch of {self.batch_size} must hold both"
            )
        demonstrations = self.batch_size - self.batch_size // 2
        first = [0] * (self.batch_size // 2) + [others] * demonstrations
        counts = [others] * (self.batch_size // 2) + [len(rows) - others] * demonstrations
        device = self.episodes.device
        self._first, self._counts = torch.tensor(first, device=device), torch.tensor(counts, device=device)

    def draw(self, count: tuple[int, ...] = ()) -> Tensor:
        """Draw as `OfflineReplay.draw` does, the first half from the others, the rest from demonstrations.

        Remainders of 62-bit numbers are uniform to one part in 10^12.
        """
        return self._first + self._any(2**62, count) % self._counts


def window_starts(segments: Tensor, horizon: int, stride: int = 1) -> Tensor:
    """Return the first transitions `[W]` of all windows of `horizon` transitions that lie inside one segment.

    A window starting at s has its states in `observation` of transitions s .. s + horizon - 1 and its last
    successor in ("next", "observation") of transition s + horizon - 1: H + 1 states for H actions.

    Args:
        segments: int64 `[E, 2]`, episodes or what `split_where` made of them.
        horizon: transitions per window, at least 1.
        stride: transitions between the starts of neighbouring windows of a segment.
    """
    counts = (segments[:, 1] - segments[:, 0] - horizon).div(stride, rounding_mode="floor") + 1
    counts = counts.clamp(min=0)
    first = torch.repeat_interleave(segments[:, 0], counts)
    before = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return first + stride * (torch.arange(len(first), device=segments.device) - before)


def split_where(segments: Tensor, column: Tensor) -> Tensor:
    """Split segments `[E, 2]` wherever `column` `[rows, width]` (a goal) changes within an episode."""
    changed = torch.zeros(len(column) + 1, dtype=torch.bool, device=column.device)
    changed[1:-1] = (column[1:] != column[:-1]).any(-1)
    inside = torch.zeros_like(changed, dtype=torch.int32)
    inside.index_add_(0, segments[:, 0], torch.ones_like(segments[:, 0], dtype=torch.int32))
    inside.index_add_(0, segments[:, 1], -torch.ones_like(segments[:, 1], dtype=torch.int32))
    changed &= inside.cumsum(0) > 0
    cuts = changed.nonzero().squeeze(-1)
    first = torch.cat([segments[:, 0], cuts]).unique()
    last = torch.cat([segments[:, 1], cuts]).unique()
    return torch.stack([first, last], -1)
