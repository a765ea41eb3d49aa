"""Value error: how far critics are above what evaluation episodes then bring, as in the STAC paper.

Positive is overestimation. Legend: T env steps, B episodes; any axes may stand for B.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlsuite.agents.base import Agent, StateValue


def value_errors(
    value: Tensor, bonus: Tensor, reward: Tensor, alive: Tensor, tail: Tensor, gamma: float
) -> Tensor:
    """Mean over each episode of estimate minus realised discounted soft return, `[B]`.

    The soft return of a step is reward plus entropy bonus plus gamma times that of the next one; after an
    episode's last step comes `tail` (definition of the STAC paper's code, arXiv 2601.00737).

    Args:
        value: the critics' estimates before each step, entropy bonus included, `[T, B]`.
        bonus: the entropy bonus of each step, `[T, B]`.
        reward: `[T, B]`.
        alive: bool, the step belongs to the episode; True from the first step to the last, `[T, B]`.
        tail: the critics' estimate after the last step where the episode was cut, 0 where it terminated,
            `[B]`.
        gamma: discount per step.
    """
    total, following = torch.zeros_like(tail), tail
    for step in reversed(range(len(value))):
        realised = reward[step] + bonus[step] + gamma * following
        following = torch.where(alive[step], realised, following)
        total += torch.where(alive[step], value[step] - realised, 0.0)
    return total / alive.sum(0)


@dataclass
class ValueTrace:
    """Collects, step by step, what the value error of running evaluation episodes needs.

    Args:
        estimate: observations `[B, O]` -> values and bonuses, `[B]` each; or None, and nothing is collected.
        gamma: discount per env step.
    """

    estimate: Callable[[Tensor], StateValue | None]
    gamma: float
    steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    tail: Tensor | None = None

    def add(self, step: TensorDictBase, running: Tensor) -> None:
        """Take one vector step (`observation` and "next") of the episodes in `running`, `[B]` bool."""
        estimate = self.estimate(step.get("observation"))
        if estimate is None:
            return
        next_td = step.get("next")
        reward = next_td.get("reward").squeeze(-1).double()
        self.steps.append((estimate.value.double(), estimate.bonus.double(), reward, running.clone()))
        if self.tail is None:
            self.tail = torch.zeros_like(reward)
        terminated = next_td.get("terminated").squeeze(-1)
        cut = running & next_td.get("done").squeeze(-1) & ~terminated
        if cut.any():
            after = self.estimate(next_td.get("observation"))
            assert after is not None
            self.tail = torch.where(cut, after.value.double(), self.tail)

    def errors(self) -> Tensor | None:
        """Return the value error of every episode, `[B]` float64; None where nothing was collected."""
        if self.tail is None:
            return None
        value, bonus, reward, alive = (torch.stack(column) for column in zip(*self.steps, strict=True))
        return value_errors(value, bonus, reward, alive, self.tail, self.gamma)


def value_trace(agent: Agent) -> ValueTrace:
    """Return an empty trace for an agent's evaluation; flat observations of all envs go to their own seed."""

    def estimate(observation: Tensor) -> StateValue | None:
        value = agent.state_value(observation.unflatten(0, (*agent.lead, -1)))
        if value is None:
            return None
        return StateValue(value.value.flatten(), value.bonus.flatten())

    return ValueTrace(estimate, getattr(agent.config, "gamma", 1.0))
