"""IQL: implicit Q-learning from recorded data (Kostrikov et al. 2021, arXiv 2110.06169).

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictParams
from torch import Tensor
from torch.nn import Parameter
from torchrl.objectives import LossModule

from rlsuite.agents.base import Agent, Spaces, StateValue, Trained, check_range, columns
from rlsuite.agents.losses import squared_td_loss, td_target
from rlsuite.agents.policies import clipped_policy, evaluating
from rlsuite.agents.steps import adam, polyak, take_step
from rlsuite.blocks.heads import (
    DeterministicActor,
    Gaussian,
    ScalarCritic,
    UnsquashedActor,
    ValueNetwork,
    log_density,
)
from rlsuite.blocks.mlp import Activation, orthogonal_
from rlsuite.blocks.noise import Source
from rlsuite.blocks.schedule import CosineRate

LOG_STD_MAX = 2.0  # of the actor's log-deviation; authors' code
ORTHOGONAL_GAIN = math.sqrt(2)  # of every layer, the last ones too; authors' code


@dataclass(frozen=True, slots=True, kw_only=True)
class IQLConfig:
    """Hyper-parameters of IQL; the defaults are those of the authors' code for the locomotion data."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor, critics and value network."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    init: Literal["orthogonal", "uniform"] = "orthogonal"
    """First weights: orthogonal with gain sqrt(2) (authors), or torch's uniform ones (CORL)."""
    normalize_observations: bool = False
    """Feed all networks observations in deviations from the mean, both of the data set (CORL)."""
    gamma: float = 0.99
    """Discount per env step."""
    tau: float = 0.005
    """Polyak rate of the target critics."""
    expectile: float = 0.7
    """Expectile of the value loss, the paper's tau: 0.5 is the mean, 1 the best of the data's actions."""
    beta: float = 3.0
    """Inverse temperature of the advantage weights; 0 is behaviour cloning."""
    max_weight: float = 100.0
    """Bound of the advantage weights."""
    order: Literal["official", "corl", "torchrl"] = "official"
    """Official: the value network steps first, advantages and targets read the new one. The others step all
    networks from the same old ones; CORL's critic loss is half the sum of both squared errors."""
    deterministic: bool = False
    """The actor is an action, fitted by weighted squared errors, instead of a Gaussian by likelihood."""
    log_std_min: float = -5.0
    """Lower bound of the actor's log-deviation; the upper one is 2."""
    dropout: float = 0.0
    """Dropout of the actor's hidden layers, in its loss only."""
    exploration_noise: float | None = None
    """Deviation of behaviour noise for actions in [-1, 1]; none: the actor's own (deterministic: 0.03)."""
    lr_critic: float = 3e-4
    """Learning rate of the critics."""
    lr_value: float = 3e-4
    """Learning rate of the value network."""
    lr_actor: float = 3e-4
    """First learning rate of the actor."""
    actor_lr_decay: int = 1_000_000
    """Updates over which the actor's rate falls to 0, along half a cosine; 0 keeps it constant."""

    def __post_init__(self) -> None:
        """Raise ValueError for values outside their range."""
        check_range("gamma", self.gamma, 0, 1)
        check_range("tau", self.tau, 0, 1, open_low=True)
        check_range("expectile", self.expectile, 0.5, 1)
        check_range("beta", self.beta, 0, math.inf)
        check_range("max_weight", self.max_weight, 0, math.inf, open_low=True)
        check_range("log_std_min", self.log_std_min, -math.inf, LOG_STD_MAX)
        check_range("dropout", self.dropout, 0, math.nextafter(1, 0))
        check_range("exploration_noise", self.exploration_noise or 0, 0, math.inf)
        check_range("actor_lr_decay", self.actor_lr_decay, 0, math.inf)
        for name in ("lr_critic", "lr_value", "lr_actor"):
            check_range(name, getattr(self, name), 0, math.inf, open_low=True)


def expectile_loss(q: Tensor, value: Tensor, expectile: float) -> Tensor:
    """Mean over `[N]` of |expectile - 1[q < v]| (q - v)^2, with gradient into `value` alone (equation 5)."""
    gap = q.detach() - value
    return (torch.where(gap < 0, 1 - expectile, expectile) * gap.square()).mean(-1)


def advantage_weights(q: Tensor, value: Tensor, beta: float, max_weight: float) -> Tensor:
    """min(exp(beta (q - v)), max_weight), `[N]`, without gradient; the bound stands before exp overflows."""
    advantage = (q - value).detach()
    return (beta * advantage).clamp(max=math.log(max_weight)).exp()


def extraction_loss(weights: Tensor, policy: Gaussian | Tensor, action: Tensor) -> Tensor:
    """Weighted fit of the policy to the data's actions `[N, A]` (equation 7): advantage-weighted regression.

    Args:
        weights: `[N]`.
        policy: a Gaussian, fitted by likelihood, or an action, fitted by squared error summed over A.
        action: of the data.
    """
    if isinstance(policy, Gaussian):
        misfit = -log_density(policy, action)
    else:
        misfit = (policy - action).square().sum(-1)
    return (weights * misfit).mean(-1)


def critic_loss(q: Tensor, target: Tensor, order: str) -> Tensor:
    """Squared errors of `[M, N]` to a target `[N]`, summed over members; half of it in CORL's order."""
    loss = squared_td_loss(q, target)
    return 0.5 * loss if order == "corl" else loss


class IQLLoss(LossModule):
    """The same losses for any TorchRL loop: `loss_value`, `loss_actor` and `loss_critic` of a replayed batch.

    All three read the networks as they are, which is the order "torchrl" (and "corl"); a loop that steps on
    `loss_value` first and calls the module again for the others has the official one.

    Args:
        actor: observation -> Gaussian or action, as `rlsuite.blocks.heads.UnsquashedActor`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        value: observation -> value, as `rlsuite.blocks.heads.ValueNetwork`.
        config: hyper-parameters; learning rates are the caller's business.
    """

    actor_params: TensorDictParams
    critic_params: TensorDictParams
    value_params: TensorDictParams
    target_critic_params: TensorDictParams

    def __init__(
        self,
        actor: UnsquashedActor | DeterministicActor,
        critic: ScalarCritic,
        value: ValueNetwork,
        config: IQLConfig,
    ) -> None:
        super().__init__()
        self.in_keys = [
            "observation",
            "action",
            *(("next", k) for k in ("observation", "reward", "terminated")),
        ]
        self.out_keys = ["loss_value", "loss_actor", "loss_critic"]
        self.config = config
        self.convert_to_functional(actor, "actor")
        self.convert_to_functional(value, "value")
        self.convert_to_functional(critic, "critic", create_target_params=True)

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        config, rows = self.config, columns(tensordict, self.config.gamma)
        with torch.no_grad(), self.target_critic_params.to_module(self.critic):
            old_q = self.critic(rows.observation, rows.action).amin(-2)
        with self.value_params.to_module(self.value):
            value = self.value(rows.observation)
            with torch.no_grad():
                target = td_target(rows, self.value(rows.next_observation))
        weights = advantage_weights(old_q, value, config.beta, config.max_weight)
        with self.actor_params.to_module(self.actor):
            policy = self.actor(rows.observation)
        with self.critic_params.to_module(self.critic):
            q = self.critic(rows.observation, rows.action)
        return TensorDict(
            {
                "loss_value": expectile_loss(old_q, value, config.expectile),
                "loss_actor": extraction_loss(weights, policy, rows.action),
                "loss_critic": critic_loss(q, target, config.order),
            }
        )


class IQL(Agent):
    """The learner: twin critics with targets, a value network, and an actor that imitates good actions.

    Args:
        spaces: sizes and action range of the environment.
        config: hyper-parameters.
        generators: streams "init", "act" and "learn"; see `rlsuite.agents.base.make_generators`.
        device: where parameters live.
        lead: leading axes of independent seeds; batches then carry them too.
    """

    Config: ClassVar[type] = IQLConfig
    adopts_statistics: ClassVar[bool] = True

    def __init__(
        self,
        spaces: Spaces,
        config: IQLConfig,
        generators: Mapping[str, Source],
        *,
        device: torch.device | str = "cpu",
        lead: tuple[int, ...] = (),
    ) -> None:
        super().__init__(spaces, config, generators, device=device, lead=lead)
        init = self.generators["init"]
        sizes = (spaces.observation, spaces.action, config.hidden)
        log_std_range = (config.log_std_min, LOG_STD_MAX)
        shape: dict[str, Any] = {"activation": config.activation, "lead": lead, "generator": init}
        drops = {"dropout": config.dropout, "dropout_generator": self.generators["learn"]}
        actor_shape: dict[str, Any] = shape | drops
        with torch.device(device):
            self.actor: UnsquashedActor | DeterministicActor
            if config.deterministic:
                self.actor = DeterministicActor(*sizes, **actor_shape)
            else:
                self.actor = UnsquashedActor(*sizes, log_std_range=log_std_range, **actor_shape)
            self.critic = ScalarCritic(*sizes, members=2, **shape)
            self.value = ValueNetwork(spaces.observation, config.hidden, **shape)
            self.actor_rate = CosineRate(config.lr_actor, config.actor_lr_decay)
        if config.init == "orthogonal":
            for network in (self.actor, self.critic, self.value):
                orthogonal_(network, ORTHOGONAL_GAIN, init)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.target_parameters = list(self.target_critic.parameters())
        self.critic_parameters = list(self.critic.parameters())
        self.value_parameters = list(self.value.parameters())
        self.rest_parameters = [*self.critic_parameters, *self.actor.parameters()]
        rest: list[tuple[list[Parameter], float | Tensor]] = [
            (self.critic_parameters, config.lr_critic),
            (list(self.actor.parameters()), self.actor_rate.rate),
        ]
        # What the maths lets step together shares one optimiser: a small step costs its call.
        if config.order == "official":
            self.value_optimizer = adam((self.value_parameters, config.lr_value))
            self.rest_optimizer = adam(*rest)
        else:
            self.value_optimizer = self.rest_optimizer = adam(*rest, (self.value_parameters, config.lr_value))
            self.rest_parameters += self.value_parameters
        self.policy = clipped_policy(
            self.actor, self.generators["act"], self.normalizer, config.exploration_noise
        )

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Step value network, actor and critics in the configured order, then the targets."""
        config, rows = self.config, self.rows(batch)
        metrics = {}
        with torch.no_grad():
            old_q = self.target_critic(rows.observation, rows.action).amin(-2)
        value = self.value(rows.observation)
        value_loss = expectile_loss(old_q, value, config.expectile)
        if config.order == "official":
            metrics["grad_norm/value"] = take_step(self.value_optimizer, value_loss, self.value_parameters)
            with torch.no_grad():  # the stepped network, both observations in one product
                both = self.value(torch.cat((rows.observation, rows.next_observation), -2))
            value, next_value = both.chunk(2, -1)
        else:
            with torch.no_grad():
                next_value = self.value(rows.next_observation)
        weights = advantage_weights(old_q, value, config.beta, config.max_weight)
        actor_loss = extraction_loss(weights, self.actor(rows.observation), rows.action)
        q = self.critic(rows.observation, rows.action)
        q_loss = critic_loss(q, td_target(rows, next_value), config.order)
        # No loss has a gradient for another's parameters: one backward serves what steps together.
        loss = actor_loss + q_loss if config.order == "official" else actor_loss + q_loss + value_loss
        norm = take_step(self.rest_optimizer, loss, self.rest_parameters)
        self.actor_rate.step()
        polyak(self.target_parameters, self.critic_parameters, config.tau)
        self.update_count += 1
        return metrics | {
            "loss/value": value_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/critic": q_loss.detach(),
            "q/mean": q.detach().mean((-2, -1)),
            "value/mean": value.detach().mean(-1),
            "weight/mean": weights.mean(-1),
            "grad_norm/rest": norm,
        }

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller Q-value as `q` and its distance to the target as `td_error`, `[N]`."""
        rows = self.rows(batch)
        target = td_target(rows, self.value(rows.next_observation))
        q = self.critic(rows.observation, rows.action).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by both critics' mean at the policy's evaluation action.

        Not by the value network: that is an expectile over the data's actions, not the policy's value.
        """
        observation = self.normalized(observation)
        with evaluating(self.actor):
            policy = self.actor(observation)
        action = policy.mean if isinstance(policy, Gaussian) else policy
        value = self.critic(observation, action).mean(-2)
        return StateValue(value, torch.zeros_like(value))

    def start_online(self) -> None:
        """Give the actor its first learning rate back, for good: the authors decay none while fine-tuning."""
        self.actor_rate.hold()

    def parts(self) -> tuple[Trained, ...]:
        """Actor, critic and value network with their optimisers, and the target critic."""
        return (
            Trained("actor", self.actor, self.rest_optimizer),
            Trained("critic", self.critic, self.rest_optimizer),
            Trained("value", self.value, self.value_optimizer),
            Trained("target_critic", self.target_critic, None),
        )
