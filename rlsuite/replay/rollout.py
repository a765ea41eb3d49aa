"""Rollout: the transitions of one policy in a ring that holds just them, learnt from a few times each.

The ring is that of `UniformReplay`, so a checkpoint has a rollout that is half collected, too. What an agent
computes for its rows (advantages, say) comes beside them and is no state: all updates on a rollout are made
between two env steps.

Legend: B envs of each seed, S seeds, T vector steps, R = T B rows, N minibatch, K columns.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.errors import ConfigError
from rlsuite.replay.uniform import UniformReplay


class Steps(NamedTuple):
    """A whole rollout in the order of time; views of the ring, `[*lead, T, B, ...]`.

    Attributes:
        observation: `[*lead, T, B, O]`.
        action: `[*lead, T, B, A]`, as the policy gave it.
        reward: `[*lead, T, B]`.
        next_observation: `[*lead, T, B, O]`, the true successor, at an episode's end too.
        terminated: 0 or 1, `[*lead, T, B]`: the task ended.
        done: 0 or 1: the episode ended, by the task or a time limit.
        valid: 0 or 1; 0 where a simulation gave numbers that are not finite.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    done: Tensor
    valid: Tensor


class RolloutReplay(UniformReplay):
    """A ring of exactly one rollout, read in order or in shuffled minibatches; see `UniformReplay`.

    `capacity` is the rollout's length in env steps of all seeds, `batch_size` that of a minibatch.
    """

    def steps(self) -> Steps:
        """Return the rollout in the order of time.

        Raises:
            RuntimeError: it is not complete.
        """
        if not self.total or self.total % self.capacity:
            raise RuntimeError(f"the rollout has {self.total % self.capacity} of {self.capacity} transitions")
        assert self.layout is not None
        shape = (-1, self.num_envs) if self.seeds == 1 else (-1, self.seeds, self.num_envs // self.seeds)
        packed = self._packed.unflatten(0, shape)
        if self.seeds > 1:
            packed = packed.transpose(0, 1)
        observation, action, next_observation, reward, terminated, flags = self.layout.split(packed)
        first = (observation, action, reward.squeeze(-1), next_observation, terminated.squeeze(-1))
        return Steps(*first, flags[..., 1], flags[..., 2])

    def minibatches(self, columns: Mapping[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
        """Yield `count` minibatches `[*lead, N]`: every row once in each pass, shuffled anew for the next.

        Args:
            columns: numbers beside the rows by name, `[*lead, R]` each, time-major.
            count: R / N of them are one pass.
        """
        assert self.layout is not None
        rows, size = self.capacity // self.seeds, self.batch_size
        table = torch.stack(list(columns.values()), -1).flatten(0, -2)  # [S R, K]
        offsets = torch.arange(self.seeds, device=self.device).unsqueeze(-1) * rows
        for number in range(count):
            start = number * size % rows
            if start == 0:
                order = self._shuffled(rows)
            drawn = order[..., start : start + size]
            place = drawn if self.seeds == 1 else self._places(drawn, self._first_env)
            packed = torch.embedding(self._packed, place)
            beside = torch.embedding(table, drawn if self.seeds == 1 else drawn + offsets)
            observation, action, *_ = self.layout.split(packed)
            named = dict(zip(columns, beside.unbind(-1), strict=True))
            yield {"observation": observation, "action": action, **named}

    def _shuffled(self, rows: int) -> Tensor:
        """Return a new order of every seed's rows, `[R]` or `[S, R]`, each from its own stream."""
        orders = [
            torch.randperm(rows, generator=generator, device=self.device)
            for generator in self.generators or (None,)
        ]
        return orders[0] if self.seeds == 1 else torch.stack(orders)


def check_rollout(size: int, num_envs: int, batch_size: int) -> None:
    """Raise ConfigError for a rollout that its envs or its minibatches do not divide."""
    for name, part in (("num_envs", num_envs), ("batch_size", batch_size)):
        if size % part:
            raise ConfigError(
                f"replay_size = {size}: a rollout of an on-policy agent must be a multiple of {name} = {part}"
            )
