"""Uniform replay on TorchRL's buffer: raw rows, n-step returns at sampling time, chunks for checkpoints.

Rows are stored time-major: with B worlds, row t * B + b is step t of world b, so the successor of row i in
its world is row i + B. n-step returns need no second copy and no state of their own.

Legend: B worlds (of all seeds), S seeds, N batch, K rewards summed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.data.replay_buffers.samplers import RandomSampler

from rlsuite.blocks.noise import Source, generators_of

CHUNK_ROWS = 65_536  # rows of one checkpoint file; a full chunk is written once and linked afterwards
MEMORY_SHARE = 0.9  # of the free memory that a replay may claim
COLUMNS = ("observation", "action")
MAX_REDRAWS = 1_000  # of a batch, before the replay is given up
REDRAWS = 4  # of rows that must not be sampled, on a device that must not be waited for
NEXT_COLUMNS = ("observation", "reward", "terminated", "truncated", "done")


class Chunk(NamedTuple):
    """A fixed range of rows: `version` grows whenever one of them is written."""

    name: str
    version: int
    rows: dict[str, Tensor]


class UniformReplay:
    """Ring of transitions with uniform sampling.

    With several seeds the worlds come in S equal groups, one per seed, and a sample is `[S, N]`: each seed
    draws from the rows of its own worlds by its own random stream.

    Args:
        capacity: rows of all seeds; rounded down to a multiple of `num_envs`.
        num_envs: worlds per `extend`, B, of all seeds.
        batch_size: rows per sample of each seed, N.
        n_step: rewards summed before the bootstrap, K >= 1.
        gamma: discount of the sum; read with `n_step` > 1 only.
        device: where the rows live.
        generator: draws the indices; one per seed makes S seeds.

    Raises:
        ValueError: the capacity holds less than one vector step or `n_step` steps, or the worlds cannot be
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
        self.generators = generators_of(generator)
        self.seeds = max(1, len(self.generators))
        if num_envs % self.seeds:
            raise ValueError(f"{num_envs} worlds cannot be shared out among {self.seeds} seeds")
        if capacity < num_envs * n_step:
            raise ValueError(
                f"replay capacity = {capacity} holds less than {n_step} steps of {num_envs} worlds: raise it"
            )
        self.capacity = capacity - capacity % num_envs
        self.num_envs, self.batch_size, self.n_step, self.gamma = num_envs, batch_size, n_step, gamma
        self.device = torch.device(device)
        self.total = 0  # rows ever written
        self.preloaded = 0  # of these, recorded ones that came before any step
        self.invalid = 0  # rows now stored that must not be sampled
        self._columns: dict[tuple[str, ...], Tensor] = {}  # of the storage, once it exists
        self.buffer = ReplayBuffer(
            storage=LazyTensorStorage(self.capacity, device=self.device),
            sampler=RandomSampler(),
            batch_size=batch_size,
            generator=self.generators[0] if self.generators else None,
        )

    @property
    def stored(self) -> TensorDict:
        """The ring itself, `[capacity]` rows; those at and above `len(self)` are not written yet."""
        return self.buffer.storage._storage

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def bytes_needed(self, step: TensorDictBase) -> int:
        """Bytes of the full ring for rows like those of `step` (`[B]`, with its "next")."""
        row = self._row(step)[:1]
        return self.capacity * sum(leaf.numel() * leaf.element_size() for leaf in row.values(True, True))

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
        """Append one vector step, `[B]` rows with their "next".

        Rows with ("next", "valid") False are kept out of every sample. TorchRL's `extend` makes the storage
        at the first step; later rows are written into its columns directly: about a sixth.
        """
        if not self._columns:
            self.buffer.extend(self._row(step))
            self._columns = {_path(key): column for key, column in self.stored.items(True, True)}
            self.total = len(step)
            self.invalid = self._count_invalid() if self._counts else 0
            return
        start = self.total % self.capacity
        place = slice(start, start + self.num_envs)
        valid = step.get(("next", "valid"), None)
        if self._counts:
            if self.invalid and self.total >= self.capacity:
                self.invalid -= int((~self._columns["valid",][place]).sum())
            if valid is not None and not bool(valid.all()):
                self.invalid += int((~valid).sum())
        for key, column in self._columns.items():
            if key != ("valid",):
                column[place] = step.get(key)
        self._columns["valid",][place] = True if valid is None else valid
        self.total += self.num_envs
        self._tell_buffer()

    def preload(self, rows: TensorDictBase) -> None:
        """Fill an empty ring with recorded rows `[R]`, before any step; every seed gets all of them.

        Rows that do not fill a vector step of all worlds are left out.

        Raises:
            ValueError: the ring is not empty, too small, or sums several rewards, for which recorded rows
                would have to be in the order of its worlds.
        """
        worlds = self.num_envs // self.seeds
        count = len(rows) // worlds * worlds
        if self.total or self.n_step != 1 or count * self.seeds > self.capacity:
            raise ValueError(
                f"{len(rows):,} recorded rows do not fit an empty one-step replay of "
                f"{self.capacity // self.seeds:,} rows a seed (it has {self.total:,}; steps: {self.n_step})"
            )

        def for_every_seed(column: Tensor) -> Tensor:
            grid = column.unflatten(0, (-1, 1, worlds)).expand(-1, self.seeds, worlds, *column.shape[1:])
            return grid.reshape(-1, *column.shape[1:])

        own = self._row(rows[:count])
        self.buffer.extend(own.apply(for_every_seed, batch_size=[count * self.seeds]))
        self._columns = {_path(key): column for key, column in self.stored.items(True, True)}
        self.total = self.preloaded = count * self.seeds
        self._tell_buffer()

    def _tell_buffer(self) -> None:
        """Let TorchRL's buffer know how many rows there are and where the next one goes."""
        self.buffer.storage._len = len(self)
        self.buffer._writer._cursor = self.total % self.capacity

    def sample(self) -> TensorDict:
        """Draw `[N]` rows (`[S, N]`); with n-step, "next" is K steps ahead and "discount" is gamma^K.

        The sum stops at the end of an episode, before a row that is not valid and at the newest row; the
        bootstrap then starts there, unless that row terminated.
        """
        if self.seeds == 1 and self.n_step == 1 and self._counts and not self.invalid:
            return self.buffer.sample()
        drawn = [self._draw_valid(seed) for seed in range(self.seeds)]
        index = drawn[0] if self.seeds == 1 else torch.stack(drawn)
        return self.buffer.storage.get(index) if self.n_step == 1 else self._n_step(index)

    def _row(self, step: TensorDictBase) -> TensorDict:
        following = step.get("next")
        valid = following.get("valid", None)
        if valid is None:
            valid = torch.ones_like(following.get("done"))
        return TensorDict(
            {
                **{key: step.get(key) for key in COLUMNS},
                "valid": valid,
                "next": TensorDict({key: following.get(key) for key in NEXT_COLUMNS}, step.batch_size),
            },
            step.batch_size,
        )

    def no_rows(self, step: TensorDictBase) -> dict[str, Tensor]:
        """Return empty columns, under the flat names of `chunks`, of rows like those of `step`, `[B]`."""
        return dict(self._row(step)[:0].flatten_keys("/").items())

    @property
    def _counts(self) -> bool:
        """Whether rows that must not be sampled are counted: asking a GPU for the count would stall it."""
        return self.device.type == "cpu"

    def _count_invalid(self) -> int:
        return int((~self.stored["valid"][: len(self)]).sum()) if len(self) else 0

    def _draw(self, seed: int) -> Tensor:
        """Draw `[N]` places of one seed's rows, valid or not."""
        generator = self.generators[seed] if self.generators else None
        row = torch.randint(
            len(self) // self.seeds, (self.batch_size,), generator=generator, device=self.device
        )
        if self.seeds == 1:
            return row
        worlds = self.num_envs // self.seeds
        return row // worlds * self.num_envs + seed * worlds + row % worlds

    def _draw_valid(self, seed: int) -> Tensor:
        index = self._draw(seed)
        if self._counts:
            if not self.invalid:
                return index
            valid = self.stored["valid"].squeeze(-1)
            for _ in range(MAX_REDRAWS):
                if valid[index].all():
                    return index
                index = torch.where(valid[index], index, self._draw(seed))
            raise RuntimeError(
                "no row of the replay is valid, or hardly one: the worlds failed at every step"
            )
        valid = self.stored["valid"].squeeze(-1)
        for _ in range(REDRAWS):  # a run ends long before so many rows are invalid that this is not enough
            index = torch.where(valid[index], index, self._draw(seed))
        return index

    def _n_step(self, index: Tensor) -> TensorDict:
        stored = self.stored
        newest = (self.total - 1) % self.capacity
        reward = torch.zeros(*index.shape, 1, device=self.device)
        last = index
        discount = torch.ones_like(reward)
        running = torch.ones_like(reward, dtype=torch.bool)
        position = index
        for _ in range(self.n_step):
            reward = reward + torch.where(running, discount * stored["next", "reward"][position], 0)
            discount = torch.where(running, discount * self.gamma, discount)
            last = torch.where(running.squeeze(-1), position, last)
            # The newest rows of the ring are the last B written; their successors are not there yet.
            age = (newest - position) % self.capacity
            following = (position + self.num_envs) % self.capacity
            running = (
                running
                & ~stored["next", "done"][position]
                & (age >= self.num_envs).unsqueeze(-1)
                & stored["valid"][following]
            )
            position = following
        batch = self.buffer.storage.get(index)
        batch["next"] = self.buffer.storage.get(last)["next"]
        batch["next", "reward"] = reward
        batch["discount"] = discount
        return batch

    def before_failures(self, length: int) -> dict[str, Tensor]:
        """Return what led to the newest row that is not valid, for every world that has one: F of them.

        Returns:
            columns by flattened name, `[F, length, ...]`, oldest first, the last row the one that is not
            valid; "world", `[F]`; "rows", `[F]`: how many of the last rows are the world's own steps, which
            recorded ones that the ring began with are not; those before are zero.
        """
        steps = len(self) // self.num_envs
        oldest = self.total // self.num_envs - steps  # vector step that the ring goes back to
        order = (oldest + torch.arange(steps, device=self.device)) % max(1, steps)
        valid = self.stored["valid"][: len(self)].view(steps, self.num_envs)[order]
        world = (~valid).any(0).nonzero().squeeze(-1)
        newest = steps - 1 - (~valid[:, world]).flip(0).int().argmax(0)  # argmax: the first of the flipped
        first = max(0, self.preloaded // self.num_envs - oldest)
        time = newest.unsqueeze(-1) + torch.arange(1 - length, 1, device=self.device)  # [F, length]
        place = order[time.clamp(min=0)] * self.num_envs + world.unsqueeze(-1)
        found: dict[str, Tensor] = {"world": world, "rows": (newest + 1 - first).clamp(max=length)}
        for name, column in self.stored.flatten_keys("/").items():
            there = (time >= first).view(*time.shape, *(1,) * (column.dim() - 1))
            found[name] = torch.where(there, column[place], torch.zeros_like(column[place]))
        return found

    def chunks(self) -> Iterator[Chunk]:
        """Yield the rows below the cursor in fixed ranges, for the checkpoint."""
        for number, start in enumerate(range(0, len(self), CHUNK_ROWS)):
            stop = min(start + CHUNK_ROWS, len(self))
            rows = self.stored[start:stop].flatten_keys("/")
            yield Chunk(f"chunk-{number:04d}", self._last_write(start, stop), dict(rows.items()))

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
            flat = TensorDict(chunk, batch_size=[len(chunk["valid"])])
            rows += len(flat)
            if rows > self.capacity:
                break
            self.buffer.extend(flat.unflatten_keys("/"))
        if rows != state["rows"]:
            raise ValueError(f"the saved replay has {rows} rows, its counters say {state['rows']}")
        self.total, self.invalid = state["total"], state["invalid"]
        self.preloaded = state.get("preloaded", 0)  # runs of the first release do not say
        if rows:
            self._columns = {_path(key): column for key, column in self.stored.items(True, True)}
            self._tell_buffer()


def _path(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key
