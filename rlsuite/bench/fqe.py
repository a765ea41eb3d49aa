"""Fitted Q evaluation: values of policies from recorded data alone (Le et al. 2019, arXiv 1903.08738).

Every candidate has an ensemble of critics of its own, fitted by bootstrapping from its own actions. All are
one batched product, begin with the same weights and see the same batches, so that their differences are of
the policies.

Legend: K candidates, M members of an ensemble, R rows, N batch, O observation, A action.
"""

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
from tensordict import TensorDict
from torch import Tensor

from rlsuite.agents.optim import Adam, polyak
from rlsuite.blocks.heads import ScalarCritic
from rlsuite.blocks.networks import NetShape
from rlsuite.bounds import AtLeastOne, BatchSize, Bounds, PolyakRate, Positive, Widths, check_bounds
from rlsuite.offline.transforms import moments

CHUNK_ROWS = 4_096  # valued at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How the critics are fitted. All numbers are our choice, for a minute or two on one core.

    Attributes:
        gamma: discount of the estimate, below 1.
        hidden: widths of the critics, whose hidden layers are normalised.
        members: critics of each candidate.
        updates: gradient steps.
        batch_size: rows of each.
        lr: learning rate.
        tau: Polyak rate of the lagged critics. Values come up over some 1 / (tau (1 - gamma)) updates: with
            these defaults over a fifth of the run.
        seed: of first weights and batches.
    """

    gamma: Annotated[float, Bounds(0, 1, open_high=True)] = 0.99
    hidden: Widths = (64, 64)
    members: AtLeastOne = 2
    updates: AtLeastOne = 10_000
    batch_size: BatchSize = 256
    lr: Positive = 1e-3
    tau: PolyakRate = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


class FittedQ:
    """Critics of K policies, fitted to recorded transitions.

    Args:
        rows: transitions `[R]` with TorchRL's keys, rewards as they are.
        next_action: what each policy does at the next observations, `[K, R, A]`.
        fit: how.
    """

    def __init__(self, rows: TensorDict, next_action: Tensor, fit: Fit) -> None:
        self.fit, candidates = fit, len(next_action)
        observation, action = rows["observation"], rows["action"]
        self.mean, self.std = moments(observation)
        reward = rows["next", "reward"].squeeze(-1)
        # Values of the order of one, whatever the task pays.
        self.scale = float(reward.abs().mean()) / (1 - fit.gamma) or 1.0
        same = tuple(torch.Generator().manual_seed(fit.seed) for _ in range(candidates))
        shape = NetShape(hidden=fit.hidden, layer_norm=True, lead=(candidates,), generator=same)
        self.critic = ScalarCritic(observation.shape[-1], action.shape[-1], shape, members=fit.members)
        self._learn(rows, reward / self.scale, next_action)

    def _learn(self, rows: TensorDict, reward: Tensor, next_action: Tensor) -> None:
        fit, target_critic = self.fit, copy.deepcopy(self.critic).requires_grad_(False)
        optimizer = Adam((list(self.critic.parameters()), fit.lr))
        observation = self._normed(rows["observation"])
        following = self._normed(rows["next", "observation"])
        keep = fit.gamma * (1 - rows["next", "terminated"].squeeze(-1).to(reward.dtype))
        draws = torch.Generator().manual_seed(fit.seed)
        for _ in range(fit.updates):
            index = torch.randint(len(rows), (fit.batch_size,), generator=draws)
            with torch.no_grad():
                next_q = self._q(target_critic, following[index], next_action[:, index])
                target = reward[index] + keep[index] * next_q
            q = self._q(
                self.critic, observation[index], rows["action"][index].expand(len(next_action), -1, -1)
            )
            # Each member follows its own target, so that their spread says what the data leave open.
            optimizer.descend((q - target).square().mean(-1).sum(-1))
            polyak(target_critic, self.critic, fit.tau)

    def _normed(self, observation: Tensor) -> Tensor:
        return (observation - self.mean) / self.std

    def _q(self, critic: ScalarCritic, observation: Tensor, action: Tensor) -> Tensor:
        """Return values `[K, M, N]` of normalised observations `[N, O]` and actions `[K, N, A]`."""
        return critic(observation.expand(len(action), -1, -1), action)

    @torch.no_grad()
    def values(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return discounted values `[K, M, N]` of observations `[N, O]` and actions `[K, N, A]`."""
        pieces = zip(self._normed(observation).split(CHUNK_ROWS), action.split(CHUNK_ROWS, 1), strict=True)
        return self.scale * torch.cat([self._q(self.critic, seen, acted) for seen, acted in pieces], -1)

    def td_errors(self, rows: TensorDict, next_action: Tensor) -> Tensor:
        """Return r + gamma (1 - terminated) Q(s', pi(s')) - Q(s, a) of other transitions, `[K, M, N]`."""
        reward = rows["next", "reward"].squeeze(-1)
        keep = self.fit.gamma * (1 - rows["next", "terminated"].squeeze(-1).to(reward.dtype))
        taken = self.values(rows["observation"], rows["action"].expand(len(next_action), -1, -1))
        return reward + keep * self.values(rows["next", "observation"], next_action) - taken
