"""Value error: how far critics are above what evaluation episodes then bring, by two definitions.

`value_errors` is ours: nothing comes after a termination. `stac_value_errors` is that of the STAC paper's
code (arXiv 2601.00737; rl-warehouse, `Agent.eval`), with which its published curves were made: kept for
comparing with these. Positive is overestimation. Legend: T env steps, B episodes; any axes may stand for B.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from tensordict import TensorDictBase
from torch import Tensor

from rlsuite.agents.base import Agent, StateValue

OURS, STAC = "value_errors", "stac_value_errors"  # names of the two in what an evaluation returns


@runtime_checkable
class ActionValues(Protocol):
    """An agent whose critics can value a given action, with the entropy bonus of its log-density."""

    def action_value(self, observation: Tensor, action: Tensor) -> StateValue:
        """Value actions `[*lead, N, A]`, in [-1, 1], at observations `[*lead, N, O]`.

        Returns:
            value: mean over critics plus bonus, `[*lead, N]`.
            bonus: minus the temperature times the log-density of the action, `[*lead, N]`.
        """


def value_errors(
    value: Tensor, bonus: Tensor, reward: Tensor, alive: Tensor, tail: Tensor, gamma: float
) -> Tensor:
    """Return the mean over each episode of estimate minus realised discounted soft return, `[B]`.

    The soft return of a step is reward plus entropy bonus plus gamma times that of the next one; after an
    episode's last step comes `tail`. Our choice: the return that a critic is trained to predict.

    Args:
        value: the critics' estimates before each step, entropy bonus included, `[T, B]`.
        bonus: the entropy bonus of each step, `[T, B]`.
        reward: `[T, B]`.
        alive: bool, the step belongs to the episode; True from the first step to the last, `[T, B]`.
        tail: the critics' estimate after the last step where the episode was cut, 0 where it terminated,
            `[B]`.
        gamma: discount per step.
    """
    total, next_return = torch.zeros_like(tail), tail
    for step in reversed(range(len(value))):
        realised = reward[step] + bonus[step] + gamma * next_return
        next_return = torch.where(alive[step], realised, next_return)
        total += torch.where(alive[step], value[step] - realised, 0.0)
    return total / alive.sum(0)


def stac_value_errors(value: Tensor, bonus: Tensor, reward: Tensor, alive: Tensor, gamma: float) -> Tensor:
    """Return the value error of each episode as the STAC paper's code computes it, `[B]`.

    The last step's return is the estimate of that step itself, whether the episode was cut or terminated, and
    its reward is not used. Of equal errors per step it hides what a critic does not know of a fall: with a
    constant estimate V and rewards that fit it, ours is (V - r) (1 - gamma^T) / ((1 - gamma) T) after a
    termination, and this 0.

    Args:
        value: the critics' estimates at each step and the action taken, with bonus, `[T, B]`.
        bonus: minus the temperature times the log-density of that action, `[T, B]`.
        reward: `[T, B]`.
        alive: as in `value_errors`, `[T, B]`.
        gamma: discount per step.
    """
    total, next_return = torch.zeros_like(value[0]), value[0]
    ended = torch.ones_like(alive[0])  # no later step belongs to the episode
    for step in reversed(range(len(value))):
        realised = reward[step] + bonus[step] + gamma * next_return
        realised = torch.where(ended, value[step], realised)
        next_return = torch.where(alive[step], realised, next_return)
        total += torch.where(alive[step], value[step] - realised, 0.0)
        ended &= ~alive[step]
    return total / alive.sum(0)


class _Step(NamedTuple):
    """Entries of a trace for one vector step; each `[B]`."""

    value: Tensor
    bonus: Tensor
    taken_value: Tensor
    taken_bonus: Tensor
    reward: Tensor
    alive: Tensor


def whole(row: TensorDictBase) -> Tensor:
    """Return what critics see of a row: more than `observation` where the environment tells them more."""
    critic = row.get("critic", None)
    return row.get("observation") if critic is None else critic.get("observation")


@dataclass
class ValueTrace:
    """Collects, step by step, what the value errors of running evaluation episodes need.

    Args:
        estimate: observations `[B, O]` -> values and bonuses, `[B]` each; or None, and nothing is collected.
        gamma: discount per env step.
        estimate_taken: observations and the actions taken in them, `[B, A]` -> values and bonuses, `[B]`
            each. None: the error by the STAC paper's code is not measured.
    """

    estimate: Callable[[Tensor], StateValue | None]
    gamma: float
    estimate_taken: Callable[[Tensor, Tensor], StateValue] | None = None
    steps: list[_Step] = field(default_factory=list)
    tail: Tensor | None = None

    def add(self, step: TensorDictBase, running: Tensor) -> None:
        """Take one vector step (`observation`, `action`, "next") of the episodes in `running`, `[B]` bool."""
        observation = whole(step)
        estimated = self.estimate(observation)
        if estimated is None:
            return
        taken = estimated
        if self.estimate_taken is not None:
            taken = self.estimate_taken(observation, step.get("action"))
        next_td = step.get("next")
        reward = next_td.get("reward").squeeze(-1).double()
        self.steps.append(
            _Step(
                value=estimated.value.double(),
                bonus=estimated.bonus.double(),
                taken_value=taken.value.double(),
                taken_bonus=taken.bonus.double(),
                reward=reward,
                alive=running.clone(),
            )
        )
        if self.tail is None:
            self.tail = torch.zeros_like(reward)
        terminated = next_td.get("terminated").squeeze(-1)
        cut = running & next_td.get("done").squeeze(-1) & ~terminated
        if cut.any():
            after = self.estimate(whole(next_td))
            assert after is not None
            self.tail = torch.where(cut, after.value.double(), self.tail)

    def errors(self) -> dict[str, Tensor]:
        """Return the value errors of every episode, `[B]` float64, by definition; empty without critics."""
        if self.tail is None:
            return {}
        steps = _Step(*(torch.stack(column) for column in zip(*self.steps, strict=True)))
        reward, alive = steps.reward, steps.alive
        errors = {OURS: value_errors(steps.value, steps.bonus, reward, alive, self.tail, self.gamma)}
        if self.estimate_taken is not None:
            errors[STAC] = stac_value_errors(steps.taken_value, steps.taken_bonus, reward, alive, self.gamma)
        return errors


def value_trace(agent: Agent) -> ValueTrace:
    """Return an empty trace for an agent's evaluation; flat observations of all envs go to their own seed."""

    def per_seed(flat: Tensor) -> Tensor:
        return flat.unflatten(0, (*agent.lead, -1))

    def estimate(observation: Tensor) -> StateValue | None:
        value = agent.state_value(per_seed(observation))
        return None if value is None else StateValue(value.value.flatten(), value.bonus.flatten())

    estimate_taken = None
    if isinstance(agent, ActionValues):

        def estimate_taken(observation: Tensor, action: Tensor) -> StateValue:
            value = agent.action_value(per_seed(observation), per_seed(action))
            return StateValue(value.value.flatten(), value.bonus.flatten())

    return ValueTrace(estimate, agent.gamma, estimate_taken)
