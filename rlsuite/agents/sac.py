"""SAC: soft actor-critic with twin critics and a learnt temperature (Haarnoja et al. 2018, arXiv 1812.05905).

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Agent, Spaces, StateValue
from rlsuite.agents.losses import (
    Actor,
    Critic,
    entropy_target,
    sample_action,
    soft_action_value,
    soft_state_value,
    td_target,
)
from rlsuite.agents.optim import Adam, descend_alpha, polyak
from rlsuite.agents.policies import squashed_gaussian_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.exploration import Correlation
from rlsuite.blocks.heads import EVALUATION_ACTIONS, GaussianActor, ScalarCritic
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import Network, check_widths
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.replay.batch import Batch, unpack

LOG_STD_RANGE = (-20.0, 2.0)  # of the actor, before exp; authors' code


@dataclass(frozen=True, slots=True, kw_only=True)
class SACConfig:
    """Hyper-parameters of SAC; the defaults are those of the paper's appendix D."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    network: Network = "mlp"
    """Trunk of actor and critics; residual ones have a stem and a block for every further width."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    layer_norm: bool = False
    """Normalise the critics' hidden layers."""
    layer_norm_actor: bool = False
    """Normalise the actor's hidden layers."""
    actor_std: Literal["exp", "softplus"] = "exp"
    """The actor's std: exp of a clamped output, or softplus of one with a floor (STAC's paper)."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by running mean and std (replayed rows)."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the target critics."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critics."""
    lr_actor: Positive = 3e-4
    """Learning rate of the actor."""
    lr_alpha: Positive = 3e-4
    """Learning rate of log alpha."""
    alpha_step: Literal["adam", "sgd"] = "adam"
    """How log alpha descends; Adam's steps do not grow with the distance to the target entropy."""
    alpha_init: Positive = 1.0
    """First temperature."""
    target_entropy: float | None = None
    """Entropy of actions in [-1, 1]; None is minus the action's length."""
    critic_scale: Positive = 1.0
    """Factor of the critics' squared error; 0.5 in the authors' code. Adam feels it by its epsilon alone."""
    noise_correlation: Correlation = "white"
    """Behaviour noise from step to step: white, Ornstein-Uhlenbeck (`ou`, slow) or pink (all time scales)."""
    evaluation: Literal["mode", "mean"] = "mode"
    """Evaluation action: tanh of the Gaussian's mean, or the squashed Gaussian's mean."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_bounds(self)


@torch.no_grad()
def soft_target(target_critic: Critic, actor: Actor, batch: Batch, alpha: Tensor, noise: Noise) -> Tensor:
    """Return r + gamma (1 - terminated)(min_m Q'(s', a') - alpha log pi(a' | s')), a' ~ pi(. | s'), `[N]`."""
    action, log_prob = sample_action(actor, batch.next_observation, noise)
    next_q = target_critic(batch.next_observation, action).amin(-2)
    return td_target(batch, next_q - alpha * log_prob)


def critic_loss(q: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    """Return the squared error of the critics `[M, N]` to a target `[N]`, summed over M, times `scale`."""
    return scale * (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)


def actor_loss(
    actor: Actor, critic: Critic, batch: Batch, alpha: Tensor, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return alpha log pi - min_m Q at a fresh action, and log pi, `[N]`."""
    action, log_prob = sample_action(actor, batch.observation, noise)
    q = critic(batch.observation, action).amin(-2)
    return (alpha * log_prob - q).mean(-1), log_prob


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return the temperature loss, linear in log alpha: its gradient is -(mean log pi + target entropy)."""
    return -(log_alpha.squeeze(-1) * (log_prob.detach().mean(-1) + target_entropy))


class SAC(Agent):
    """The learner: twin critics with targets, squashed Gaussian actor, learnt temperature."""

    Config: ClassVar[type] = SACConfig
    asymmetric = True

    def build(self, spaces: Spaces, config: SACConfig) -> None:
        """Make actor, twin critics, temperature, and the critics' target."""
        sizes, shape = (spaces.observation, spaces.action), self.net_shape()
        std = LOG_STD_RANGE if config.actor_std == "exp" else None
        normed = replace(shape, layer_norm=config.layer_norm_actor)
        self.actor = GaussianActor(spaces.shown, spaces.action, normed, log_std_range=std)
        self.critic = ScalarCritic(*sizes, replace(shape, layer_norm=config.layer_norm), members=2)
        self.log_alpha = nn.Parameter(torch.full((*self.lead, 1), math.log(config.alpha_init)))
        self.target_entropy = entropy_target(config.target_entropy, spaces.action)
        self.critic_optimizer = Adam((list(self.critic.parameters()), config.lr_critic))
        policy = [(list(self.actor.parameters()), config.lr_actor)]
        if config.alpha_step == "adam":
            policy.append(([self.log_alpha], config.lr_alpha))
        self.policy_optimizer = Adam(*policy)
        self.add_parts(self.policy_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic)
        alpha_optimizer = self.policy_optimizer if config.alpha_step == "adam" else None
        self.add_parts(alpha_optimizer, alpha=nn.ParameterList([self.log_alpha]))
        self.target_critic = self.add_target("target_critic", self.critic)
        mode, act = EVALUATION_ACTIONS[config.evaluation], self.generators["act"]
        self.policy = squashed_gaussian_policy(
            self.actor, act, self.normalizer, mode, config.noise_correlation
        )

    def learn(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Step the critics, then actor and temperature against the new critics, then the targets."""
        config, alpha = self.config, self.log_alpha.detach().exp()
        target = soft_target(self.target_critic, self.actor, batch, alpha, noise)
        q = self.critic(batch.observation, batch.action)
        q_loss = critic_loss(q, target, config.critic_scale)
        critic_norm = self.critic_optimizer.descend(q_loss)
        policy_loss, log_prob = actor_loss(self.actor, self.critic, batch, alpha, noise)
        temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
        if config.alpha_step == "adam":
            # Neither loss has a gradient for the other's parameters: one backward serves both.
            policy_norm = self.policy_optimizer.descend(policy_loss + temperature_loss)
        else:
            policy_norm = self.policy_optimizer.descend(policy_loss)
            descend_alpha(self.log_alpha, log_prob, self.target_entropy, config.lr_alpha)
        polyak(self.target_critic, self.critic, config.tau)
        return {
            "loss/critic": q_loss.detach(),
            "loss/actor": policy_loss.detach(),
            "q/mean": q.detach().mean((-2, -1)),
            "alpha": alpha.mean(-1),
            "entropy": -log_prob.detach().mean(-1),
            "grad_norm/critic": critic_norm,
            "grad_norm/policy": policy_norm,
        }

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller Q-value as `q` and its distance to the target as `td_error`, `[N]`."""
        tensors, alpha = self.normalized_batch(self.read(batch)), self.log_alpha.exp()
        target = soft_target(self.target_critic, self.actor, tensors, alpha, Noise(self.generators["learn"]))
        q = self.critic(tensors.observation, tensors.action).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by both critics' mean at ten actions each."""
        draw = partial(sample_action, self.actor)
        return soft_state_value(draw, self.critic, self.log_alpha.exp(), self.normalized(observation))

    @torch.no_grad()
    def action_value(self, observation: Tensor, action: Tensor) -> StateValue:
        """Value actions `[*lead, N, A]` at observations `[*lead, N, O]` by both critics' mean."""
        alpha, observation = self.log_alpha.exp(), self.normalized(observation)
        return soft_action_value(self.actor, self.critic, alpha, observation, action)


class SACLoss(AgentLoss):
    """SAC's losses as a TorchRL LossModule: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    Args:
        actor: observation -> pre-tanh Gaussian, as `rlsuite.blocks.heads.GaussianActor`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        actions: A, for the target entropy.
        generator: noise of both samples; None is torch's global stream.
    """

    def __init__(
        self,
        actor: GaussianActor,
        critic: ScalarCritic,
        config: SACConfig,
        *,
        actions: int,
        generator: Source = None,
    ) -> None:
        networks = {"actor": actor, "critic": critic}
        super().__init__(networks, ("critic",), ["loss_critic", "loss_actor", "loss_alpha"], generator)
        self.config = config
        self.target_entropy = entropy_target(config.target_entropy, actions)
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha_init)))

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        batch, noise = unpack(tensordict, self.config.gamma), self.noise
        actor, alpha = self.net("actor"), self.log_alpha.detach().exp()
        target = soft_target(self.net("critic", target=True), actor, batch, alpha, noise)
        q = self.net("critic")(batch.observation, batch.action)
        policy_loss, log_prob = actor_loss(actor, self.net("critic", fixed=True), batch, alpha, noise)
        return TensorDict(
            {
                "loss_critic": critic_loss(q, target, self.config.critic_scale),
                "loss_actor": policy_loss,
                "loss_alpha": alpha_loss(self.log_alpha, log_prob, self.target_entropy),
            }
        )
