"""IQL: implicit Q-learning from recorded data (Kostrikov et al. 2021, arXiv 2110.06169); XQL and f-DVL.

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.nn import functional as F

from rlsuite.agents.base import Agent, Spaces, StateValue
from rlsuite.agents.losses import Critic, squared_td_loss, td_target
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import make_optimizer
from rlsuite.agents.policies import clipped_policy, evaluating
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.agents.value_losses import ValueLossConfig, value_loss
from rlsuite.blocks.heads import (
    DeterministicActor,
    Gaussian,
    ScalarCritic,
    UnsquashedActor,
    ValueNetwork,
    log_density,
)
from rlsuite.blocks.mlp import Activation, orthogonal_
from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import Noise, Source
from rlsuite.blocks.schedule import CosineRate
from rlsuite.bounds import (
    Bounds,
    DropoutRate,
    NotNegative,
    PolyakRate,
    Positive,
    UnitInterval,
    Widths,
    check_bounds,
)
from rlsuite.replay.batch import Batch, unpack

LOG_STD_MAX = 2.0  # of the actor's log-std; authors' code
ORTHOGONAL_GAIN = math.sqrt(2)  # of every layer, the last ones too; authors' code
HUBER_DELTA = 20.0  # error beyond which the critics' loss is linear; XQL's and f-DVL's code


@dataclass(frozen=True, slots=True, kw_only=True)
class IQLConfig(ValueLossConfig):
    """Hyper-parameters of IQL; the defaults are those of the authors' code for the locomotion data."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers of actor, critics and value network."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    init: Literal["orthogonal", "uniform"] = "orthogonal"
    """First weights: orthogonal with gain sqrt(2) (authors), or torch's uniform ones (CORL)."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by mean and std of the data set (CORL)."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the target critics."""
    critic_loss: Literal["square", "huber"] = "square"
    """Critics' loss: squared errors (IQL), or Huber's, linear beyond errors of 20 (XQL, f-DVL)."""
    value_layer_norm: bool = False
    """Normalise the hidden layers of the value network (XQL, f-DVL)."""
    random_actions: NotNegative = 0
    """Uniform actions per observation that enter the value loss, too; the critics extrapolate to them."""
    beta: Annotated[float, Bounds(0)] = 3.0
    """Inverse temperature of the advantage weights; 0 is behaviour cloning."""
    max_weight: Positive = 100.0
    """Bound of the advantage weights."""
    order: Literal["official", "corl", "torchrl"] = "official"
    """Official: the value network steps first, advantages and targets read the new one. The others step all
    networks from the same old ones; CORL's critic loss is half the sum of both squared errors."""
    deterministic: bool = False
    """The actor is an action, fitted by weighted squared errors, instead of a Gaussian by likelihood."""
    log_std_min: Annotated[float, Bounds(high=LOG_STD_MAX)] = -5.0
    """Lower bound of the actor's log-std; the upper one is 2."""
    dropout: DropoutRate = 0.0
    """Dropout of the actor's hidden layers, in its loss only."""
    exploration_noise: Annotated[float | None, Bounds(0)] = None
    """Deviation of behaviour noise for actions in [-1, 1]; none: the actor's own (deterministic: 0.03)."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critics."""
    lr_value: Positive = 3e-4
    """Learning rate of the value network."""
    lr_actor: Positive = 3e-4
    """First learning rate of the actor."""
    actor_lr_decay: NotNegative = 1_000_000
    """Updates over which the actor's rate falls to 0, along half a cosine; 0 keeps it constant."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


def value_objective(q: Tensor, value: Tensor, batch: Batch, config: IQLConfig) -> Tensor:
    """Return the configured loss of the value network; see `rlsuite.agents.value_losses.value_loss`."""
    return value_loss(q, value, config)


def with_random_actions(
    q: Tensor, value: Tensor, critic: Critic, batch: Batch, times: int, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Join to `q` and `value`, `[N]`, those of uniform actions at the same observations, `[times N]`."""
    if not times:
        return q, value
    observation = torch.cat((batch.observation,) * times, -2)
    drawn = noise.uniform(torch.cat((batch.action,) * times, -2))
    with torch.no_grad():
        more = critic(observation, 2 * drawn - 1).amin(-2)
    return torch.cat((q, more), -1), torch.cat((value,) * (1 + times), -1)


@torch.no_grad()
def clipped_share(q: Tensor, value: Tensor, config: IQLConfig) -> Tensor:
    """Return the share of rows `[N]` whose exponent in XQL's loss is clipped: they pull V no further."""
    return (q - value > config.exp_clip * config.loss_temperature).to(q.dtype).mean(-1)


def advantage_weights(q: Tensor, value: Tensor, beta: float | Tensor, max_weight: float) -> Tensor:
    """min(exp(beta (q - v)), max_weight), `[N]`, without gradient; the bound stands before exp overflows.

    `beta` is one number, or one for each row, `[N]`.
    """
    advantage = (q - value).detach()
    return (beta * advantage).clamp(max=math.log(max_weight)).exp()


def extraction_loss(
    actor: Callable[[Tensor, Noise], Gaussian | Tensor], batch: Batch, weights: Tensor, noise: Noise
) -> Tensor:
    """Return the policy's weighted misfit to the data's actions (equation 7): advantage-weighted regression.

    Args:
        actor: gives a Gaussian, fitted by likelihood, or an action, fitted by squared error summed over A.
        batch: observations and actions of the data.
        weights: `[N]`.
        noise: of the actor's dropout.
    """
    policy = actor(batch.observation, noise)
    if isinstance(policy, Gaussian):
        misfit = -log_density(policy, batch.action)
    else:
        misfit = (policy - batch.action).square().sum(-1)
    return (weights * misfit).mean(-1)


def bellman_target(batch: Batch, next_value: Tensor, config: IQLConfig) -> Tensor:
    """Return the critics' target, r + gamma (1 - terminated) V(s'), `[N]`."""
    return td_target(batch, next_value)


def critic_loss(q: Tensor, target: Tensor, order: str, form: str = "square") -> Tensor:
    """Return the mean errors of `[M, N]` to a target `[N]`, summed over M; half of it in CORL's order.

    An error e counts e^2; in Huber's form e^2 / 2 up to 20 and 20 (|e| - 10) beyond.
    """
    if form == "huber":
        wide = target.unsqueeze(-2).expand_as(q)
        loss = F.huber_loss(q, wide, reduction="none", delta=HUBER_DELTA).mean(-1).sum(-1)
    else:
        loss = squared_td_loss(q, target)
    return 0.5 * loss if order == "corl" else loss


def critic_objective(q: Tensor, target: Tensor, batch: Batch, config: IQLConfig) -> Tensor:
    """Return the configured loss of the critics."""
    return critic_loss(q, target, config.order, config.critic_loss)


class IQL(Agent):
    """The learner: twin critics with targets, a value network, and an actor that imitates good actions."""

    Config: ClassVar[type] = IQLConfig
    value_objective: ClassVar[Any] = staticmethod(value_objective)
    critic_target: ClassVar[Any] = staticmethod(bellman_target)
    critic_objective: ClassVar[Any] = staticmethod(critic_objective)
    needs_data = True
    adopts_statistics: ClassVar[bool] = True
    actor: UnsquashedActor | DeterministicActor

    def build(self, spaces: Spaces, config: IQLConfig) -> None:
        """Make actor, twin critics with their target, and value network."""
        sizes, shape = (spaces.observation, spaces.action), self.net_shape()
        dropped = replace(shape, dropout=config.dropout, dropout_generator=self.generators["learn"])
        self.actor = self.make_actor(*sizes, dropped)
        self.critic = ScalarCritic(*sizes, shape, members=2)
        self.value = ValueNetwork(spaces.observation, replace(shape, layer_norm=config.value_layer_norm))
        if config.init == "orthogonal":
            for network in (self.actor, self.critic, self.value):
                orthogonal_(network, ORTHOGONAL_GAIN, self.generators["init"])
        self.actor_rate = CosineRate(config.lr_actor, config.actor_lr_decay)
        actor, critic, value = (list(net.parameters()) for net in (self.actor, self.critic, self.value))
        together: list[Any] = [(critic, config.lr_critic), (actor, self.actor_rate.rate)]
        # What the maths lets step together shares one optimiser: a small step costs its call.
        if config.order == "official":
            self.value_optimizer = make_optimizer(self, config, (value, config.lr_value))
            self.rest_optimizer = make_optimizer(self, config, *together)
        else:
            self.value_optimizer = self.rest_optimizer = make_optimizer(
                self, config, *together, (value, config.lr_value)
            )
        self.add_parts(self.rest_optimizer, actor=self.actor, critic=self.critic)
        self.add_parts(self.value_optimizer, value=self.value)
        self.target_critic = self.add_target("target_critic", self.critic)
        std = config.exploration_noise
        self.policy = clipped_policy(self.actor, self.generators["act"], self.normalizer, std)

    def make_actor(
        self, observation: int, action: int, shape: NetShape
    ) -> UnsquashedActor | DeterministicActor:
        """Return the actor of observations of this length."""
        if self.config.deterministic:
            return DeterministicActor(observation, action, shape)
        std_range = (self.config.log_std_min, LOG_STD_MAX)
        return UnsquashedActor(observation, action, shape, log_std_range=std_range)

    def policy_loss(
        self, batch: Batch, q: Tensor, value: Tensor, noise: Noise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the actor's loss, `[]`, and metrics, for lagged values q and state values of rows, `[N]`."""
        config = self.config
        weights = advantage_weights(q, value, config.beta, config.max_weight)
        return extraction_loss(self.actor, batch, weights, noise), {"weight/mean": weights.mean(-1)}

    def learn(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Step value network, actor and critics in the configured order, then the targets."""
        config, official = self.config, self.config.order == "official"
        metrics = {}
        with torch.no_grad():
            old_q = self.target_critic(batch.observation, batch.action).amin(-2)
        value = self.value(batch.observation)
        shown = with_random_actions(old_q, value, self.target_critic, batch, config.random_actions, noise)
        loss_of_value = self.value_objective(*shown, batch, config)
        if config.value_loss == "gumbel":
            metrics["value/clipped"] = clipped_share(*shown, config)
        if official:
            metrics["grad_norm/value"] = self.value_optimizer.descend(loss_of_value)
            with torch.no_grad():  # the stepped network, both observations in one product
                both = self.value(torch.cat((batch.observation, batch.next_observation), -2))
            value, next_value = both.chunk(2, -1)
        else:
            with torch.no_grad():
                next_value = self.value(batch.next_observation)
        policy_loss, of_policy = self.policy_loss(batch, old_q, value, noise)
        q = self.critic(batch.observation, batch.action)
        q_loss = self.critic_objective(q, self.critic_target(batch, next_value, config), batch, config)
        # No loss has a gradient for another's parameters: one backward serves what steps together.
        loss = policy_loss + q_loss if official else policy_loss + q_loss + loss_of_value
        norm = self.rest_optimizer.descend(loss)
        self.actor_rate.step()
        polyak(self.target_critic, self.critic, config.tau)
        return (
            metrics
            | of_policy
            | {
                "loss/value": loss_of_value.detach(),
                "loss/actor": policy_loss.detach(),
                "loss/critic": q_loss.detach(),
                "q/mean": q.detach().mean((-2, -1)),
                "value/mean": value.detach().mean(-1),
                "grad_norm/rest": norm,
            }
        )

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller Q-value as `q` and its distance to the target as `td_error`, `[N]`."""
        tensors = self.normalized_batch(self.read(batch))
        target = self.critic_target(tensors, self.value(tensors.next_observation), self.config)
        q = self.critic(tensors.observation, tensors.action).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue | None:
        """Value observations `[*lead, N, O]` by both critics' mean at the policy's evaluation action.

        Not by the value network: that is an expectile over the data's actions, not the policy's value.
        """
        observation, actor = self.normalized(observation), self.policy.module.actor
        with evaluating(actor):
            policy = actor(observation)
        action = policy.mean if isinstance(policy, Gaussian) else policy
        value = self.critic(observation, action).mean(-2)
        return StateValue(value, torch.zeros_like(value))

    def start_online(self) -> None:
        """Give the actor its first learning rate back, for good: the authors decay none while fine-tuning."""
        self.actor_rate.hold()


class IQLLoss(AgentLoss):
    """IQL's losses as a TorchRL LossModule: `loss_value`, `loss_actor` and `loss_critic` of a replayed batch.

    All three read the networks as they are, which is the order "torchrl" (and "corl"); a loop that steps on
    `loss_value` first and calls the module again for the others has the official one.

    Args:
        actor: observation -> Gaussian or action, as `rlsuite.blocks.heads.UnsquashedActor`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        value: observation -> value, as `rlsuite.blocks.heads.ValueNetwork`.
        config: hyper-parameters; learning rates are the caller's business.
        generator: of the actor's dropout; None is torch's global stream.
    """

    value_objective: ClassVar[Any] = staticmethod(value_objective)
    critic_target: ClassVar[Any] = staticmethod(bellman_target)
    critic_objective: ClassVar[Any] = staticmethod(critic_objective)

    def __init__(
        self,
        actor: UnsquashedActor | DeterministicActor,
        critic: ScalarCritic,
        value: ValueNetwork,
        config: IQLConfig,
        *,
        generator: Source = None,
    ) -> None:
        networks = {"actor": actor, "critic": critic, "value": value}
        super().__init__(networks, ("critic",), ["loss_value", "loss_actor", "loss_critic"], generator)
        self.config = config

    def imitation(self, batch: Batch, q: Tensor, value: Tensor) -> Tensor:
        """Return the actor's loss for lagged values and state values of rows, `[N]` each."""
        weights = advantage_weights(q, value, self.config.beta, self.config.max_weight)
        return extraction_loss(self.net("actor"), batch, weights, self.noise)

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        config, batch = self.config, unpack(tensordict, self.config.gamma)
        with torch.no_grad():
            old_q = self.net("critic", target=True)(batch.observation, batch.action).amin(-2)
            next_value = self.net("value")(batch.next_observation)
        value = self.net("value")(batch.observation)
        critic = self.net("critic", target=True)
        shown = with_random_actions(old_q, value, critic, batch, config.random_actions, self.noise)
        q = self.net("critic")(batch.observation, batch.action)
        return TensorDict(
            {
                "loss_value": self.value_objective(*shown, batch, config),
                "loss_actor": self.imitation(batch, old_q, value),
                "loss_critic": self.critic_objective(
                    q, self.critic_target(batch, next_value, config), batch, config
                ),
            }
        )
