"""Which imagined roll-outs a clone learns from: those that bring more than anything that was recorded.

Legend: B roll-outs of a round, T their steps, K kept ones, O observation, A action; S seeds.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

SLACK = 0.05  # of the width of an observation's recorded range, by which roll-outs may leave it; our choice


class RollOuts(NamedTuple):
    """Observations `[..., T, O]`, actions `[..., T, A]` and rewards `[..., T]`."""

    observation: Tensor
    action: Tensor
    reward: Tensor


def returns_to_go(reward: Tensor) -> Tensor:
    """Return the sum of the rewards `[..., T]` from every step on, `[..., T]`."""
    return reward.flip(-1).cumsum(-1).flip(-1)


def bar_of(data: Any, quantile: float) -> float:
    """Return that quantile of the undiscounted returns of a replay's episodes; 1 is the best one's."""
    reward = data.rows["next", "reward"].squeeze(-1).double()
    sums = torch.nn.functional.pad(reward.cumsum(0), (1, 0))
    return float((sums[data.episodes[:, 1]] - sums[data.episodes[:, 0]]).quantile(quantile))


def within(imagined: RollOuts, rows: Any) -> RollOuts:
    """Cut imagined rewards to what was recorded, and make minus infinity of those of roll-outs that stray.

    A roll-out strays when an observation leaves the range of the recorded ones by more than 5% of its width.
    Errors of models grow with every imagined step, and what brings the most is where they are greatest.

    Args:
        imagined: `[..., T, O]`, `[..., T, A]` and `[..., T]`.
        rows: the recorded transitions.
    """
    low, high = (getattr(rows["observation"], end)(0) for end in ("amin", "amax"))
    slack = SLACK * (high - low)
    inside = ((imagined.observation >= low - slack) & (imagined.observation <= high + slack)).all(-1).all(-1)
    recorded = rows["next", "reward"]
    reward = imagined.reward.clamp(recorded.min(), recorded.max())
    return imagined._replace(reward=torch.where(inside.unsqueeze(-1), reward, -math.inf))


class Selection:
    """The first K roll-outs of every seed that bring strictly more than the bar.

    Args:
        seeds: S.
        bar: undiscounted return.
        kept: K.
    """

    def __init__(self, seeds: int, bar: float, kept: int) -> None:
        self.bar, self.kept, self.rounds, self.best = bar, kept, 0, -math.inf
        self.above: list[list[RollOuts]] = [[] for _ in range(seeds)]
        self.last: list[RollOuts] = []  # of the last round, best first

    @property
    def enough(self) -> bool:
        """Whether every seed has as many as it keeps."""
        return all(sum(len(part.reward) for part in parts) >= self.kept for parts in self.above)

    def add(self, imagined: RollOuts) -> None:
        """Look at one round, `[S, B, T, ...]`; returns that are not finite are above nothing."""
        self.rounds += 1
        self.last = []
        for seed, parts in enumerate(self.above):
            round_of_seed = [part[seed] for part in imagined]
            total = torch.nan_to_num(round_of_seed[2].double().sum(-1), -math.inf, -math.inf, -math.inf)
            self.best = max(self.best, float(total.max()))
            parts.append(RollOuts(*(part[total > self.bar] for part in round_of_seed)))
            order = total.argsort(descending=True)[: int(total.isfinite().sum())]
            self.last.append(RollOuts(*(part[order] for part in round_of_seed)))

    def short(self, seed: int) -> bool:
        """Return whether no roll-out of a seed was above the bar."""
        return not any(len(part.reward) for part in self.above[seed])

    def of(self, seed: int) -> RollOuts:
        """Return what a seed keeps, `[K or less, T, ...]`; the best of the last round where none is above."""
        if self.short(seed):
            return RollOuts(*(part[: self.kept] for part in self.last[seed]))
        return RollOuts(*(torch.cat(parts)[: self.kept] for parts in zip(*self.above[seed], strict=True)))
