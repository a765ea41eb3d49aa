"""TD3+BC: TD3 on recorded data, tied to the actions in it (Fujimoto and Gu 2021, arXiv 2106.06860)."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import Tensor

from rlsuite.agents.losses import Critic
from rlsuite.agents.td3 import TD3, Actor, TD3Config, TD3Loss
from rlsuite.bounds import Bounds
from rlsuite.replay.batch import Batch


@dataclass(frozen=True, kw_only=True)
class TD3BCConfig(TD3Config):
    """Hyper-parameters of TD3+BC; the defaults are those of the authors' code."""

    normalize_observations: bool = True
    """Feed all networks observations standardised by mean and std of the data set."""
    alpha: Annotated[float, Bounds(0)] = 2.5
    """Weight of the critics' opinion against imitation; 0 is behaviour cloning."""


def actor_loss(actor: Actor, critic: Critic, batch: Batch, config: TD3BCConfig) -> Tensor:
    """Return the mean squared error to the data's actions minus lambda mean Q (equation 5), `[]`.

    lambda = alpha / mean |Q| over the batch takes the scale of Q out, without gradient.
    """
    action = actor(batch.observation)
    q = critic(batch.observation, action)[..., 0, :]
    weight = config.alpha / q.detach().abs().mean(-1)
    return (action - batch.action).square().mean((-2, -1)) - weight * q.mean(-1)


class TD3BC(TD3):
    """TD3 with another actor loss, on observations standardised by the data's mean and std."""

    Config: ClassVar[type] = TD3BCConfig
    needs_data = True
    adopts_statistics: ClassVar[bool] = True
    policy_objective: ClassVar[Any] = staticmethod(actor_loss)


class TD3BCLoss(TD3Loss):
    """TD3+BC's losses as a TorchRL LossModule; see `TD3Loss`."""

    policy_objective: ClassVar[Any] = staticmethod(actor_loss)
