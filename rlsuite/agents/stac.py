"""STAC: soft actor-critic with one Gaussian critic and pessimism from its deviation (Özalp 2026).

"Stochastic Actor-Critic: Mitigating Overestimation via Temporal Aleatoric Uncertainty", arXiv 2601.00737.
The critic is fitted by likelihood to one-step targets, so that its deviation measures how much a target
varies for a given observation and action; beta deviations are taken off in the target and for the actor.

Legend: N batch, M critics (one; two for ESTAC), O observation, A action. Losses are written for the last
axes; leading axes are independent seeds, whose losses stay apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Agent, Spaces, StateValue
from rlsuite.agents.losses import entropy_target, soft_action_value, soft_state_value, td_target
from rlsuite.agents.optim import descend_alpha, polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import evaluating, squashed_gaussian_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.encoder import EncoderFields
from rlsuite.blocks.heads import (
    EVALUATION_ACTIONS,
    LOG_2PI,
    FlooredGaussianCritic,
    Gaussian,
    GaussianActor,
    squash,
)
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import Network, check_widths
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import AtLeastOne, Bounds, PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.replay.batch import Batch, detached, unpack

Actor = Callable[[Tensor, Noise], Gaussian]
Critic = Callable[[Tensor, Tensor, Noise], Gaussian]


@dataclass(frozen=True, slots=True, kw_only=True)
class STACConfig(EncoderFields, OptimizerConfig):
    """Hyper-parameters of STAC; defaults as in the paper, beta and dropout our choice among its values."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers of actor and critic, each with LayerNorm."""
    network: Network = "mlp"
    """Trunk of actor and critics; residual ones have a stem and a block for every further width."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    beta: Annotated[float, Bounds(0)] = 0.25
    """Deviations taken off the mean; of the paper's five values the one that is never its worst."""
    critics: AtLeastOne = 1
    """Critics of which the lowest counts; 2 with beta 0 is the paper's ESTAC."""
    dropout_actor: Annotated[float, Bounds(0, 0.99)] = 0.01
    """Dropout rate of the actor, in behaviour, targets and losses."""
    dropout_critic: Annotated[float, Bounds(0, 0.99)] = 0.01
    """Dropout rate of critic and target critic."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by running mean and std (replayed rows)."""
    delay: AtLeastOne = 1
    """Updates of the critic for each of actor and temperature; an addition, for many updates an env step."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the target critic."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critic."""
    lr_actor: Positive = 3e-4
    """Learning rate of the actor."""
    lr_alpha: Positive = 3e-4
    """Rate of the temperature's own step, see `update`."""
    alpha_init: Positive = 0.2
    """First temperature."""
    target_entropy: float | None = None
    """Entropy of actions in [-1, 1]; None is minus the action's length."""
    evaluation: Literal["mean", "mode"] = "mean"
    """Evaluation action: the squashed Gaussian's mean, or tanh of the Gaussian's."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_bounds(self)


def pessimistic(returns: Gaussian, beta: float) -> Tensor:
    """Mean less beta stds, `[M, N]`: what target and actor see of the critic."""
    return returns.mean - beta * returns.std if beta else returns.mean


def likelihood_loss(returns: Gaussian, target: Tensor) -> Tensor:
    """Negative log-likelihood of targets `[N]` under the critics `[M, N]`; summed over members.

    Both mean and std get their gradient; nothing is clipped (paper, section 4.1).
    """
    error = (target.unsqueeze(-2) - returns.mean) / returns.std
    return (0.5 * LOG_2PI + returns.std.log() + 0.5 * error.square()).mean(-1).sum(-1)


def stac_alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Temperature loss alpha (entropy - target entropy): plain gradient descent on log alpha is the paper's.

    Adam is not: its steps do not shrink with alpha.
    """
    return -(log_alpha.exp().squeeze(-1) * (log_prob.detach().mean(-1) + target_entropy))


def sample_action(actor: Actor, observation: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw actions in [-1, 1], `[N, A]`, and their log-densities, `[N]`, of an actor with dropout."""
    gaussian = actor(observation, noise)
    return squash(gaussian, noise.normal(gaussian.mean))


@torch.no_grad()
def pessimistic_target(
    target_critic: Critic, actor: Actor, batch: Batch, alpha: Tensor, beta: float, noise: Noise
) -> Tensor:
    """Draw the next action from the policy and return the pessimistic one-step soft target, `[N]`.

    The target critic's mean enters, never a sample: the std stays that of one step.
    """
    action, log_prob = sample_action(actor, batch.next_observation, noise)
    next_q = pessimistic(target_critic(batch.next_observation, action, noise), beta).amin(-2)
    return td_target(batch, next_q - alpha * log_prob)


def actor_loss(
    actor: Actor, critic: Critic, batch: Batch, alpha: Tensor, beta: float, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return alpha log pi - the lowest pessimistic value at a fresh action, and log pi, `[N]`."""
    action, log_prob = sample_action(actor, batch.observation, noise)
    q = pessimistic(critic(batch.observation, action, noise), beta).amin(-2)
    return (alpha * log_prob - q).mean(-1), log_prob


class STAC(Agent):
    """The learner: a Gaussian critic with its target, squashed Gaussian actor, learnt temperature.

    All dropout masks come from the stream "learn". Log alpha is a double, as in the author's code: the
    steps of a small temperature would be lost in single precision.
    """

    Config: ClassVar[type] = STACConfig
    asymmetric = True

    def build(self, spaces: Spaces, config: STACConfig) -> None:
        """Make actor, critic with its target, and temperature."""
        sizes = (spaces.observation, spaces.action)
        shape = replace(self.net_shape(), layer_norm=True, dropout_generator=self.generators["learn"])
        dropped = replace(shape, dropout=config.dropout_actor)
        self.actor = GaussianActor(spaces.shown, spaces.action, dropped, log_std_range=None)
        dropped = replace(shape, dropout=config.dropout_critic)
        self.critic = FlooredGaussianCritic(*sizes, dropped, members=config.critics)
        with torch.no_grad():  # stds start near log 2; author's code
            self.critic.trunk.head.bias[..., 1] = 0
        log_alpha = torch.full((*self.lead, 1), math.log(config.alpha_init), dtype=torch.float64)
        self.log_alpha = nn.Parameter(log_alpha, requires_grad=False)
        self.target_entropy = entropy_target(config.target_entropy, spaces.action)
        self.critic_optimizer = make_optimizer(
            self, config, (self.critic_parameters(self.critic), config.lr_critic)
        )
        self.actor_optimizer = make_optimizer(self, config, (list(self.actor.parameters()), config.lr_actor))
        self.add_parts(self.actor_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic, **self.encoder_part())
        self.add_parts(None, alpha=nn.ParameterList([self.log_alpha]))
        self.target_critic = self.add_target("target_critic", self.critic)
        mode = EVALUATION_ACTIONS[config.evaluation]
        self.policy = squashed_gaussian_policy(self.actor, self.generators["act"], self.preprocessor, mode)

    def phase(self) -> dict[str, Any]:
        """Return whether the next update moves actor and temperature: every `delay`-th does."""
        delay = self.config.delay
        return {} if delay == 1 else {"moves_actor": (self.update_count + 1) % delay == 0}

    def learn(  # type: ignore[override]
        self, batch: Batch, noise: Noise, *, moves_actor: bool = True
    ) -> dict[str, Tensor]:
        """Step the critic, move its target, then step actor and temperature against the new critic."""
        config = self.config
        alpha, beta = self.log_alpha.exp().to(batch.reward.dtype), config.beta
        target = pessimistic_target(self.target_critic, self.actor, batch, alpha, beta, noise)
        returns = self.critic(batch.observation, batch.action, noise)
        loss = likelihood_loss(returns, target)
        critic_norm = self.critic_optimizer.descend(loss)
        polyak(self.target_critic, self.critic, config.tau)
        metrics = {
            "loss/critic": loss.detach(),
            "q/mean": returns.mean.detach().mean((-2, -1)),
            "q/std": returns.std.detach().mean((-2, -1)),
            "grad_norm/critic": critic_norm,
        }
        return metrics | self.move_actor(detached(batch), noise) if moves_actor else metrics

    def move_actor(self, seen: Batch, noise: Noise) -> dict[str, Tensor]:
        """Step actor and temperature; return metrics.

        The temperature follows alpha <- alpha exp(lr alpha (target entropy - entropy)): plain gradient
        descent on log alpha, slow where alpha is small (author's code).
        """
        config, exact = self.config, self.log_alpha.exp()
        alpha = exact.to(seen.reward.dtype)
        policy_loss, log_prob = actor_loss(self.actor, self.critic, seen, alpha, config.beta, noise)
        policy_norm = self.actor_optimizer.descend(policy_loss)
        descend_alpha(self.log_alpha, log_prob, self.target_entropy, config.lr_alpha * exact)
        return {
            "loss/actor": policy_loss.detach(),
            "alpha": alpha.mean(-1),
            "entropy": -log_prob.detach().mean(-1),
            "grad_norm/policy": policy_norm,
        }

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the pessimistic value as `q` and its distance to the target as `td_error`, `[N]`."""
        tensors, beta = self.normalized_batch(self.read(batch)), self.config.beta
        noise, alpha = Noise(self.generators["learn"]), self.log_alpha.exp().to(tensors.reward.dtype)
        with evaluating(self.actor, self.critic, self.target_critic):
            target = pessimistic_target(self.target_critic, self.actor, tensors, alpha, beta, noise)
            q = pessimistic(self.critic(tensors.observation, tensors.action), beta).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by the critic's mean, without pessimism, at ten actions each."""

        def draw(observation: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
            return sample_action(self.actor, observation, noise)

        alpha = self.log_alpha.exp().to(observation.dtype)
        with evaluating(self.actor, self.critic):
            return soft_state_value(draw, self.critic.expected, alpha, self.normalized(observation))

    @torch.no_grad()
    def action_value(self, observation: Tensor, action: Tensor) -> StateValue:
        """Value actions `[*lead, N, A]` at observations `[*lead, N, O]` by the critic's mean."""
        alpha, observation = self.log_alpha.exp().to(observation.dtype), self.normalized(observation)
        with evaluating(self.actor, self.critic):
            return soft_action_value(self.actor, self.critic.expected, alpha, observation, action)


class STACLoss(AgentLoss):
    """STAC's losses as a TorchRL LossModule: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    Args:
        actor: observation -> pre-tanh Gaussian, as `rlsuite.blocks.heads.GaussianActor`.
        critic: as `rlsuite.blocks.heads.FlooredGaussianCritic`. Keep actor and critic in training mode:
            dropout is part of the targets, too.
        config: hyper-parameters; learning rates and `delay` are the caller's business. Step log alpha by
            `torch.optim.SGD` to follow the paper.
        actions: A, for the target entropy.
        generator: noise and dropout of both samples; None is torch's global stream.
    """

    def __init__(
        self,
        actor: GaussianActor,
        critic: FlooredGaussianCritic,
        config: STACConfig,
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
        config, batch, noise = self.config, unpack(tensordict, self.config.gamma), self.noise
        actor, alpha, beta = self.net("actor"), self.log_alpha.detach().exp(), config.beta
        target = pessimistic_target(self.net("critic", target=True), actor, batch, alpha, beta, noise)
        returns = self.net("critic")(batch.observation, batch.action, noise)
        policy_loss, log_prob = actor_loss(actor, self.net("critic", fixed=True), batch, alpha, beta, noise)
        return TensorDict(
            {
                "loss_critic": likelihood_loss(returns, target),
                "loss_actor": policy_loss,
                "loss_alpha": stac_alpha_loss(self.log_alpha, log_prob, self.target_entropy),
            }
        )
