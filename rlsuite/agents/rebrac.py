"""ReBRAC: TD3+BC with the penalty in both losses (Tarasov et al. 2023, arXiv 2305.09836).

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rlsuite.agents.base import Columns, Spaces
from rlsuite.agents.losses import Critic, smoothed_next_action, td_target
from rlsuite.agents.td3 import TD3, Actor, TD3Config, TD3Loss
from rlsuite.blocks.mlp import Linear, Norm
from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import Noise, Source, uniform
from rlsuite.bounds import Bounds, UnitInterval, Widths
from rlsuite.replay.batch import Batch

HIDDEN_BIAS = 0.1  # first biases of hidden layers; authors' code, as the next two
ACTOR_HEAD = 1e-3  # bound of the first weights and biases of the actor's last layer
CRITIC_HEAD = 3e-3  # the same of the critics


@dataclass(frozen=True, kw_only=True)
class ReBRACConfig(TD3Config):
    """Hyper-parameters of ReBRAC; the defaults are those of CORL's configurations for Adroit's data."""

    hidden: Widths = (256, 256, 256)
    """Widths of the hidden layers of actor and critics."""
    beta_actor: Annotated[float, Bounds(0)] = 0.1
    """Weight of the actor's squared distance to the data's action, summed over its numbers."""
    beta_critic: Annotated[float, Bounds(0)] = 0.1
    """Weight of the target policy's squared distance to the data's next action, taken from the next value."""
    normalize_q: bool = True
    """Divide the actor's value term by the mean of its absolute values."""
    critic_norm: Literal["after", "before", "none"] = "after"
    """Layer normalisation of the critics' hidden layers: after their activation (authors), or before."""
    init: Literal["authors", "uniform"] = "authors"
    """First weights: hidden biases 0.1 and small last layers (authors), or torch's uniform ones."""
    online_floor: UnitInterval = 0.5
    """Online `beta_actor` is multiplied by the share of updates that are left, but by no less than this."""


@torch.no_grad()
def penalised_target(
    target_actor: Actor, target_critic: Critic, batch: Batch, config: ReBRACConfig, noise: Noise
) -> Tensor:
    """Return r + gamma (1 - terminated)(min_m Q'(s', a~) - beta_critic |a~ - a'|^2), `[N]`.

    a~ is the smoothed action of the target policy, a' the next recorded one (equation 4). Batches without
    next actions, those made online, have no penalty (authors' fine-tuning).
    """
    action = smoothed_next_action(target_actor, batch, config.target_noise, config.target_noise_clip, noise)
    next_q = target_critic(batch.next_observation, action).amin(-2)
    if batch.next_action is None:
        return td_target(batch, next_q)
    distance = (action - batch.next_action).square().sum(-1)
    return td_target(batch, next_q - config.beta_critic * distance)


def actor_loss(
    actor: Actor, critic: Critic, batch: Batch, config: ReBRACConfig, factor: Tensor | float = 1.0
) -> Tensor:
    """Return the mean of factor beta_actor |p - a|^2 - lambda min_m Q(s, p) at the actor's actions p, `[]`.

    lambda = 1 / mean |min_m Q| over the batch, without gradient; 1 without `normalize_q` (equation 5).
    """
    action = actor(batch.observation)
    q = critic(batch.observation, action).amin(-2)
    distance = (action - batch.action).square().sum(-1)
    weight = 1 / q.detach().abs().mean(-1) if config.normalize_q else 1.0
    return config.beta_actor * factor * distance.mean(-1) - weight * q.mean(-1)


@torch.no_grad()
def authors_init_(network: nn.Module, head: Linear, bound: float, source: Source) -> None:
    """Set hidden biases to 0.1 and draw weights and biases of the last layer in +-`bound`, in place."""
    for layer in network.modules():
        if isinstance(layer, Linear) and layer is not head:
            layer.bias.fill_(HIDDEN_BIAS)
    for parameter in (head.weight, head.bias):
        parameter.copy_(uniform(parameter, source, -bound, bound))


class ReBRAC(TD3):
    """TD3 with both penalties, the twins' minimum for the actor, and layer norms in the critics."""

    Config: ClassVar[type] = ReBRACConfig
    needs_data = True
    adopts_statistics: ClassVar[bool] = True
    policy_objective: ClassVar[Any] = staticmethod(actor_loss)
    bellman_target: ClassVar[Any] = staticmethod(penalised_target)
    online_updates: Tensor
    online_done: Tensor

    def build(self, spaces: Spaces, config: ReBRACConfig) -> None:  # type: ignore[override]
        """Make TD3's networks with the authors' first weights."""
        super().build(spaces, config)
        self._updates = 0  # of the whole run
        for name in ("online_updates", "online_done"):  # of updates that follow the data; 0 before
            self.register_buffer(name, torch.zeros(1))
        if config.init == "uniform":
            return
        for network, bound in ((self.actor, ACTOR_HEAD), (self.critic, CRITIC_HEAD)):
            authors_init_(network, network.trunk.head, bound, self.generators["init"])
        for target, network in ((self.target_actor, self.actor), (self.target_critic, self.critic)):
            target.load_state_dict(network.state_dict())

    def critic_shape(self) -> NetShape:
        """Return the networks' shape with layer norms."""
        norms: dict[str, Norm] = {"after": "after", "before": True, "none": False}
        return replace(self.net_shape(), layer_norm=norms[self.config.critic_norm])

    def begin(self, updates: int) -> None:
        """Learn how many updates the run makes in all."""
        self._updates = updates

    def start_online(self) -> None:
        """Begin to relax the actor's penalty; the critics' ends, for batches have no next actions now."""
        self.online_updates.fill_(max(0, self._updates - self.update_count))

    def penalty_factor(self) -> Tensor:
        """Return the factor of `beta_actor`, `[]`: 1 on data, then the share of updates left or the floor."""
        left = 1 - self.online_done / self.online_updates.clamp(min=1)
        return left.clamp(min=self.config.online_floor).squeeze(-1)

    def policy_loss(self, batch: Batch) -> Tensor:
        """Return the actor's loss, `[]`."""
        return actor_loss(self.actor, self.critic, batch, self.config, self.penalty_factor())

    def learn(self, batch: Batch, noise: Noise, *, moves_actor: bool) -> dict[str, Tensor]:  # type: ignore[override]
        """Update as TD3 does, and count the updates that follow the data."""
        metrics = super().learn(batch, noise, moves_actor=moves_actor)
        self.online_done.add_((self.online_updates > 0).to(self.online_done.dtype))
        return metrics

    @classmethod
    def columns(cls, config: ReBRACConfig) -> Columns:
        """Return that batches need the next action."""
        return Columns(next_action=True)

    @classmethod
    def online_columns(cls, config: ReBRACConfig) -> Columns:
        """Return that batches online do without: their critics have no penalty."""
        return Columns()


class ReBRACLoss(TD3Loss):
    """ReBRAC's losses as a TorchRL LossModule; see `TD3Loss`. Batches need a column ("next", "action")."""

    policy_objective: ClassVar[Any] = staticmethod(actor_loss)
    bellman_target: ClassVar[Any] = staticmethod(penalised_target)
