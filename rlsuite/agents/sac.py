"""SAC: soft actor-critic with twin critics and a learnt temperature (Haarnoja et al. 2018, arXiv 1812.05905).

REDQ (Chen et al. 2021, arXiv 2101.05982) and DroQ (Hiraoka et al. 2022, arXiv 2110.02034) are presets of its
fields: many critics of which the target takes a random few, or two with dropout, at many updates an env step.
RLPD (Ball et al. 2023, arXiv 2302.02948) is REDQ with LayerNorm on batches half of which are recorded.

Legend: N batch, M critics (2 unless told otherwise), O observation, A action. Losses are written for the last
axes; leading axes are independent seeds, whose losses stay apart.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

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
from rlsuite.agents.optim import descend_alpha, polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import evaluating, squashed_gaussian_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.encoder import EncoderFields
from rlsuite.blocks.exploration import Correlation, remembering_noise
from rlsuite.blocks.heads import EVALUATION_ACTIONS, GaussianActor, ScalarCritic
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import Network, check_widths
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import (
    AtLeastOne,
    DropoutRate,
    NotNegative,
    PolyakRate,
    Positive,
    UnitInterval,
    Widths,
    check_bounds,
)
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch, detached, unpack

LOG_STD_RANGE = (-20.0, 2.0)  # of the actor, before exp; authors' code


@dataclass(frozen=True, slots=True, kw_only=True)
class SACConfig(EncoderFields, OptimizerConfig):
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
    critics: AtLeastOne = 2
    """Critics; all of them learn from one target."""
    target_subset: NotNegative = 0
    """Critics of the target's minimum, drawn anew at every update for the whole batch (REDQ); 0: all."""
    actor_value: Literal["min", "mean"] = "min"
    """What the actor sees of the critics: the least value, or the mean of all (REDQ, DroQ)."""
    dropout_critic: DropoutRate = 0.0
    """Dropout rate of critics and targets, in every pass of an update (DroQ)."""
    delay: AtLeastOne = 1
    """Critic updates per update of actor and temperature; the targets move at every one."""
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
    """Entropy of actions in [-1, 1]; None is minus the action's length times `entropy_share`."""
    entropy_share: Positive = 1.0
    """Factor of the target entropy that follows from the action's length (RLPD: 0.5)."""
    entropy_backup: bool = True
    """The critics' target has the entropy bonus; without it the actor's loss alone has it (RLPD, sparse)."""
    critic_scale: Positive = 1.0
    """Factor of the critics' squared error; 0.5 in the authors' code. Adam feels it by its epsilon alone."""
    noise_correlation: Correlation = "white"
    """Behaviour noise from step to step: white, Ornstein-Uhlenbeck (`ou`, slow), pink (all time scales), or a
    random function of the state (`sde`)."""
    sde_steps: AtLeastOne = 32
    """Env steps for which `sde` keeps its function; our choice."""
    evaluation: Literal["mode", "mean"] = "mode"
    """Evaluation action: tanh of the Gaussian's mean, or the squashed Gaussian's mean."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_bounds(self)
        if self.target_subset > self.critics:
            raise ConfigError(
                f"target_subset = {self.target_subset}: must be at most critics = {self.critics}"
            )


def least_of(q: Tensor, subset: int, noise: Noise) -> Tensor:
    """Return the minimum over `subset` random members of values `[M, N]`, the same for all N; 0: over all."""
    if not subset:
        return q.amin(-2)
    members = noise.uniform(q[..., 0]).topk(subset, -1).indices  # without replacement, each seed its own
    return q.gather(-2, members.unsqueeze(-1).expand(*members.shape, q.shape[-1])).amin(-2)


@torch.no_grad()
def soft_target(
    target_critic: Critic,
    actor: Actor,
    batch: Batch,
    alpha: Tensor,
    noise: Noise,
    subset: int = 0,
    backup: bool = True,
) -> Tensor:
    """Return r + gamma (1 - terminated)(min_m Q'(s', a') - alpha log pi(a' | s')), a' ~ pi(. | s'), `[N]`.

    The minimum is over all members, or over `subset` random ones (REDQ, equation 1). Without `backup` the
    entropy term is left out (RLPD, section 4.3).
    """
    action, log_prob = sample_action(actor, batch.next_observation, noise)
    next_q = least_of(target_critic(batch.next_observation, action), subset, noise)
    return td_target(batch, next_q - alpha * log_prob if backup else next_q)


def critic_loss(q: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    """Return the squared error of the critics `[M, N]` to a target `[N]`, summed over M, times `scale`."""
    return scale * (q - target.unsqueeze(-2)).square().mean(-1).sum(-1)


def actor_loss(
    actor: Actor, critic: Critic, batch: Batch, alpha: Tensor, noise: Noise, value: str = "min"
) -> tuple[Tensor, Tensor]:
    """Return alpha log pi - min_m Q (or the members' mean) at a fresh action, and log pi, `[N]`."""
    action, log_prob = sample_action(actor, batch.observation, noise)
    q = critic(batch.observation, action)
    q = q.amin(-2) if value == "min" else q.mean(-2)
    return (alpha * log_prob - q).mean(-1), log_prob


def dropped(critic: Any, noise: Noise) -> Critic:
    """Return a critic whose dropout masks, where it has any, come from the update's noise."""
    return lambda observation, action: critic(observation, action, noise)


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return the temperature loss, linear in log alpha: its gradient is -(mean log pi + target entropy)."""
    return -(log_alpha.squeeze(-1) * (log_prob.detach().mean(-1) + target_entropy))


class SAC(Agent):
    """The learner: critics with targets, squashed Gaussian actor, learnt temperature."""

    Config: ClassVar[type] = SACConfig
    asymmetric = True

    def build(self, spaces: Spaces, config: SACConfig) -> None:
        """Make actor, critics, temperature, and the critics' target."""
        sizes, shape = (spaces.observation, spaces.action), self.net_shape()
        std = LOG_STD_RANGE if config.actor_std == "exp" else None
        normed = replace(shape, layer_norm=config.layer_norm_actor)
        self.actor = GaussianActor(spaces.shown, spaces.action, normed, log_std_range=std)
        dropout = {"dropout": config.dropout_critic, "dropout_generator": self.generators["learn"]}
        normed_critic = replace(shape, layer_norm=config.layer_norm, **dropout)  # type: ignore[arg-type]
        self.critic = ScalarCritic(*sizes, normed_critic, members=config.critics)
        # A double where it takes plain steps, as in the STAC author's code: small ones would be lost.
        precision = torch.float64 if config.alpha_step == "sgd" else torch.get_default_dtype()
        log_alpha = torch.full((*self.lead, 1), math.log(config.alpha_init), dtype=precision)
        self.log_alpha = nn.Parameter(log_alpha)
        self.target_entropy = entropy_target(config.target_entropy, spaces.action, config.entropy_share)
        self.critic_optimizer = make_optimizer(
            self, config, (self.critic_parameters(self.critic), config.lr_critic)
        )
        policy = [(list(self.actor.parameters()), config.lr_actor)]
        if config.alpha_step == "adam":
            policy.append(([self.log_alpha], config.lr_alpha))
        self.policy_optimizer = make_optimizer(self, config, *policy)
        self.add_parts(self.policy_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic, **self.encoder_part())
        alpha_optimizer = self.policy_optimizer if config.alpha_step == "adam" else None
        self.add_parts(alpha_optimizer, alpha=nn.ParameterList([self.log_alpha]))
        self.target_critic = self.add_target("target_critic", self.critic)
        mode, act = EVALUATION_ACTIONS[config.evaluation], self.generators["act"]
        remembering = remembering_noise(config.noise_correlation, config.hidden[-1], config.sde_steps)
        self.policy = squashed_gaussian_policy(self.actor, act, self.preprocessor, mode, remembering)

    def temperature(self, like: Tensor) -> Tensor:
        """Return alpha `[*lead, 1]`, without gradient, in the precision of `like`."""
        return self.log_alpha.detach().exp().to(like.dtype)

    def phase(self) -> dict[str, Any]:
        """Return whether the next update moves actor and temperature: every `delay`-th does."""
        delay = self.config.delay
        return {} if delay == 1 else {"moves_actor": (self.update_count + 1) % delay == 0}

    def learn(  # type: ignore[override]
        self, batch: Batch, noise: Noise, *, moves_actor: bool = True
    ) -> dict[str, Tensor]:
        """Step the critics, then actor and temperature against the new critics, then the targets."""
        config, alpha = self.config, self.temperature(batch.reward)
        critic = dropped(self.critic, noise)
        target_critic = dropped(self.target_critic, noise)
        chosen = (config.target_subset, config.entropy_backup)
        target = soft_target(target_critic, self.actor, batch, alpha, noise, *chosen)
        q = critic(batch.observation, batch.action)
        q_loss = critic_loss(q, target, config.critic_scale)
        metrics = {"loss/critic": q_loss.detach(), "q/mean": q.detach().mean((-2, -1))}
        metrics["grad_norm/critic"] = self.critic_optimizer.descend(q_loss)
        if moves_actor:
            metrics |= self.move_actor(batch, alpha, critic, noise)
        polyak(self.target_critic, self.critic, config.tau)
        return metrics

    def move_actor(self, batch: Batch, alpha: Tensor, critic: Critic, noise: Noise) -> dict[str, Tensor]:
        """Step actor and temperature against `critic`; return metrics."""
        config = self.config
        seen, value = detached(batch), config.actor_value
        policy_loss, log_prob = actor_loss(self.actor, critic, seen, alpha, noise, value)
        temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
        if config.alpha_step == "adam":
            # Neither loss has a gradient for the other's parameters: one backward serves both.
            policy_norm = self.policy_optimizer.descend(policy_loss + temperature_loss)
        else:
            policy_norm = self.policy_optimizer.descend(policy_loss)
            descend_alpha(self.log_alpha, log_prob, self.target_entropy, config.lr_alpha)
        return {
            "loss/actor": policy_loss.detach(),
            "alpha": alpha.mean(-1),
            "entropy": -log_prob.detach().mean(-1),
            "grad_norm/policy": policy_norm,
        }

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smallest Q-value as `q` and its distance to the target as `td_error`, `[N]`."""
        tensors = self.normalized_batch(self.read(batch))
        alpha = self.temperature(tensors.reward)
        noise, config = Noise(self.generators["learn"]), self.config
        chosen = (config.target_subset, config.entropy_backup)
        with evaluating(self.critic, self.target_critic):
            target = soft_target(self.target_critic, self.actor, tensors, alpha, noise, *chosen)
            q = self.critic(tensors.observation, tensors.action).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by all critics' mean at ten actions each."""
        draw = partial(sample_action, self.actor)
        alpha = self.temperature(observation)
        with evaluating(self.critic):
            return soft_state_value(draw, self.critic, alpha, self.normalized(observation))

    @torch.no_grad()
    def action_value(self, observation: Tensor, action: Tensor) -> StateValue:
        """Value actions `[*lead, N, A]` at observations `[*lead, N, O]` by all critics' mean."""
        alpha, observation = self.temperature(observation), self.normalized(observation)
        with evaluating(self.critic):
            return soft_action_value(self.actor, self.critic, alpha, observation, action)


class SACLoss(AgentLoss):
    """SAC's losses as a TorchRL LossModule: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    Args:
        actor: observation -> pre-tanh Gaussian, as `rlsuite.blocks.heads.GaussianActor`.
        critic: as `rlsuite.blocks.heads.ScalarCritic`; with dropout keep it in training mode.
        config: hyper-parameters; learning rates and `delay` are the caller's business.
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
        self.target_entropy = entropy_target(config.target_entropy, actions, config.entropy_share)
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha_init)))

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        batch, noise = unpack(tensordict, self.config.gamma), self.noise
        actor, alpha = self.net("actor"), self.log_alpha.detach().exp()
        config, target_critic = self.config, dropped(self.net("critic", target=True), noise)
        chosen = (config.target_subset, config.entropy_backup)
        target = soft_target(target_critic, actor, batch, alpha, noise, *chosen)
        q = self.net("critic")(batch.observation, batch.action, noise)
        fixed = dropped(self.net("critic", fixed=True), noise)
        policy_loss, log_prob = actor_loss(actor, fixed, batch, alpha, noise, config.actor_value)
        return TensorDict(
            {
                "loss_critic": critic_loss(q, target, config.critic_scale),
                "loss_actor": policy_loss,
                "loss_alpha": alpha_loss(self.log_alpha, log_prob, self.target_entropy),
            }
        )
