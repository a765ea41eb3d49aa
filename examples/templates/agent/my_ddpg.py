"""DDPG: one critic and one deterministic actor (Lillicrap et al. 2015, arXiv 1509.02971); a template.

Legend: N batch, O observation, A action. Losses are written for the last axes: leading axes are independent
seeds, whose losses stay apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.agents.base import Agent, Spaces
from rlsuite.agents.losses import squared_td_loss, td_target
from rlsuite.agents.optim import Adam, polyak
from rlsuite.agents.policies import clipped_policy
from rlsuite.blocks.heads import DeterministicActor, ScalarCritic
from rlsuite.blocks.noise import Noise
from rlsuite.bounds import PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.replay.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class MyDDPGConfig:
    """Hyper-parameters: fields become flags, `--agent.tau`, and the line below a field its help."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers of actor and critic."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the targets."""
    lr: Positive = 3e-4
    """Learning rate of actor and critic."""
    exploration_noise: float = 0.1
    """Standard deviation of the behaviour noise, for actions in [-1, 1]."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range; the command line makes one sentence of it."""
        check_bounds(self)


@torch.no_grad()
def target_of(actor: Callable[..., Tensor], critic: Callable[..., Tensor], batch: Batch) -> Tensor:
    """Return r + gamma (1 - terminated) Q'(s', pi'(s')), `[N]`; a truncated transition bootstraps."""
    next_q = critic(batch.next_observation, actor(batch.next_observation))
    return td_target(batch, next_q.squeeze(-2))


class MyDDPG(Agent):
    """The learner. Whatever changes is a parameter, a buffer, an optimiser or one of `generators`."""

    Config: ClassVar[type] = MyDDPGConfig

    def build(self, spaces: Spaces, config: MyDDPGConfig) -> None:
        """Make networks, targets, optimisers and the policy; what is named a part is saved."""
        sizes, shape = (spaces.observation, spaces.action), self.net_shape()
        self.actor = DeterministicActor(*sizes, shape)
        self.critic = ScalarCritic(*sizes, shape, members=1)
        self.actor_optimizer = Adam((list(self.actor.parameters()), config.lr))
        self.critic_optimizer = Adam((list(self.critic.parameters()), config.lr))
        self.add_parts(self.actor_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic)
        self.target_actor = self.add_target("target_actor", self.actor)
        self.target_critic = self.add_target("target_critic", self.critic)
        std = config.exploration_noise
        self.policy = clipped_policy(self.actor, self.generators["act"], self.normalizer, std)

    def learn(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Step critic, actor and targets: tensor operations only, so that the whole can be compiled."""
        target = target_of(self.target_actor, self.target_critic, batch)
        loss = squared_td_loss(self.critic(batch.observation, batch.action), target)
        critic_norm = self.critic_optimizer.descend(loss)
        actor_loss = -self.critic(batch.observation, self.actor(batch.observation)).mean((-2, -1))
        actor_norm = self.actor_optimizer.descend(actor_loss)
        polyak(self.target_critic, self.critic, self.config.tau)
        polyak(self.target_actor, self.actor, self.config.tau)
        return {
            "loss/critic": loss.detach(),
            "loss/actor": actor_loss.detach(),
            "grad_norm/critic": critic_norm,
            "grad_norm/actor": actor_norm,
        }

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return `q` and its distance to the target, `td_error`, `[N]`."""
        tensors = self.normalized_batch(self.read(batch))
        target = target_of(self.target_actor, self.target_critic, tensors)
        q = self.critic(tensors.observation, tensors.action).squeeze(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)
