"""CQL: SAC whose critics are pushed down where the data are not (Kumar et al. 2020, arXiv 2006.04779).

With `calibrated` it is Cal-QL (Nakamoto et al. 2023, arXiv 2303.05479): values of the policy's actions are
pushed down no further than what the recorded policy achieved. The form is that of CORL.

Legend: N batch, M = 2 twin critics, K sampled actions of each kind, O observation, A action. Losses are
written for the last axes; leading axes are independent seeds, whose losses stay apart.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Columns, Spaces, StateValue
from rlsuite.agents.losses import (
    Actor,
    Critic,
    entropy_target,
    sample_action,
    soft_action_value,
    soft_state_value,
    squared_td_loss,
    td_target,
)
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import squashed_gaussian_policy
from rlsuite.agents.sac import LOG_STD_RANGE, SAC, actor_loss, alpha_loss
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.heads import LOG_2, Gaussian, GaussianActor, ScalarCritic, squash
from rlsuite.blocks.mlp import Activation, orthogonal_
from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import AtLeastOne, Bounds, PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch, unpack

HEAD_GAIN = 1e-2  # of the first weights of last layers; CORL
STD_SCALE, STD_SHIFT = 1.0, -1.0  # learnt scalars at first: log-std = scale x output + shift; CORL
MAX_WEIGHT = 1e6  # bound of the learnt weight of the gap; CORL


@dataclass(frozen=True, slots=True, kw_only=True)
class CQLConfig(OptimizerConfig):
    """Hyper-parameters of CQL; the defaults are those of CORL's configurations for locomotion."""

    hidden: Widths = (256, 256, 256)
    """Widths of the hidden layers of the actor."""
    hidden_critic: Widths | None = None
    """Widths of the critics' hidden layers; none: the actor's."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    normalize_observations: bool = True
    """Feed all networks observations standardised by mean and std of the data set."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the target critics."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critics, and of the gap's learnt weight."""
    lr_actor: Positive = 3e-5
    """Learning rate of actor and temperature."""
    target_entropy: float | None = None
    """Entropy of actions in [-1, 1]; None is minus the action's length."""
    weight: Annotated[float, Bounds(0)] = 10.0
    """Weight of the gap between sampled and recorded actions, the paper's alpha; 0 is SAC without entropy."""
    gap: float | None = None
    """Gap to hold by a learnt factor of that weight (the paper's tau); none: the factor is 1."""
    gap_floor: float | None = None
    """Lower bound of every transition's gap, before the mean; none: no bound."""
    actions: AtLeastOne = 10
    """Sampled actions of each kind: uniform, the policy's, the policy's at the next observation."""
    temperature: Positive = 1.0
    """Temperature of the soft maximum over sampled actions."""
    importance: bool = True
    """Divide by the density of each sampled action; without it the recorded action is one of them."""
    best_next: bool = False
    """Bootstrap from the best of `actions` draws of the policy instead of from one."""
    calibrated: bool = False
    """Cal-QL: values of the policy's actions count as the recorded return at least, offline."""
    calibrated_online: bool = False
    """Cal-QL in mixed batches online, too, by recorded returns and those of finished episodes (its authors);
    without it calibration ends with the data (CORL)."""
    failure_reward: float | None = None
    """Cal-QL on sparse tasks: an episode that ends with this reward has failed, and is worth it for ever."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range, and a failure's reward that nothing reads."""
        check_bounds(self)
        if self.calibrated_online and not self.calibrated:
            raise ConfigError("calibrated_online = True: it continues calibration: set calibrated, too")
        if self.failure_reward is not None and not self.calibrated:
            raise ConfigError(
                f"failure_reward = {self.failure_reward:g}: only Cal-QL reads it: set calibrated, too"
            )


class Sampled(NamedTuple):
    """Something of each kind of sampled actions: uniform, the policy's at s', the policy's at s."""

    uniform: Tensor
    following: Tensor
    current: Tensor


class ScaledActor(GaussianActor):
    """Pre-tanh Gaussian whose log-std is the trunk's output times a learnt scalar, plus another."""

    def __init__(self, observation: int, action: int, shape: NetShape) -> None:
        super().__init__(observation, action, shape, log_std_range=LOG_STD_RANGE)
        self.scale = nn.Parameter(torch.full((*shape.lead, 1), STD_SCALE))
        self.shift = nn.Parameter(torch.full((*shape.lead, 1), STD_SHIFT))

    def forward(self, observation: Tensor, noise: Noise | None = None) -> Gaussian:
        """Return the pre-tanh Gaussian, `[*lead, N, A]` each, for `[*lead, N, O]`; noise is of dropout."""
        mean, raw = self.trunk(observation, noise).to(observation.dtype).chunk(2, -1)
        log_std = torch.addcmul(self.shift.unsqueeze(-2), self.scale.unsqueeze(-2), raw)
        return Gaussian(mean, log_std.clamp(*LOG_STD_RANGE).exp())


def policy_actions(actor: Actor, observation: Tensor, count: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw K actions for each observation, `[N, K, A]`, and their log-densities, `[N, K]`."""
    mean, std = (part.unsqueeze(-2) for part in actor(observation))
    draws = noise.normal(mean.expand(*mean.shape[:-2], count, mean.shape[-1]))
    return squash(Gaussian(mean, std), draws)


def values_of(critic: Critic, observation: Tensor, action: Tensor) -> Tensor:
    """Return the values `[M, N, K]` of K actions each, `[N, K, A]`."""
    count = action.shape[-2]
    q = critic(observation.repeat_interleave(count, -2), action.flatten(-3, -2))
    return q.unflatten(-1, (-1, count))


@torch.no_grad()
def next_target(target_critic: Critic, actor: Actor, batch: Batch, config: CQLConfig, noise: Noise) -> Tensor:
    """Return r + gamma (1 - terminated) min_m Q'(s', a'), a' ~ pi(. | s') or the best of K draws, `[N]`."""
    if not config.best_next:
        action, _ = sample_action(actor, batch.next_observation, noise)
        return td_target(batch, target_critic(batch.next_observation, action).amin(-2))
    action, _ = policy_actions(actor, batch.next_observation, config.actions, noise)
    q = values_of(target_critic, batch.next_observation, action)
    return td_target(batch, q.amin(-3).amax(-1))


@torch.no_grad()
def sample_all(actor: Actor, batch: Batch, count: int, noise: Noise) -> tuple[Tensor, Sampled]:
    """Draw K actions of each kind, `[N, 3 K, A]`, and return them with their log-densities, `[N, K]` each."""
    following, log_following = policy_actions(actor, batch.next_observation, count, noise)
    current, log_current = policy_actions(actor, batch.observation, count, noise)
    uniform = 2 * noise.uniform(current) - 1
    log_uniform = torch.full_like(log_current, -LOG_2 * current.shape[-1])
    action = torch.cat((uniform, following, current), -2)
    return action, Sampled(log_uniform, log_following, log_current)


def conservative_gap(
    q_data: Tensor, q: Sampled, log_density: Sampled, config: CQLConfig, returns: Tensor | None = None
) -> Tensor:
    """Return by how much the soft maximum over sampled actions exceeds the recorded action's value, `[M]`.

    Args:
        q_data: values of the recorded actions, `[M, N]`.
        q: values of the sampled actions at s, `[M, N, K]` each.
        log_density: of them, `[N, K]` each.
        config: temperature, importance weights, floor.
        returns: below which values of the policy's actions do not count, `[N]` (Cal-QL); None: no bound.
    """
    if returns is not None:
        least = returns.unsqueeze(-2).unsqueeze(-1)
        q = Sampled(q.uniform, q.following.maximum(least), q.current.maximum(least))
    if config.importance:
        parts = [value - density.unsqueeze(-3) for value, density in zip(q, log_density, strict=True)]
    else:
        parts = [q_data.unsqueeze(-1), *q]
    temperature = config.temperature
    soft = temperature * (torch.cat(parts, -1) / temperature).logsumexp(-1)
    gap = soft - q_data
    return (gap if config.gap_floor is None else gap.clamp(min=config.gap_floor)).mean(-1)


def critic_losses(
    critic: Critic, actor: Actor, batch: Batch, target: Tensor, config: CQLConfig, noise: Noise
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the summed squared errors to `target` `[N]`, the gap of each critic `[M]`, and Q of the data.

    Args:
        critic: twin critics.
        actor: whose actions are sampled.
        batch: `[N]` transitions; `returns` bounds the values where the agent is calibrated.
        target: of the recorded actions, `[N]`.
        config: see `conservative_gap`.
        noise: of the samples.
    """
    action, log_density = sample_all(actor, batch, config.actions, noise)
    q_data = critic(batch.observation, batch.action)
    q = Sampled(*values_of(critic, batch.observation, action).chunk(3, -1))
    returns = batch.returns if config.calibrated else None
    return squared_td_loss(q_data, target), conservative_gap(q_data, q, log_density, config, returns), q_data


def weighted_gap(gap: Tensor, log_factor: Tensor | None, config: CQLConfig) -> tuple[Tensor, Tensor]:
    """Return what the critics pay for their gaps `[M]`, `[]`, and the loss of the learnt factor, `[]`.

    With a gap to hold, the first is exp(l) weight (gap - tau), summed over M, and the second minus half of
    it as a function of l alone; without one, weight times gap, and 0.
    """
    if log_factor is None or config.gap is None:
        return config.weight * gap.sum(-1), torch.zeros_like(gap.sum(-1))
    factor, excess = log_factor.exp().clamp(0, MAX_WEIGHT), config.weight * (gap - config.gap)
    return (factor.detach() * excess).sum(-1), -0.5 * (factor * excess.detach()).sum(-1)


class CQL(SAC):
    """SAC without entropy in the target, with the gap's weight in the critics' loss."""

    Config: ClassVar[type] = CQLConfig
    needs_data = True
    adopts_statistics: ClassVar[bool] = True
    asymmetric = False

    def build(self, spaces: Spaces, config: CQLConfig) -> None:  # type: ignore[override]
        """Make actor, twin critics with their target, temperature, and the factor of the gap's weight."""
        sizes, shape, init = (spaces.observation, spaces.action), self.net_shape(), self.generators["init"]
        self.actor = ScaledActor(*sizes, shape)
        wide = replace(shape, hidden=config.hidden_critic or config.hidden)
        self.critic = ScalarCritic(*sizes, wide, members=2)
        orthogonal_(self.actor.trunk.head, HEAD_GAIN, init)
        orthogonal_(self.critic, math.sqrt(2), init)
        orthogonal_(self.critic.trunk.head, HEAD_GAIN, init)
        self.log_alpha = nn.Parameter(torch.zeros(*self.lead, 1))
        self.target_entropy = entropy_target(config.target_entropy, spaces.action)
        learnt: list[Tensor] = list(self.critic.parameters())
        self.log_factor = None
        if config.gap is not None:
            self.log_factor = nn.Parameter(torch.ones(*self.lead, 1))
            learnt.append(self.log_factor)
        self.critic_optimizer = make_optimizer(self, config, (learnt, config.lr_critic))
        self.policy_optimizer = make_optimizer(
            self,
            config,
            (list(self.actor.parameters()), config.lr_actor),
            ([self.log_alpha], config.lr_actor),
        )
        self.add_parts(self.policy_optimizer, actor=self.actor, alpha=nn.ParameterList([self.log_alpha]))
        self.add_parts(self.critic_optimizer, critic=self.critic)
        if self.log_factor is not None:
            self.add_parts(self.critic_optimizer, factor=nn.ParameterList([self.log_factor]))
        self.target_critic = self.add_target("target_critic", self.critic)
        self.policy = squashed_gaussian_policy(self.actor, self.generators["act"], self.normalizer)

    def phase(self) -> dict[str, Any]:
        """Return that all updates are alike."""
        return {}

    @classmethod
    def columns(cls, config: CQLConfig) -> Columns:
        """Return that Cal-QL's batches need the recorded returns."""
        return Columns(returns=config.calibrated, failure_reward=config.failure_reward)

    @classmethod
    def online_columns(cls, config: CQLConfig) -> Columns:
        """Return that Cal-QL's batches have returns online where calibration goes on there."""
        return cls.columns(config) if config.calibrated_online else Columns()

    def learn(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Step actor and temperature, then the critics, all on old networks' losses; then the targets."""
        config, alpha = self.config, self.log_alpha.detach().exp()
        target = next_target(self.target_critic, self.actor, batch, config, noise)
        td_loss, gap, q = critic_losses(self.critic, self.actor, batch, target, config, noise)
        penalty, factor_loss = weighted_gap(gap, self.log_factor, config)
        policy_loss, log_prob = actor_loss(self.actor, self.critic, batch, alpha, noise)
        temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
        # The actor first: its loss remembers the critics' weights, theirs does not its own.
        policy_norm = self.policy_optimizer.descend(policy_loss + temperature_loss)
        critic_norm = self.critic_optimizer.descend(td_loss + penalty + factor_loss)
        polyak(self.target_critic, self.critic, config.tau)
        metrics = {
            "loss/critic": td_loss.detach(),
            "loss/actor": policy_loss.detach(),
            "gap": gap.detach().mean(-1),
            "q/mean": q.detach().mean((-2, -1)),
            "alpha": alpha.mean(-1),
            "entropy": -log_prob.detach().mean(-1),
            "grad_norm/critic": critic_norm,
            "grad_norm/policy": policy_norm,
        }
        if self.log_factor is not None:
            metrics["gap_factor"] = self.log_factor.detach().exp().mean(-1)
        return metrics

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller Q-value as `q` and its distance to the target as `td_error`, `[N]`."""
        tensors, noise = self.normalized_batch(self.read(batch)), Noise(self.generators["learn"])
        target = next_target(self.target_critic, self.actor, tensors, self.config, noise)
        q = self.critic(tensors.observation, tensors.action).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by both critics' mean at ten actions each, without a bonus."""
        draw, no_alpha = partial(sample_action, self.actor), torch.zeros_like(self.log_alpha)
        return soft_state_value(draw, self.critic, no_alpha, self.normalized(observation))

    @torch.no_grad()
    def action_value(self, observation: Tensor, action: Tensor) -> StateValue:
        """Value actions `[*lead, N, A]` at observations `[*lead, N, O]` by both critics' mean."""
        no_alpha, observation = torch.zeros_like(self.log_alpha), self.normalized(observation)
        return soft_action_value(self.actor, self.critic, no_alpha, observation, action)


class CQLLoss(AgentLoss):
    """CQL's losses as a TorchRL LossModule: `loss_critic`, `loss_actor`, `loss_alpha`, `loss_factor`.

    The last is 0 unless the config names a gap. Cal-QL's batches need a column "return".

    Args:
        actor: observation -> pre-tanh Gaussian, as `ScaledActor`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        actions: A, for the target entropy.
        generator: noise of all samples; None is torch's global stream.
    """

    def __init__(
        self,
        actor: GaussianActor,
        critic: ScalarCritic,
        config: CQLConfig,
        *,
        actions: int,
        generator: Source = None,
    ) -> None:
        networks = {"actor": actor, "critic": critic}
        keys = ["loss_critic", "loss_actor", "loss_alpha", "loss_factor"]
        super().__init__(networks, ("critic",), keys, generator)
        self.config = config
        self.target_entropy = entropy_target(config.target_entropy, actions)
        self.log_alpha = nn.Parameter(torch.zeros(1))
        self.log_factor = None if config.gap is None else nn.Parameter(torch.ones(1))

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the four losses."""
        config, batch, noise = self.config, unpack(tensordict, self.config.gamma), self.noise
        actor, alpha = self.net("actor"), self.log_alpha.detach().exp()
        target = next_target(self.net("critic", target=True), actor, batch, config, noise)
        td_loss, gap, _ = critic_losses(self.net("critic"), actor, batch, target, config, noise)
        penalty, factor_loss = weighted_gap(gap, self.log_factor, config)
        policy_loss, log_prob = actor_loss(actor, self.net("critic", fixed=True), batch, alpha, noise)
        temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
        losses = (td_loss + penalty, policy_loss, temperature_loss, factor_loss)
        return TensorDict(dict(zip(self.out_keys, losses, strict=True)))
