"""Batches of two sources: a fixed share of recorded transitions, and new ones from the ring.

Legend: N batch, S seeds, W columns of the matrix.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlsuite.replay.batch import Batch
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


def returns_to_go(rewards: np.ndarray, gamma: float, failure_reward: float | None = None) -> np.ndarray:
    """Return the discounted rewards from each step of one episode to its end, float64 `[T]`.

    Nothing is added after the end, cut or terminated (Cal-QL, Nakamoto et al. 2023, arXiv 2303.05479).

    Args:
        rewards: `[T]`.
        gamma: discount per step.
        failure_reward: of sparse tasks, the reward of a step away from the goal. An episode whose last reward
            it is has failed, and its returns are failure_reward / (1 - gamma) (as in Cal-QL's code).
    """
    total = np.empty(len(rewards))
    if failure_reward is not None and math.isclose(rewards[-1], failure_reward, rel_tol=1e-6):
        total.fill(failure_reward / (1 - gamma))
        return total
    to_go = 0.0
    for step in range(len(rewards) - 1, -1, -1):
        to_go = total[step] = rewards[step] + gamma * to_go
    return total


class MixedReplay(UniformReplay):
    """A ring of new transitions whose batches have a fixed share of recorded ones, evenly spread among them.

    Only the ring is written and saved; of the data a checkpoint has the fingerprint. Recorded rows are drawn
    after the new ones, from the same stream; with a share of 0 nothing is drawn, and all is as without data.

    Where the data have returns, batches have them: those of new transitions are known when their episode
    ends, and minus infinity before (no bound, as Cal-QL reads them). They follow from the ring and are not
    saved.

    Args:
        capacity: of the ring, as in `UniformReplay`.
        recorded: the data; its batch size is the number of recorded rows in a batch.
        batch_size: transitions per sample of each seed, N, recorded ones among them.
        failure_reward: of new returns; see `returns_to_go`.
        more: further arguments of `UniformReplay`.

    Raises:
        ValueError: n-step sums, which recorded transitions do not have.
    """

    def __init__(
        self,
        capacity: int,
        *,
        recorded: OfflineReplay,
        batch_size: int,
        failure_reward: float | None = None,
        **more: Any,
    ) -> None:
        super().__init__(capacity, batch_size=batch_size - recorded.batch_size, **more)
        if self.n_step != 1:
            raise ValueError(f"n_step = {self.n_step}: recorded transitions are single steps; use n_step = 1")
        self.recorded, self.failure_reward = recorded, failure_reward
        self._order = interleaved(recorded.batch_size, batch_size).to(self.device)
        self._begin = np.zeros(self.num_envs, np.int64)  # vector step at which the running episodes began
        self._returns: Tensor | None = None
        if "returns" in recorded.further:
            self._returns = torch.full((self.capacity, 1), -math.inf, device=self.device)

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
        mixed = self._mixed(index)
        return mixed if self._returns is None else mixed[..., :-1]

    def _mixed(self, index: Tensor) -> Tensor:
        """Gather rows of both, with their returns as a further column where the data have them."""
        new = super()._rows(index)
        if self._returns is not None:
            new = torch.cat((new, torch.embedding(self._returns, index)), -1)
        if not self.recorded.batch_size:
            return new
        count = tuple(index.shape[: -1 if self.seeds == 1 else -2])
        old = torch.embedding(self.recorded.packed[1], self.recorded.draw(count))
        return torch.cat((old, new), -2).index_select(-2, self._order)

    def _gather(self, index: Tensor) -> Batch:
        if self._returns is None:
            return super()._gather(index)
        assert self.layout is not None
        usual, returns = self._mixed(index).split((self.layout.width, 1), -1)
        return self.layout.batch(usual, self.gamma)._replace(returns=returns.squeeze(-1))

    def _extend(self, columns: Sequence[Tensor | np.ndarray | None]) -> None:
        first, count = self.total, len(columns[0])  # type: ignore[arg-type]
        super()._extend(columns)
        if count <= self.capacity - first % self.capacity:  # else the two parts were followed
            self._follow(first // self.num_envs, count // self.num_envs)

    def _follow(self, time: int, steps: int) -> None:
        """Note the returns of episodes that ended in some vector steps, the first of which is `time`."""
        if self._returns is None or self.layout is None:
            return
        envs, layout = self.num_envs, self.layout
        start = time * envs % self.capacity
        written = slice(start, start + steps * envs)
        self._returns[written] = -math.inf
        ends = self._packed[written, layout.done].view(steps, envs).nonzero().tolist()
        for row, env in ends:
            oldest = time + row + 1 - self.capacity // envs  # what came before is overwritten
            times = torch.arange(max(int(self._begin[env]), oldest), time + row + 1, device=self.device)
            places = (times * envs + env).remainder(self.capacity)
            rewards = self._packed[places, layout.reward].double().numpy(force=True)
            to_go = torch.from_numpy(returns_to_go(rewards, self.gamma, self.failure_reward))
            self._returns[places, 0] = to_go.to(self._returns)
            self._begin[env] = time + row + 1

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
        newest = self.total // self.num_envs
        oldest = newest - len(self) // self.num_envs
        self._begin[:] = oldest
        for time in range(oldest, newest):
            self._follow(time, 1)
