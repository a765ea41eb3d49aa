"""ReCOIL: imitation of few demonstrations with any other data (Sikchi et al. 2024, arXiv 2302.08560).

Legend: N batch, M = 2 twin critics. Losses are written for the last axes; leading axes are independent seeds,
whose losses stay apart.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rlsuite.agents.base import Columns, StateValue
from rlsuite.agents.iql import IQL, IQLConfig, IQLLoss
from rlsuite.agents.torchrl_loss import IN_KEYS
from rlsuite.agents.value_losses import row_mean, value_loss
from rlsuite.bounds import Positive
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class ReCOILConfig(IQLConfig):
    """Hyper-parameters of ReCOIL; the defaults are those of the authors' code, networks and actor IQL's."""

    value_loss: Literal["expectile", "gumbel", "chi2", "tv"] = "gumbel"
    """Loss of the value network, on transitions that are no demonstrations."""
    loss_temperature: Positive = 5.0
    """Of gumbel, in units of Q; to be raised (5, 10, 20) while Q diverges (authors)."""
    bound: Positive = 200.0
    """Q of demonstrations, and minus Q where another transition terminates; 2 / (1 - gamma) at gamma 0.99."""


def demonstrations(batch: Batch) -> Tensor:
    """Return 1 for demonstrations and 0 for other transitions, `[N]`.

    Raises:
        ConfigError: the batch does not say which is which.
    """
    if batch.expert is None:
        raise ConfigError(
            'ReCOIL needs a column "expert" that marks demonstrations: name them with --expert DATA, or add '
            "the column to your batches"
        )
    return batch.expert


def value_objective(q: Tensor, value: Tensor, batch: Batch, config: ReCOILConfig) -> Tensor:
    """Return the configured loss of the value network on the rows that are no demonstrations."""
    others = 1 - demonstrations(batch)
    rows = torch.cat((others,) * (value.shape[-1] // others.shape[-1]), -1)  # uniform actions follow
    return value_loss(q, value, config, rows)


def critic_target(batch: Batch, next_value: Tensor, config: ReCOILConfig) -> Tensor:
    """Return what Q should be, `[N]`: the bound for demonstrations, a Bellman target for other transitions.

    That has a constant cost of (1 - gamma) bound and ends, where a transition terminates, in minus the bound
    for ever: no reward is read. Where a batch does not say so, no transition is a demonstration.
    """
    end, cost = -config.bound, -(1 - batch.discount) * config.bound
    ahead = (1 - batch.terminated) * next_value + batch.terminated * end
    others = cost + batch.discount * ahead
    return others if batch.expert is None else torch.where(batch.expert > 0, config.bound, others)


def critic_objective(q: Tensor, target: Tensor, batch: Batch, config: ReCOILConfig) -> Tensor:
    """Return half the mean squared error of both kinds of rows, each by itself, summed over critics `[M, N]`.

    The form that the authors released (after LS-IQ, Al-Hafez et al. 2023, arXiv 2303.00599), not the paper's
    contrast of equation 11.
    """
    expert = demonstrations(batch).unsqueeze(-2)
    errors = 0.5 * (q - target.unsqueeze(-2)).square()
    return (row_mean(errors, expert) + row_mean(errors, 1 - expert)).sum(-1)


class ReCOIL(IQL):
    """IQL whose critics tell demonstrations from other transitions; every batch has both, half and half."""

    Config: ClassVar[type] = ReCOILConfig
    needs_data = True
    value_objective: ClassVar[Any] = staticmethod(value_objective)
    critic_target: ClassVar[Any] = staticmethod(critic_target)
    critic_objective: ClassVar[Any] = staticmethod(critic_objective)

    @classmethod
    def columns(cls, config: ReCOILConfig) -> Columns:
        """Return that every batch must have demonstrations."""
        return Columns(expert=True)

    def learn(self, batch: Batch, noise: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Step as IQL does; values of both kinds of rows are reported apart."""
        expert = demonstrations(batch)
        with torch.no_grad():
            value = self.value(batch.observation)
        metrics = super().learn(batch, noise)
        return metrics | {
            "value/expert": row_mean(value, expert),
            "value/other": row_mean(value, 1 - expert),
        }

    def state_value(self, observation: Tensor) -> StateValue | None:
        """Return None: these critics know no rewards, and their values are no returns."""
        return None


class ReCOILLoss(IQLLoss):
    """ReCOIL's losses as a TorchRL LossModule; batches mark demonstrations by `expert`. See `IQLLoss`."""

    batch_keys: ClassVar[list[Any]] = [*IN_KEYS, "expert"]
    value_objective: ClassVar[Any] = staticmethod(value_objective)
    critic_target: ClassVar[Any] = staticmethod(critic_target)
    critic_objective: ClassVar[Any] = staticmethod(critic_objective)
