"""TQC: truncated quantile critics (Kuznetsov et al. 2020, arXiv 2005.04269).

Every critic predicts quantiles of the return. The target pools those of all target critics and drops the
greatest: pessimism in small steps, without a minimum over critics.

Legend: N batch, M critics, K quantiles, J of a target, O observation, A action. Losses are written for the
last axes; leading axes are independent seeds, whose losses stay apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Agent, Spaces, StateValue
from rlsuite.agents.losses import Actor, entropy_target, sample_action, soft_action_value, soft_state_value
from rlsuite.agents.optim import descend_alpha, polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import squashed_gaussian_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.exploration import Filtered, remembering_noise
from rlsuite.blocks.heads import EVALUATION_ACTIONS, GaussianActor, QuantileCritic
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import Network, check_widths
from rlsuite.blocks.noise import Noise, Source
from rlsuite.blocks.quantiles import quantile_huber_loss
from rlsuite.bounds import AtLeastOne, NotNegative, PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch, unpack

LOG_STD_RANGE = (-20.0, 2.0)  # of the actor, before exp; authors' code
KAPPA = 1.0  # of the quantile Huber loss; authors' code

Critic = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileConfig(OptimizerConfig):
    """What agents with quantile critics have in common; the defaults are TQC's authors'."""

    hidden: Widths = (512, 512, 512)
    """Widths of the critics' hidden layers."""
    hidden_actor: Widths = ()
    """Widths of the actor's hidden layers; empty is the critics'."""
    network: Network = "mlp"
    """Trunk of actor and critics; residual ones have a stem and a block for every further width."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    layer_norm: bool = False
    """Normalise the hidden layers of actor and critics."""
    actor_std: Literal["exp", "softplus"] = "exp"
    """The actor's std: exp of a clamped output, or softplus of one with a floor (STAC's paper)."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by running mean and std (replayed rows)."""
    critics: AtLeastOne = 5
    """Critics, M."""
    quantiles: AtLeastOne = 25
    """Quantiles of each, K, at the levels (k + 1/2) / K."""
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
    alpha_step: Literal["adam", "sgd", "fixed"] = "adam"
    """How log alpha descends, or that it does not."""
    alpha_init: Positive = 1.0
    """First temperature."""
    target_entropy: float | None = None
    """Entropy of actions in [-1, 1]; None is minus the action's length."""
    noise_correlation: Filtered = "white"
    """Behaviour noise from step to step: white, Ornstein-Uhlenbeck (`ou`), pink, or held."""
    evaluation: Literal["mode", "mean"] = "mode"
    """Evaluation action: tanh of the Gaussian's mean, or the squashed Gaussian's mean."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        for widths in (self.hidden, self.hidden_actor or self.hidden):
            check_widths(self.network, widths)
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TQCConfig(QuantileConfig):
    """Hyper-parameters of TQC."""

    drop: NotNegative = 2
    """Quantiles dropped per critic, from all of them together."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        QuantileConfig.__post_init__(self)
        if self.drop >= self.quantiles:
            raise ConfigError(f"drop = {self.drop} of {self.quantiles} quantiles: at least one must be left")


def truncated(theta: Tensor, config: TQCConfig) -> Tensor:
    """Return all members' quantiles `[M, N, K]` but the M times `drop` greatest, `[N, J]`."""
    pooled = theta.movedim(-3, -2).flatten(-2)
    if not config.drop:
        return pooled
    return pooled.sort(-1).values[..., : pooled.shape[-1] - config.drop * theta.shape[-3]]


def mean_of_all(theta: Tensor) -> Tensor:
    """Return the value `[N]` that the actor follows: the mean of all quantiles `[M, N, K]`."""
    return theta.mean((-3, -1))


@torch.no_grad()
def quantile_target(
    actor: Actor, target_critic: Critic, batch: Batch, alpha: Tensor, config: Any, noise: Noise, pool: Any
) -> Tensor:
    """Return r + gamma (1 - terminated)(q_j - alpha log pi(a' | s')), a' ~ pi(. | s'), `[N, J]`.

    Args:
        actor: observation -> Gaussian.
        target_critic: (observation, action) -> quantiles `[M, N, K]`.
        batch: replayed rows.
        alpha: temperature.
        config: hyper-parameters.
        noise: of the next action.
        pool: (quantiles, config) -> those that count, `[N, J]`.
    """
    action, log_prob = sample_action(actor, batch.next_observation, noise)
    kept = pool(target_critic(batch.next_observation, action), config)
    discount = batch.discount * (1 - batch.terminated)
    return batch.reward.unsqueeze(-1) + discount.unsqueeze(-1) * (kept - (alpha * log_prob).unsqueeze(-1))


def critic_loss(theta: Tensor, target: Tensor) -> Tensor:
    """Return the quantile Huber loss of critics `[M, N, K]` to `[N, J]`, `[]`.

    The mean over N, K and J, summed over members.
    """
    summed = quantile_huber_loss(theta.unsqueeze(-1), target.unsqueeze(-3).unsqueeze(-1), KAPPA)
    return summed.sum(-1) / theta.shape[-1]


def actor_loss(
    actor: Actor, critic: Critic, batch: Batch, alpha: Tensor, noise: Noise, value: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return alpha log pi - value of a fresh action, `[]`, and log pi, `[N]`."""
    action, log_prob = sample_action(actor, batch.observation, noise)
    return (alpha * log_prob - value(critic(batch.observation, action))).mean(-1), log_prob


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return the temperature loss, linear in log alpha: its gradient is -(mean log pi + target entropy)."""
    return -(log_alpha.squeeze(-1) * (log_prob.detach().mean(-1) + target_entropy))


class TQC(Agent):
    """The learner: quantile critics with targets, squashed Gaussian actor, temperature."""

    Config: ClassVar[type] = TQCConfig
    pool: ClassVar[Any] = staticmethod(truncated)
    value: ClassVar[Any] = staticmethod(mean_of_all)

    def build(self, spaces: Spaces, config: Any) -> None:
        """Make actor, critics, temperature, and the critics' target."""
        sizes = (spaces.observation, spaces.action)
        shape = replace(self.net_shape(), layer_norm=config.layer_norm)
        std = LOG_STD_RANGE if config.actor_std == "exp" else None
        narrow = replace(shape, hidden=config.hidden_actor or config.hidden)
        self.actor = GaussianActor(*sizes, narrow, log_std_range=std)
        self.critic = QuantileCritic(*sizes, shape, members=config.critics, quantiles=config.quantiles)
        learns = config.alpha_step == "adam"
        log_alpha = torch.full((*self.lead, 1), math.log(config.alpha_init))
        self.log_alpha = nn.Parameter(log_alpha, requires_grad=learns)
        self.target_entropy = entropy_target(config.target_entropy, spaces.action)
        self.critic_optimizer = make_optimizer(
            self, config, (list(self.critic.parameters()), config.lr_critic)
        )
        policy = [(list(self.actor.parameters()), config.lr_actor)]
        self.policy_optimizer = make_optimizer(
            self, config, *policy, *([([self.log_alpha], config.lr_alpha)] if learns else [])
        )
        self.add_parts(self.policy_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic)
        alphas = nn.ParameterList([self.log_alpha])
        self.add_parts(self.policy_optimizer if learns else None, alpha=alphas)
        self.target_critic = self.add_target("target_critic", self.critic)
        mode, act = EVALUATION_ACTIONS[config.evaluation], self.generators["act"]
        remembering = remembering_noise(config.noise_correlation)
        self.policy = squashed_gaussian_policy(self.actor, act, self.normalizer, mode, remembering)

    def learn(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Take all losses at the networks as they were, then step actor, temperature, critics and targets."""
        config, alpha = self.config, self.log_alpha.detach().exp()
        target = quantile_target(self.actor, self.target_critic, batch, alpha, config, noise, self.pool)
        theta = self.critic(batch.observation, batch.action)
        loss = critic_loss(theta, target)
        policy_loss, log_prob = actor_loss(self.actor, self.critic, batch, alpha, noise, self.value)
        if config.alpha_step == "adam":
            temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
            # Neither loss has a gradient for the other's parameters: one backward serves both.
            policy_norm = self.policy_optimizer.descend(policy_loss + temperature_loss)
        else:
            policy_norm = self.policy_optimizer.descend(policy_loss)
        if config.alpha_step == "sgd":
            descend_alpha(self.log_alpha, log_prob, self.target_entropy, config.lr_alpha)
        critic_norm = self.critic_optimizer.descend(loss)
        polyak(self.target_critic, self.critic, config.tau)
        return {
            "loss/critic": loss.detach(),
            "loss/actor": policy_loss.detach(),
            "q/mean": theta.detach().mean((-3, -2, -1)),
            "alpha": alpha.mean(-1),
            "entropy": -log_prob.detach().mean(-1),
            "grad_norm/critic": critic_norm,
            "grad_norm/policy": policy_norm,
        }

    def _means(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return every critic's mean, `[M, N]`."""
        return self.critic(observation, action).mean(-1)

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the value that the actor follows as `q`, and the mean target less it, `[N]`."""
        tensors, noise = self.normalized_batch(self.read(batch)), Noise(self.generators["learn"])
        networks, alpha = (self.actor, self.target_critic), self.log_alpha.exp()
        target = quantile_target(*networks, tensors, alpha, self.config, noise, self.pool)
        q = self.value(self.critic(tensors.observation, tensors.action))
        return TensorDict({"q": q, "td_error": target.mean(-1) - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by all critics' mean at ten actions each."""
        draw = partial(sample_action, self.actor)
        return soft_state_value(draw, self._means, self.log_alpha.exp(), self.normalized(observation))

    @torch.no_grad()
    def action_value(self, observation: Tensor, action: Tensor) -> StateValue:
        """Value actions `[*lead, N, A]` at observations `[*lead, N, O]` by all critics' mean."""
        alpha, observation = self.log_alpha.exp(), self.normalized(observation)
        return soft_action_value(self.actor, self._means, alpha, observation, action)


class TQCLoss(AgentLoss):
    """TQC's losses as a TorchRL LossModule: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    Args:
        actor: observation -> pre-tanh Gaussian, as `rlsuite.blocks.heads.GaussianActor`.
        critic: as `rlsuite.blocks.heads.QuantileCritic`.
        config: hyper-parameters; learning rates and how log alpha descends are the caller's business.
        actions: A, for the target entropy.
        generator: noise of both samples; None is torch's global stream.
    """

    algorithm: ClassVar[type[TQC]] = TQC

    def __init__(
        self, actor: nn.Module, critic: nn.Module, config: Any, *, actions: int, generator: Source = None
    ) -> None:
        networks, keys = {"actor": actor, "critic": critic}, ["loss_critic", "loss_actor", "loss_alpha"]
        super().__init__(networks, ("critic",), keys, generator)
        self.config = config
        self.target_entropy = entropy_target(config.target_entropy, actions)
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha_init)))

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        config, batch, noise = self.config, unpack(tensordict, self.config.gamma), self.noise
        actor, alpha = self.net("actor"), self.log_alpha.detach().exp()
        targets, pool = self.net("critic", target=True), self.algorithm.pool
        target = quantile_target(actor, targets, batch, alpha, config, noise, pool)
        theta = self.net("critic")(batch.observation, batch.action)
        fixed, value = self.net("critic", fixed=True), self.algorithm.value
        policy_loss, log_prob = actor_loss(actor, fixed, batch, alpha, noise, value)
        return TensorDict(
            {
                "loss_critic": critic_loss(theta, target),
                "loss_actor": policy_loss,
                "loss_alpha": alpha_loss(self.log_alpha, log_prob, self.target_entropy),
            }
        )
