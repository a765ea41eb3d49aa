"""Windows of recorded episodes, with columns and priorities of their own.

A window is up to H consecutive rows of one segment (an episode, or the part of it with one goal) and the
state after them: H + 1 states for H actions. Near the end of a segment windows are shorter, or left out.

Legend: N batch, S seeds, W windows, H horizon, E segments, O observation, A action.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from rlsuite.blocks.noise import Source
from rlsuite.replay.offline import OfflineReplay, window_starts
from rlsuite.replay.priority import Priorities
from rlsuite.replay.uniform import Chunk

Content = Literal["steps", "ends"]
PRIORITY_CHUNK = "priorities"


class ReturnRange(NamedTuple):
    """Least and greatest discounted return of any transition of the data."""

    low: float
    high: float


class WindowReplay(OfflineReplay):
    """Samples windows instead of transitions.

    The transitions never change. Priorities do, once `start_priorities` was called: they are what a
    checkpoint holds. Columns added by `show` are not: whoever adds them can make them again.

    Args:
        rows: TensorDict `[rows]`.
        episodes: int64 `[E, 2]`, first transition of each episode and the transition after its last.
        segments: int64 `[E', 2]`, parts of episodes that no window may leave; None: the episodes.
        horizon: H, transitions of a whole window.
        stride: transitions between the starts of neighbouring windows.
        short: windows that a segment's end cuts are there, too.
        inner: a window leads to its own last state, not to the one after it.
        batch_size: windows per sample, N.
        generator: draws the indices; a tuple of S generators gives batches `[S, N]`.

    Raises:
        ValueError: there is no window, or the episodes do not cover the transitions in order.
    """

    def __init__(  # noqa: PLR0913 (what the base and a window's shape hold)
        self,
        rows: TensorDict,
        episodes: Tensor,
        *,
        horizon: int,
        batch_size: int,
        segments: Tensor | None = None,
        stride: int = 1,
        short: bool = True,
        inner: bool = False,
        generator: Source = None,
    ) -> None:
        super().__init__(rows, episodes, batch_size=batch_size, generator=generator)
        self.segments = episodes if segments is None else segments
        self.horizon, self.stride, self.inner = horizon, stride, inner
        self.starts = window_starts(self.segments, 1 if short else horizon, stride)
        if not len(self.starts):
            raise ValueError(
                f"no part of the {len(episodes)} episodes has {horizon} rows: take a shorter horizon"
            )
        ends = self.segments[
            torch.searchsorted(self.segments[:, 0].contiguous(), self.starts, right=True) - 1, 1
        ]
        self.lengths = (ends - self.starts).clamp(max=horizon)
        self.content: Content = "steps"
        self.stage: str | None = None  # of whoever reads these windows; None: not set up yet
        self.columns: dict[str, Tensor] = {}
        self.priorities: Priorities | None = None
        self.version = 0  # of the priorities

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lead(self) -> tuple[int, ...]:
        """The axis of seeds, where there are several."""
        return (len(self.generator),) if isinstance(self.generator, tuple) else ()

    def show(self, content: Content, columns: Mapping[str, Tensor]) -> None:
        """Decide what samples hold: all steps of the windows or their ends alone, and further columns.

        Args:
            content: "steps" for `steps`, "ends" for `ends`.
            columns: `[*lead, W, ...]` by name.
        """
        wrong = [
            name for name, column in columns.items() if column.shape[: len(self.lead) + 1] != self._shape
        ]
        if wrong:
            raise ValueError(f"columns {wrong} are not of {list(self._shape)} windows")
        self.content, self.columns = content, dict(columns)

    @property
    def _shape(self) -> torch.Size:
        return torch.Size((*self.lead, len(self)))

    def start_priorities(self, kept: Tensor | None = None) -> None:
        """Draw windows by priority from now on, all equal at first; those not in `kept` `[W]` never."""
        self.priorities = Priorities(len(self), lead=self.lead, device=self.starts.device)
        self.priorities.fill(1.0 if kept is None else kept.to(torch.float32))
        self.version += 1

    def sample(self) -> TensorDict:
        """Draw windows with replacement, `[N]` or `[S, N]`: `index`, `probability` where there are
        priorities, what `show` decided."""
        batch: dict[str, Tensor] = {}
        if self.priorities is not None:
            index, batch["probability"] = self.priorities.draw(self.batch_size, self.generator)
        else:
            index = self.draw()
        rows = self.steps(index) if self.content == "steps" else self.ends(index)
        return rows.update(
            {"index": index, **batch, **{k: self._of(c, index) for k, c in self.columns.items()}}
        )

    def steps(self, index: Tensor) -> TensorDict:
        """Return windows `[...]` by number, with all their steps.

        `observation` `[..., H, O]`, `action` `[..., H, A]`, `mask` `[..., H]` (1 at the window's steps; what
        comes after its end repeats the last one), and ("next", "observation") `[..., O]`, where it leads.
        """
        count = torch.arange(self.horizon, device=index.device)
        length = self.lengths[index].unsqueeze(-1)
        places = self.starts[index].unsqueeze(-1) + torch.minimum(count, length - 1)
        observation = self.rows["observation"]
        return TensorDict(
            {
                "observation": observation[places],
                "action": self.rows["action"][places],
                "mask": (count < length).to(observation.dtype),
                "next": TensorDict({"observation": self._led_to(places[..., -1])}, index.shape),
            },
            index.shape,
        )

    def ends(self, index: Tensor) -> TensorDict:
        """Return the first state of windows `[...]` and the one that they lead to."""
        first, last = self.starts[index], self.starts[index] + self.lengths[index] - 1
        next_td = {"observation": self._led_to(last)}
        return TensorDict(
            {"observation": self.rows["observation"][first], "next": TensorDict(next_td, index.shape)},
            index.shape,
        )

    def returns(self, gamma: float) -> Tensor:
        """Return the discounted sum of the rewards of every window, `[W]` float32."""
        reward = self.rows["next", "reward"].squeeze(-1).double()
        return self.discounted(lambda step: reward[self._row(step)], gamma)

    def discounted(self, at: Callable[[int], Tensor], gamma: float) -> Tensor:
        """Return the discounted sum `[W]` float32 over every window of `at(step)`, float64 `[W]`."""
        total = torch.zeros(len(self), dtype=torch.float64, device=self.starts.device)
        for step in reversed(range(self.horizon)):
            total = torch.where(step < self.lengths, at(step), 0.0) + gamma * total
        return total.float()

    def increment(self, step: int) -> Tensor:
        """Return by how much a step's reward exceeds the one before, `[W]`; 0 at a window's first step."""
        reward = self.rows["next", "reward"].squeeze(-1).double()
        return reward[self._row(step)] - reward[self._row(max(0, step - 1))]

    def terminated(self) -> Tensor:
        """Return whether the window's last transition terminated, `[W]` bool; truncation does not count."""
        return self.rows["next", "terminated"].squeeze(-1)[self._row(self.horizon)]

    def rewarded(self) -> Tensor:
        """Return whether any reward of the window differs from zero, `[W]` bool."""
        gained = (self.rows["next", "reward"].squeeze(-1) != 0).cumsum(0)
        before = torch.nn.functional.pad(gained, (1, 0))[self.starts]
        return gained[self._row(self.horizon)] > before

    def until_reward(self) -> Tensor:
        """Return which windows are not behind the first one of their segment with a reward, `[W]` bool."""
        rewarded = self.rewarded().long()
        seen = torch.nn.functional.pad(rewarded.cumsum(0), (1, 0))[:-1]  # before this window
        begins = torch.isin(self.starts, self.segments[:, 0])  # each segment's first window
        before = torch.where(begins, seen, 0).cummax(0).values
        return seen == before

    def return_range(self, gamma: float, *, cuts_end: bool) -> ReturnRange:
        """Return the range of discounted returns over all transitions.

        Args:
            gamma: discount per transition.
            cuts_end: an episode that was cut brings no more. Else it goes on for ever, for the upper bound
                with the mean reward of the best episode and for the lower one with that of the worst.
        """
        first, after = self.episodes.unbind(-1)
        lengths = after - first
        reward = self.rows["next", "reward"].squeeze(-1).double()
        sums = torch.nn.functional.pad(reward.cumsum(0), (1, 0))
        means = (sums[after] - sums[first]) / lengths
        ended = self.rows["next", "terminated"].squeeze(-1)[after - 1]
        bounds = []
        for rate in (means.min(), means.max()):
            going_on = 0.0 if cuts_end or gamma == 1 else float(rate) / (1 - gamma)
            tail = torch.where(ended, 0.0, going_on).to(reward.dtype)
            least, most = tail.new_full((), torch.inf), tail.new_full((), -torch.inf)
            for step in range(int(lengths.max())):  # from the episodes' ends
                inside = step < lengths
                tail = torch.where(inside, reward[(after - 1 - step).clamp(min=0)] + gamma * tail, tail)
                least = torch.minimum(least, tail[inside].min())
                most = torch.maximum(most, tail[inside].max())
            bounds.append((float(least), float(most)))
        return ReturnRange(bounds[0][0], bounds[1][1])

    def reprioritise(self, index: Tensor, priority: Tensor) -> None:
        """Set the priorities of windows `index`; `[N]` or `[S, N]` both."""
        assert self.priorities is not None
        self.priorities.write(index, priority)
        self.version += 1

    def state_dict(self) -> dict[str, int]:
        """Return what tells these windows from others, and the version of the priorities (0: none)."""
        windows = {"windows": len(self), "horizon": self.horizon, "stride": self.stride}
        return {**super().state_dict(), **windows, "version": self.version, "rows": len(self.rows)}

    def chunks(self) -> Iterator[Chunk]:
        """Yield the priorities."""
        if self.priorities is not None:
            yield Chunk(PRIORITY_CHUNK, self.version, {PRIORITY_CHUNK: self.priorities.all()})

    def load(self, state: dict[str, int], chunks: Iterator[dict[str, Tensor]]) -> None:
        """Take the priorities back; ValueError when the data or the windows are others."""
        mine = self.state_dict()
        different = sorted(key for key in mine if key != "version" and state.get(key) != mine[key])
        if different:
            raise ValueError(f"the run began with other data: {different} differ")
        self.priorities, self.version = None, 0
        for rows in chunks:
            self.start_priorities()
            assert self.priorities is not None
            if rows[PRIORITY_CHUNK].shape != self._shape:
                raise ValueError(f"priorities of {list(self._shape)} windows were expected")
            self.priorities.fill(rows[PRIORITY_CHUNK].to(self.starts.device))
        self.version = state["version"]

    def _of(self, column: Tensor, index: Tensor) -> Tensor:
        """Transitions `index` `[*lead, N]` of a column `[*lead, W, ...]`."""
        if not self.lead:
            return column[index]
        return column[torch.arange(len(index), device=index.device).unsqueeze(-1), index]

    def _led_to(self, last: Tensor) -> Tensor:
        """Return the states to which windows lead whose last transitions are `last`."""
        return self.rows["observation"][last] if self.inner else self.rows["next", "observation"][last]

    def _row(self, step: int) -> Tensor:
        """Place of transition `step` of every window, of the last one where the window is shorter."""
        return self.starts + torch.minimum(self.lengths - 1, torch.full_like(self.lengths, step))
