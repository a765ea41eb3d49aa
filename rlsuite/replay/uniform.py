"""Uniform replay: a ring of packed transitions, n-step returns at sampling time, chunks for checkpoints.

Transitions are stored time-major: with B envs, row t * B + b of the matrix is step t of env b, so the
successor of row i in its env is row i + B. n-step returns need no second copy and no state of their own.

Legend: B envs (of all seeds), S seeds, N batch, K rewards summed, W columns of the matrix, C capacity.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.blocks.noise import Source, generators_of
from rlsuite.replay.batch import Batch, unbind
from rlsuite.replay.packed import (
    FLAGS,
    LAYOUT,
    MATRIX,
    Layout,
    as_array,
    as_wide,
    layout_of,
    packed_chunk,
    read_columns,
)

CHUNK_ROWS = 65_536  # transitions of one checkpoint file; a full chunk is written once and linked afterwards
MEMORY_SHARE = 0.9  # of the free memory that a replay may claim
MAX_REDRAWS = 1_000  # of a batch, before the replay is given up
REDRAWS = 4  # of transitions that must not be sampled, on a device that is not waited for


class Chunk(NamedTuple):
    """A fixed range of rows: `version` grows whenever one of them is written."""

    name: str
    version: int
    rows: dict[str, Tensor]


class _Ahead(NamedTuple):
    """Constants of n-step sums, shaped for indices of a given number of axes."""

    offsets: Tensor  # from a row's first number to K rewards, K - 1 `done`, K - 1 successors' `valid`
    ages: Tensor  # rows written after a row, at least, for 1 .. K - 1 successors to be there
    order: Tensor  # 0 .. K - 1
    powers: Tensor  # gamma to these
    discounts: Tensor  # [K], gamma to 1 .. K


class NoValidRows(RuntimeError):
    """There is nothing to learn from: what the worlds gave was not finite."""


class UniformReplay:
    """Ring of transitions with uniform sampling.

    They lie in one float32 matrix `[capacity, W]` (`Layout`); numbers of another type are cast. With several
    seeds the envs come in S equal groups, one per seed, and a sample is `[S, N]`: each seed draws from the
    transitions of its own envs by its own random stream.

    Args:
        capacity: transitions of all seeds; rounded down to a multiple of `num_envs`.
        num_envs: envs per `extend`, B, of all seeds.
        batch_size: transitions per sample of each seed, N.
        n_step: rewards summed before the bootstrap, K >= 1.
        gamma: discount of the sum and of a `Batch`.
        device: where the transitions live.
        generator: draws the indices; one per seed makes S seeds.

    Raises:
        ValueError: the capacity holds less than one vector step or `n_step` steps, or the envs cannot be
            shared out among the seeds.
    """

    def __init__(
        self,
        capacity: int,
        *,
        num_envs: int,
        batch_size: int,
        n_step: int = 1,
        gamma: float = 0.99,
        device: torch.device | str = "cpu",
        generator: Source = None,
    ) -> None:
        self.generator = generator
        self.generators = generators_of(generator)
        self.seeds = max(1, len(self.generators))
        if num_envs % self.seeds:
            raise ValueError(f"{num_envs} envs cannot be shared out among {self.seeds} seeds")
        if capacity < num_envs * n_step:
            raise ValueError(
                f"replay capacity = {capacity} holds less than {n_step} steps of {num_envs} envs: raise it"
            )
        self.capacity = capacity - capacity % num_envs
        self.num_envs, self.batch_size, self.n_step, self.gamma = num_envs, batch_size, n_step, gamma
        self.device = torch.device(device)
        self.total = 0  # transitions ever written
        # On a device, where graphs read them: number of the newest transition, and of those of a seed.
        self._newest = torch.zeros((), dtype=torch.int64, device=device)
        self._stored = torch.ones((), dtype=torch.int64, device=device)
        self.preloaded = 0  # of these, recorded ones that came before any step
        self.invalid = 0  # transitions now stored that must not be sampled
        self.layout: Layout | None = None  # known with the first transition
        self._packed = torch.empty(0, 0)
        self._array: np.ndarray | None = None  # the same memory, where the host may write to it
        self._accepted: tuple[object, ...] = ()  # shapes and types of what was checked last
        self._ahead: dict[int, _Ahead] = {}
        envs = num_envs // self.seeds
        self._first_env = torch.arange(0, num_envs, envs, device=self.device).unsqueeze(-1)  # of each seed

    @property
    def packed(self) -> Tensor:
        """The ring itself, `[capacity, W]`; rows at and above `len(self)` are zeros."""
        if self.layout is None:
            raise ValueError("the replay is empty: nothing was stored in it yet")
        return self._packed

    @property
    def stored(self) -> TensorDict:
        """The ring with TorchRL's keys, `[capacity]`: views, but flags are copies of now, as bool."""
        packed = self.packed
        assert self.layout is not None
        return self.layout.table(packed)

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    @property
    def new_share(self) -> float | None:
        """The share of stored transitions, and so of batches, that is no recorded data; None without data."""
        if not self.preloaded:
            return None
        left = max(0, self.preloaded - (self.total - len(self)))
        return 1 - left / len(self)

    def bytes_needed(self, step: TensorDictBase) -> int:
        """Bytes of the full ring for transitions like those of `step` (`[B]`, with its "next")."""
        return self.capacity * layout_of(read_columns(step)).width * torch.float32.itemsize

    def check_memory(self, step: TensorDictBase, free_bytes: int) -> int:
        """Return the bytes of the full ring; raise MemoryError when they exceed 90 % of `free_bytes`."""
        needed = self.bytes_needed(step)
        if needed > MEMORY_SHARE * free_bytes:
            fitting = int(self.capacity * MEMORY_SHARE * free_bytes / needed)
            raise MemoryError(
                f"a replay of {self.capacity:,} rows needs {needed / 2**30:.2f} GiB, "
                f"{free_bytes / 2**30:.2f} GiB are free: lower --replay-size to {fitting:,} or less, "
                "run on a machine with more memory, or put the replay on another device"
            )
        return needed

    def extend(self, step: TensorDictBase) -> None:
        """Append the transitions of `step`, with TorchRL's keys: see `extend_arrays`."""
        self._extend(read_columns(step))

    def extend_arrays(
        self,
        observation: Tensor | np.ndarray,
        action: Tensor | np.ndarray,
        reward: Tensor | np.ndarray,
        next_observation: Tensor | np.ndarray,
        terminated: Tensor | np.ndarray,
        truncated: Tensor | np.ndarray,
        done: Tensor | np.ndarray,
        valid: Tensor | np.ndarray | None = None,
    ) -> None:
        """Append one vector step of all envs, or several, time-major.

        Args:
            observation: `[R, O]`; R is a multiple of the number of envs.
            action: `[R, A]`.
            reward: `[R]` or `[R, 1]`, as are the flags.
            next_observation: `[R, O]`, the true successor.
            terminated: the task ended.
            truncated: the episode was cut.
            done: either of them.
            valid: False keeps a transition out of every sample; None: all are valid.

        Raises:
            ValueError: a shape or a number of transitions that does not fit, or a type that float32 does not
                hold exactly (float64 is rounded).
        """
        self._extend((observation, action, next_observation, reward, terminated, truncated, done, valid))

    def _extend(self, columns: Sequence[Tensor | np.ndarray | None]) -> None:
        """Append columns in the order of `FLAT_NAMES`."""
        given = tuple([None if column is None else (column.shape, column.dtype) for column in columns])
        if given != self._accepted:
            self._accept(columns)
            self._accepted = given
        count, start = len(columns[0]), self.total % self.capacity  # type: ignore[arg-type]
        if count > (room := self.capacity - start):  # goes on at the ring's beginning
            for part in (slice(room), slice(room, None)):
                self._extend([None if column is None else column[part] for column in columns])
            return
        if self._array is None:
            self._write(self._packed[start : start + count], columns)
        else:
            self._write_on_host(self._array[start : start + count], columns)
        self._count(self.total + count)

    def _count(self, total: int) -> None:
        """Note how many transitions were ever written, on the device too where sampling reads it there."""
        self.total = total
        if not self._counts and total:
            self._newest.fill_(total - 1)
            self._stored.fill_(len(self) // self.seeds)

    def _accept(self, columns: Sequence[Tensor | np.ndarray | None]) -> None:
        """Check the columns of new transitions; the first ones say how wide the ring is."""
        layout = layout_of(columns)
        count = len(columns[0])  # type: ignore[arg-type]
        if not count or count % self.num_envs or count > self.capacity:
            raise ValueError(
                f"{count} transitions at once: a multiple of the {self.num_envs} envs, at most "
                f"{self.capacity:,}, was expected"
            )
        self._fit(layout)

    def _fit(self, layout: Layout) -> None:
        """Make the ring for a layout, or check that it is the ring's own."""
        if self.layout is None:
            # Zeros: a row that was never written is not valid, which ends n-step sums at the newest.
            self._packed = torch.zeros(self.capacity, layout.width, device=self.device)
            self._array = self._packed.numpy() if self._counts else None
            self.layout = layout
        elif layout != self.layout:
            raise ValueError(
                f"transitions of {layout.observation} observations and {layout.action} actions do not fit "
                f"those stored, of {self.layout.observation} and {self.layout.action}"
            )

    def _write_on_host(self, place: np.ndarray, columns: Sequence[Tensor | np.ndarray | None]) -> None:
        """Write one block of rows and count those that are not valid."""
        arrays = [as_array(column) for column in columns[:-1]]  # type: ignore[arg-type]
        valid = np.ones(len(place), np.bool_) if columns[-1] is None else as_array(columns[-1])
        arrays.append(valid)
        if self.invalid and self.total >= self.capacity:
            self.invalid -= int((place[:, -1] == 0).sum())
        if not valid.all():
            self.invalid += int((valid == 0).sum())
        wide = [array if array.ndim == 2 else array[:, None] for array in arrays]
        np.concatenate(wide, 1, out=place, casting="same_kind")

    def _write(self, place: Tensor, columns: Sequence[Tensor | np.ndarray | None]) -> None:
        """Write one block of rows on the device: types that are alike are joined first, for fewer kernels."""
        tensors = as_wide(
            [None if c is None else torch.as_tensor(c, device=self.device).detach() for c in columns]
        )
        first, flags = tensors[: -len(FLAGS)], tensors[-len(FLAGS) :]
        if flags[-1] is None:
            flags[-1] = torch.ones_like(flags[-2])  # type: ignore[arg-type]
        joined = torch.cat(flags, -1).to(place.dtype)  # type: ignore[arg-type]
        torch.cat([*first, joined], -1, out=place)  # type: ignore[list-item]

    def preload(self, rows: TensorDictBase) -> None:
        """Fill an empty ring with recorded transitions `[R]`, before any step; every seed gets all of them.

        Those that do not fill a vector step of all envs are left out.

        Raises:
            ValueError: the ring is not empty, too small, or sums several rewards, for which recorded
                transitions would have to be in the order of its envs.
        """
        envs = self.num_envs // self.seeds
        count = len(rows) // envs * envs
        if self.total or self.n_step != 1 or count * self.seeds > self.capacity:
            raise ValueError(
                f"{len(rows):,} recorded rows do not fit an empty one-step replay of "
                f"{self.capacity // self.seeds:,} rows a seed (it has {self.total:,}; steps: {self.n_step})"
            )
        columns = read_columns(rows[:count])
        layout = layout_of(columns)
        self._fit(layout)
        grid = self._packed[: count * self.seeds].view(-1, self.seeds, envs, layout.width)
        layout.write(
            grid,
            [None if column is None else column.unflatten(0, (-1, 1, envs)) for column in as_wide(columns)],
        )
        self.preloaded = count * self.seeds
        self._count(self.preloaded)
        self.invalid = self._count_invalid() if self._counts else 0

    def batch(self) -> Batch:
        """Draw one batch, `[N]` or `[S, N]`; the content of `sample`, as views of gathered rows."""
        return self._gather(self._draw_index(()))

    def batches(self, count: int) -> list[Batch]:
        """Draw `count` batches at once: as many calls of `batch`, in the time of hardly more than one.

        On the CPU they are those calls' batches to the bit, as long as every transition is valid.
        """
        return [self.batch()] if count == 1 else unbind(self._gather(self._draw_index((count,))))

    def sample(self) -> TensorDict:
        """Draw `[N]` transitions (`[S, N]`); with n-step, "next" is K steps ahead and "discount" is gamma^K.

        The sum stops at the end of an episode, before a transition that is not valid and at the newest; the
        bootstrap then starts there, unless that one terminated.
        """
        index = self._draw_index(())
        assert self.layout is not None
        table = self.layout.table(self._rows(index))
        if self.n_step > 1:
            reward, discount, last = self._sum(index)
            table.set("next", self.layout.table(torch.embedding(self._packed, last)).get("next"))
            table.set(("next", "reward"), reward.unsqueeze(-1))
            table.set("discount", discount.unsqueeze(-1))
        return table

    def no_rows(self, step: TensorDictBase) -> dict[str, Tensor]:
        """Return empty columns, as `chunk_columns` names them, of transitions like those of `step`, `[B]`."""
        layout = layout_of(read_columns(step))
        return layout.columns(torch.empty(0, layout.width))

    @property
    def _counts(self) -> bool:
        """Whether rows that must not be sampled are counted: asking a GPU for the count would stall it."""
        return self.device.type == "cpu"

    def _count_invalid(self) -> int:
        return int((self._packed[: len(self), -1] == 0).sum())

    def _draw_index(self, count: tuple[int, ...]) -> Tensor:
        """Draw places of valid rows, `[*count, N]` or `[*count, S, N]`."""
        if not self.total:
            raise RuntimeError("the replay is empty: store transitions before sampling")
        shape = (*count, self.batch_size)
        if not self._counts:
            return self._draw_on_device(shape)
        index = self._draw(shape)
        if self.invalid:
            parts = [index] if self.seeds == 1 else index.unbind(-2)
            parts = [self._draw_again(part, seed) for seed, part in enumerate(parts)]
            index = parts[0] if self.seeds == 1 else torch.stack(parts, -2)
        return index

    def _draw(self, shape: tuple[int, ...]) -> Tensor:
        """Draw places of every seed's rows, valid or not."""
        rows = [self._draw_rows(seed, shape) for seed in range(self.seeds)]
        return rows[0] if self.seeds == 1 else self._places(torch.stack(rows, -2), self._first_env)

    def _draw_on_device(self, shape: tuple[int, ...]) -> Tensor:
        """Draw places as `_draw`, several for each and the first valid one taken, by few launches.

        Nothing is read by the host and no count is a constant, so that a graph may replay it. The first
        seed's stream draws for all seeds: a launch for each would cost more than what they are for.
        """
        seeds = () if self.seeds == 1 else (self.seeds,)
        size = (1 + REDRAWS, *shape[:-1], *seeds, shape[-1])
        tries = torch.empty(size, dtype=torch.int64, device=self.device)
        generator = self.generators[0] if self.generators else None
        # The remainder of 63 random bits: off from uniform by one in a million million.
        tries = tries.random_(generator=generator).remainder_(self._stored)
        index = self._places(tries, self._first_env) if seeds else tries
        # A run ends long before so many rows are invalid that all tries are.
        first = self._packed.select(-1, -1)[index].argmax(0, keepdim=True)  # of equals, argmax is the first
        return index.gather(0, first).squeeze(0)

    def _draw_rows(self, seed: int, shape: tuple[int, ...]) -> Tensor:
        """Draw numbers of one seed's rows, which count its own envs alone."""
        generator = self.generators[seed] if self.generators else None
        return torch.randint(len(self) // self.seeds, shape, generator=generator, device=self.device)

    def _places(self, rows: Tensor, first_env: Tensor | int) -> Tensor:
        """Return where the rows of seeds whose envs begin at `first_env` lie in the ring."""
        envs = self.num_envs // self.seeds
        return torch.add(rows, rows // envs, alpha=self.num_envs - envs) + first_env

    def _valid(self, index: Tensor) -> Tensor:
        return self._packed[:, -1][index] != 0

    def _draw_again(self, index: Tensor, seed: int) -> Tensor:
        """Draw one seed's places again where they are not valid, until all are."""
        for _ in range(MAX_REDRAWS):
            valid = self._valid(index)
            if valid.all():
                return index
            rows = self._draw_rows(seed, tuple(index.shape))
            index = torch.where(valid, index, self._places(rows, seed * (self.num_envs // self.seeds)))
        raise NoValidRows("no row of the replay is valid, or hardly one: the worlds failed at every step")

    def _rows(self, index: Tensor) -> Tensor:
        """Gather rows, `[*index, W]`, as they are sampled."""
        return torch.embedding(self._packed, index)

    def _gather(self, index: Tensor) -> Batch:
        assert self.layout is not None
        packed = self._rows(index)
        if self.n_step == 1:
            return self.layout.batch(packed, self.gamma)
        reward, discount, last = self._sum(index)
        observation, action, *_ = self.layout.split(packed)
        end = self.layout.batch(torch.embedding(self._packed, last), self.gamma)
        return Batch(observation, action, reward, end.next_observation, end.terminated, discount)

    def _sum(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the n-step sum that begins at each place, its discount, and the place where it ends."""
        ahead = self._ahead.get(index.dim()) or self._constants(index.dim())
        packed, steps = self._packed, self.n_step
        # Addresses of single numbers in the matrix, which wraps around as the ring does.
        entries = torch.add(ahead.offsets, index, alpha=packed.shape[1]).remainder_(packed.numel())
        reward, done, valid = packed.take(entries).split((steps, steps - 1, steps - 1))
        goes_on = valid > done  # the successor is valid, and this is not the end
        # The newest rows are the last B written; what follows them in a full ring are the oldest.
        newest = self.total - 1 if self._counts else self._newest
        goes_on &= (newest - index).remainder_(self.capacity) >= ahead.ages
        more = goes_on.cumprod(0).sum(0)  # rewards after the first
        total = (reward.masked_fill_(ahead.order > more, 0.0).mul_(ahead.powers)).sum(0)
        last = torch.add(index, more, alpha=self.num_envs).remainder_(self.capacity)
        return total, ahead.discounts.take(more), last

    def _constants(self, axes: int) -> _Ahead:
        """Make and keep the constants of `_sum`."""
        assert self.layout is not None
        later = torch.arange(self.n_step, device=self.device)
        start = later * self.num_envs * self.layout.width
        offsets = (start + self.layout.reward, start[:-1] + self.layout.done, start[1:] + self.layout.valid)
        powers = (self.gamma ** torch.arange(self.n_step + 1, dtype=torch.float64)).float().to(self.device)

        def shaped(values: Tensor) -> Tensor:
            return values.view(-1, *(1,) * axes)

        ahead = _Ahead(
            shaped(torch.cat(offsets)),
            shaped(later[1:] * self.num_envs),
            shaped(later),
            shaped(powers[:-1]),
            powers[1:],
        )
        self._ahead[axes] = ahead
        return ahead

    def before_failures(self, length: int) -> dict[str, Tensor]:
        """Return what led to the newest transition that is not valid, for every env that has one: F of them.

        Returns:
            columns by flattened name, `[F, length, ...]`, oldest first, the last one the one that is not
            valid; "world", `[F]`; "rows", `[F]`: how many of the last are the env's own steps, which
            recorded ones that the ring began with are not; those before are zero.
        """
        packed = self.packed
        assert self.layout is not None
        steps = len(self) // self.num_envs
        oldest = self.total // self.num_envs - steps  # vector step that the ring goes back to
        order = (oldest + torch.arange(steps, device=self.device)) % max(1, steps)
        valid = packed[: len(self), -1].view(steps, self.num_envs)[order] != 0
        env = (~valid).any(0).nonzero().squeeze(-1)
        newest = steps - 1 - (~valid[:, env]).flip(0).int().argmax(0)  # argmax: the first of the flipped
        first = max(0, self.preloaded // self.num_envs - oldest)
        time = newest.unsqueeze(-1) + torch.arange(1 - length, 1, device=self.device)  # [F, length]
        place = order[time.clamp(min=0)] * self.num_envs + env.unsqueeze(-1)
        shown = packed[place].masked_fill_((time < first).unsqueeze(-1), 0.0)
        return {
            "world": env,
            "rows": (newest + 1 - first).clamp(max=length),
            **self.layout.columns(shown),
        }

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows below the cursor in fixed ranges, for the checkpoint."""
        for number, start in enumerate(range(0, len(self), CHUNK_ROWS)):
            stop = min(start + CHUNK_ROWS, len(self))
            assert self.layout is not None
            rows = {MATRIX: self._packed[start:stop], LAYOUT: self.layout.tensor}
            yield Chunk(f"chunk-{number:04d}", self._last_write(start, stop), rows)

    def _last_write(self, start: int, stop: int) -> int:
        """Rows written up to the newest write into [start, stop)."""
        newest = (self.total - 1) % self.capacity
        if start <= newest < stop:
            return self.total
        return self.total - (newest - (stop - 1)) % self.capacity

    def state_dict(self) -> dict[str, int]:
        """Counters; the rows themselves come from `chunks`."""
        invalid = self.invalid if self._counts else self._count_invalid()
        return {
            "total": self.total,
            "preloaded": self.preloaded,
            "invalid": invalid,
            "rows": len(self),
            "num_envs": self.num_envs,
        }

    def load(self, state: dict[str, int], chunks: Iterator[dict[str, Tensor]]) -> None:
        """Refill an empty ring from `state_dict` and the rows of `chunks`, in order.

        Raises:
            ValueError: the ring is not empty, was built for other sizes, or the rows do not add up.
        """
        if self.total:
            raise ValueError("only an empty replay can be loaded")
        for name, value in state.items():
            if type(value) is not int or value < 0:
                raise ValueError(f"the saved replay: {name} = {value!r:.40} is no count")
        if state["num_envs"] != self.num_envs or state["rows"] != min(state["total"], self.capacity):
            raise ValueError(
                f"the saved replay ({state['rows']} rows, {state['num_envs']} worlds) does not fit a ring of "
                f"{self.capacity} rows and {self.num_envs} worlds"
            )
        rows = 0
        for chunk in chunks:
            layout, packed = packed_chunk(chunk)
            rows += len(packed)
            if rows > self.capacity:
                break
            self._fit(layout)
            self._packed[rows - len(packed) : rows].copy_(packed)
        if rows != state["rows"]:
            raise ValueError(f"the saved replay has {rows} rows, its counters say {state['rows']}")
        self._count(state["total"])
        self.invalid = self._count_invalid() if self._counts else 0
        self.preloaded = state.get("preloaded", 0)  # runs of the first release do not say
