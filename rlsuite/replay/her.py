"""Hindsight experience replay: transitions with goals that were reached later in their episode.

Andrychowicz et al. 2017 (arXiv 1707.01495), strategy "future" of section 4.5. Transitions are stored as they
happened. Of every k + 1 that are drawn, k on average get another goal: what was achieved by a transition of
the same episode, drawn uniformly from this one to the episode's last, and the reward of that goal. So nothing
is stored twice, and nothing but the ring and the stream of the samples has to be saved.

Legend: B envs, S seeds, N batch, W columns, G goal.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsuite.replay.batch import Batch
from rlsuite.replay.packed import FLAGS, as_array
from rlsuite.replay.uniform import UniformReplay

OPEN = torch.iinfo(torch.int64).max  # vector step at which an episode ends that still runs

Rule = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""(achieved, desired), float64 `[R, G]` -> rewards and which end the episode, `[R]`; None: as it was."""


class Goals(NamedTuple):
    """Where the goals stand in an observation, and what they are worth.

    Attributes:
        achieved: columns of the goal that was achieved.
        desired: columns of the goal that was asked for, as many.
        rule: of relabelled transitions.
    """

    achieved: slice
    desired: slice
    rule: Rule


def distance_rule(threshold: float) -> Rule:
    """Return the rule 0 within `threshold` of the goal (2-norm, in its units) and -1 beyond; ends nothing."""

    def rule(achieved: np.ndarray, desired: np.ndarray) -> tuple[np.ndarray, None]:
        far = np.linalg.norm(achieved - desired, axis=-1) > threshold
        return -far.astype(np.float64), None

    return rule


class HerReplay(UniformReplay):
    """A ring that relabels what it samples; one-step transitions alone.

    Args:
        capacity: see `UniformReplay`, as all others.
        goals: where goals stand, and the rule of their rewards.
        k: transitions with a goal of the future for each with its own; 4 in the paper.
        more: arguments of `UniformReplay`.

    Raises:
        ValueError: n-step sums, whose rewards of the way would be of several goals.
    """

    def __init__(self, capacity: int, *, goals: Goals, k: int = 4, **more: Any) -> None:
        super().__init__(capacity, **more)
        if self.n_step != 1:
            raise ValueError(
                f"n_step = {self.n_step}: relabelled transitions are single steps; use n_step = 1"
            )
        self.goals, self.share = goals, k / (k + 1)
        # Vector step of the last valid transition of every row's episode; follows from the flags of the ring.
        self._end = torch.full((self.capacity,), OPEN, device=self.device)
        self._begin = np.zeros(self.num_envs, np.int64)  # vector step at which the running episodes began

    def batches(self, count: int) -> list[Batch]:
        """Draw `count` batches, each with goals of its own."""
        return [self.batch() for _ in range(count)]

    def _extend(self, columns: Sequence[Tensor | np.ndarray | None]) -> None:
        first, count = self.total, len(columns[0])  # type: ignore[arg-type]
        super()._extend(columns)
        if count <= self.capacity - first % self.capacity:  # else the two parts were followed
            self._follow(columns, first // self.num_envs)

    def _follow(self, columns: Sequence[Tensor | np.ndarray | None], time: int) -> None:
        """Note where episodes ended among new rows, the first of which are of vector step `time`."""
        envs = self.num_envs
        done, valid = (None if part is None else as_array(part).reshape(-1, envs) for part in columns[-2:])
        assert done is not None
        start = time * envs % self.capacity
        self._end[start : start + done.size] = OPEN
        for row, env in np.argwhere(done != 0).tolist():
            last = time + row - (0 if valid is None or valid[row, env] else 1)
            oldest = time + row + 1 - self.capacity // envs
            times = torch.arange(max(int(self._begin[env]), oldest), time + row + 1)
            self._end[(times * envs + env).remainder(self.capacity).to(self.device)] = last
            self._begin[env] = time + row + 1

    def load(self, state: dict[str, int], chunks: Iterator[dict[str, Tensor]]) -> None:
        """Refill an empty ring; see `UniformReplay`. Where episodes end is read off its flags."""
        super().load(state, chunks)
        if self.layout is None:
            return
        rows, newest = len(self) // self.num_envs, self.total // self.num_envs
        self._begin[:] = newest - rows
        for time in range(newest - rows, newest):
            start = time * self.num_envs % self.capacity
            flags = self._packed[start : start + self.num_envs, -2:]
            self._follow((flags[:, 0], flags[:, 1]), time)

    def _rows(self, index: Tensor) -> Tensor:
        """Gather rows, `[*index, W]`, and give most of them another goal."""
        packed = super()._rows(index)
        envs, steps = self.num_envs, self.capacity // self.num_envs
        newest = self.total // envs - 1
        time = newest - (newest - index // envs).remainder(steps)
        left = self._end[index].clamp(max=newest) - time + 1  # transitions from this one to the last
        luck, place = self._uniform(index), self._uniform(index)
        future = time + (place * left).long().clamp(max=left - 1)
        chosen = (luck < self.share) & (left > 0)
        source = (future * envs + index.remainder(envs)).remainder(self.capacity)[chosen]
        packed[chosen] = self._relabelled(packed[chosen], source)
        return packed

    def _uniform(self, index: Tensor) -> Tensor:
        """Draw U[0, 1) in float64 for every place, each seed's from its own stream."""
        if self.seeds == 1:
            return self._uniform_of(0, tuple(index.shape))
        shape = (*index.shape[:-2], index.shape[-1])
        return torch.stack([self._uniform_of(seed, shape) for seed in range(self.seeds)], -2)

    def _uniform_of(self, seed: int, shape: tuple[int, ...]) -> Tensor:
        generator = self.generators[seed] if self.generators else None
        return torch.rand(shape, dtype=torch.float64, device=self.device, generator=generator)

    def _relabelled(self, rows: Tensor, source: Tensor) -> Tensor:
        """Return rows `[R, W]` with the goals that were achieved in the rows at `source`."""
        assert self.layout is not None
        width = self.layout.observation
        following = width + self.layout.action  # where the next observation begins
        achieved, desired = self.goals.achieved, self.goals.desired
        goal = self._packed[source, following + achieved.start : following + achieved.stop]
        for start in (0, following):
            rows[:, start + desired.start : start + desired.stop] = goal
        reached = rows[:, following + achieved.start : following + achieved.stop]
        reward, ended = self.goals.rule(as_array(reached.double()), as_array(goal.double()))
        rows[:, self.layout.reward] = torch.as_tensor(reward, dtype=rows.dtype, device=rows.device)
        if ended is not None:
            first_flag = self.layout.width - len(FLAGS)
            rows[:, first_flag] = torch.as_tensor(ended, dtype=rows.dtype, device=rows.device)
        return rows
