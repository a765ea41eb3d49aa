"""AWAC: advantage-weighted actor-critic from recorded data and beyond (Nair et al. 2020, arXiv 2006.09359).

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.agents.base import Spaces
from rlsuite.agents.iql import IQL, LOG_STD_MAX, advantage_weights, extraction_loss
from rlsuite.agents.losses import Actor, Critic, squared_td_loss, td_target
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import clipped_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.heads import ScalarCritic, UnsquashedActor
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import Bounds, PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.replay.batch import Batch, unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class AWACConfig(OptimizerConfig):
    """Hyper-parameters of AWAC; the defaults are those of CORL's configurations for locomotion."""

    hidden: Widths = (256, 256, 256)
    """Widths of the hidden layers of actor and critics."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    tanh_mean: bool = False
    """The actor's mean is the tanh of its network, as IQL's is; CORL's has no bound."""
    normalize_observations: bool = True
    """Feed all networks observations standardised by mean and std of the data set."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the target critics."""
    temperature: Positive = 1 / 3
    """By which advantages are divided before exp, the paper's lambda; the smaller, the greedier."""
    max_weight: Positive = 100.0
    """Bound of the advantage weights."""
    log_std_min: Annotated[float, Bounds(high=LOG_STD_MAX)] = -20.0
    """Lower bound of the actor's log-std; the upper one is 2."""
    exploration_noise: Annotated[float | None, Bounds(0)] = None
    """Deviation of behaviour noise for actions in [-1, 1]; none: the actor's own."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critics."""
    lr_actor: Positive = 3e-4
    """Learning rate of the actor."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


def sampled_action(actor: Actor, observation: Tensor, noise: Noise) -> Tensor:
    """Draw actions of the policy, clipped to [-1, 1], `[N, A]`."""
    policy = actor(observation)
    return (policy.mean + policy.std * noise.normal(policy.mean)).clamp(-1, 1)


@torch.no_grad()
def sampled_target(target_critic: Critic, actor: Actor, batch: Batch, noise: Noise) -> Tensor:
    """Return r + gamma (1 - terminated) min_m Q'(s', a'), a' ~ pi(. | s'), `[N]`."""
    action = sampled_action(actor, batch.next_observation, noise)
    return td_target(batch, target_critic(batch.next_observation, action).amin(-2))


@torch.no_grad()
def policy_weights(critic: Critic, actor: Actor, batch: Batch, config: AWACConfig, noise: Noise) -> Tensor:
    """Return min(exp((min_m Q(s, a) - min_m Q(s, p)) / temperature), max_weight), p ~ pi(. | s), `[N]`.

    One action of the policy stands for its value (CORL; equation 9 of the paper has the expectation).
    """
    q = critic(batch.observation, batch.action).amin(-2)
    value = critic(batch.observation, sampled_action(actor, batch.observation, noise)).amin(-2)
    return advantage_weights(q, value, 1 / config.temperature, config.max_weight)


class AWAC(IQL):
    """IQL's weighted regression with the policy's own value for a baseline, and critics of that policy."""

    Config: ClassVar[type] = AWACConfig
    needs_data = True
    actor: UnsquashedActor

    def build(self, spaces: Spaces, config: AWACConfig) -> None:  # type: ignore[override]
        """Make actor, twin critics and their target."""
        sizes, shape = (spaces.observation, spaces.action), self.net_shape()
        self.actor = UnsquashedActor(
            *sizes, shape, log_std_range=(config.log_std_min, LOG_STD_MAX), tanh=config.tanh_mean
        )
        self.critic = ScalarCritic(*sizes, shape, members=2)
        self.critic_optimizer = make_optimizer(
            self, config, (list(self.critic.parameters()), config.lr_critic)
        )
        self.actor_optimizer = make_optimizer(self, config, (list(self.actor.parameters()), config.lr_actor))
        self.add_parts(self.actor_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic)
        self.target_critic = self.add_target("target_critic", self.critic)
        std = config.exploration_noise
        self.policy = clipped_policy(self.actor, self.generators["act"], self.normalizer, std)

    def learn(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Step the critics, then the actor with the new critics' advantages, then the targets."""
        target = sampled_target(self.target_critic, self.actor, batch, noise)
        q = self.critic(batch.observation, batch.action)
        q_loss = squared_td_loss(q, target)
        metrics = {"grad_norm/critic": self.critic_optimizer.descend(q_loss)}
        weights = policy_weights(self.critic, self.actor, batch, self.config, noise)
        policy_loss = extraction_loss(self.actor, batch, weights, noise)
        metrics["grad_norm/actor"] = self.actor_optimizer.descend(policy_loss)
        polyak(self.target_critic, self.critic, self.config.tau)
        return metrics | {
            "loss/critic": q_loss.detach(),
            "loss/actor": policy_loss.detach(),
            "q/mean": q.detach().mean((-2, -1)),
            "weight/mean": weights.mean(-1),
        }

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller Q-value as `q` and its distance to the target as `td_error`, `[N]`."""
        tensors = self.normalized_batch(self.read(batch))
        target = sampled_target(self.target_critic, self.actor, tensors, Noise(self.generators["learn"]))
        q = self.critic(tensors.observation, tensors.action).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    def start_online(self) -> None:
        """Go on as before: no rate decays."""


class AWACLoss(AgentLoss):
    """AWAC's losses as a TorchRL LossModule: `loss_critic` and `loss_actor` of a replayed batch.

    Both read the critics as they are; a loop that steps on `loss_critic` first and calls the module again for
    the other has the agent's order.

    Args:
        actor: observation -> Gaussian of actions, as `rlsuite.blocks.heads.UnsquashedActor`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        generator: of the policy's samples; None is torch's global stream.
    """

    def __init__(
        self, actor: UnsquashedActor, critic: ScalarCritic, config: AWACConfig, *, generator: Source = None
    ) -> None:
        networks = {"actor": actor, "critic": critic}
        super().__init__(networks, ("critic",), ["loss_critic", "loss_actor"], generator)
        self.config = config

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return both losses."""
        batch, noise = unpack(tensordict, self.config.gamma), self.noise
        actor, critic = self.net("actor"), self.net("critic")
        target = sampled_target(self.net("critic", target=True), actor, batch, noise)
        q_loss = squared_td_loss(critic(batch.observation, batch.action), target)
        weights = policy_weights(critic, actor, batch, self.config, noise)
        return TensorDict(
            {"loss_critic": q_loss, "loss_actor": extraction_loss(actor, batch, weights, noise)}
        )
