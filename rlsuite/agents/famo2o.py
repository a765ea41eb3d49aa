"""FamO2O: a family of IQL policies, and one that chooses among them (Wang et al. 2023, arXiv 2310.17966).

One network is the policy of every strength b of policy improvement, and a balance policy says which b suits a
state. The weights are those of the paper's text, row by row: in the released code strengths `[N, 1]` times
advantages `[N]` are `[N, N]`, so that a row's weight knows nothing of the strength that is the row's input.

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Spaces
from rlsuite.agents.iql import (
    IQL,
    ORTHOGONAL_GAIN,
    IQLConfig,
    IQLLoss,
    advantage_weights,
    extraction_loss,
)
from rlsuite.agents.losses import Critic
from rlsuite.agents.optimizers import make_optimizer
from rlsuite.agents.policies import clipped_policy
from rlsuite.blocks.heads import (
    DeterministicActor,
    Gaussian,
    ScalarCritic,
    UnsquashedActor,
    ValueNetwork,
    squash,
)
from rlsuite.blocks.mlp import orthogonal_
from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import Bounds, NotNegative, Positive, check_bounds
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch

Balance = Callable[[Tensor], Gaussian]

CODE = 6  # numbers of a strength's code; authors' code, as the next two
CODE_BASE = 10_000.0
BALANCE_LOG_STD = (-10.0, 2.0)  # clamp of the balance policy's log-std, which no state changes


@dataclass(frozen=True, slots=True, kw_only=True)
class FamO2OConfig(IQLConfig):
    """Hyper-parameters of FamO2O; the defaults are those of the authors' code for AntMaze."""

    expectile: Annotated[float, Bounds(0.5, 1)] = 0.9
    """Expectile of the value network's loss."""
    beta: Annotated[float, Bounds(0)] = 8.0
    """Least strength of the family: inverse temperature of the advantage weights."""
    beta_high: Annotated[float, Bounds(0)] = 14.0
    """Greatest strength; equal to the least one the family is a single policy, IQL's."""
    strength: Annotated[float | None, Bounds(0)] = None
    """Strength with which the policy acts; none: what the balance policy says. It changes nothing of what is
    learnt from given data, so that one run can be deployed with any."""
    actor_lr_decay: NotNegative = 0
    """Updates over which the actor's rate falls to 0, along half a cosine; 0 keeps it constant."""
    lr_balance: Positive = 3e-4
    """Learning rate of the balance policy."""
    lr_temperature: Positive = 3e-4
    """Learning rate of its temperature's logarithm."""
    target_entropy: float = -0.5
    """Entropy to hold of the balance policy's number in [-1, 1]."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range, and for settings of IQL that have no family."""
        check_bounds(self)
        if self.beta_high < self.beta:
            raise ConfigError(f"beta_high = {self.beta_high:g}: must be at least beta = {self.beta:g}")
        if self.deterministic or self.order != "official":
            raise ConfigError(
                "famo2o is IQL with a Gaussian actor and steps in the official order: leave out "
                "deterministic and order"
            )


def strength_code(strength: Tensor) -> Tensor:
    """Return the code of strengths b `[N]`, sin and cos of b / 10000^(i / 3) for i = 0, 1, 2, `[N, 6]`."""
    scale = CODE_BASE ** (torch.arange(CODE // 2, device=strength.device, dtype=strength.dtype) * (2 / CODE))
    angle = strength.unsqueeze(-1) / scale
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(-2)


def with_code(observation: Tensor, strength: Tensor) -> Tensor:
    """Return observations `[N, O]` with the code of their strengths `[N]` behind them, `[N, O + 6]`."""
    return torch.cat((observation, strength_code(strength).to(observation.dtype)), -1)


def strength_of(unit: Tensor, low: float, high: float) -> Tensor:
    """Return the strengths of numbers u in [-1, 1]: low + (u + 1)(high - low) / 2."""
    return low + (unit + 1) * ((high - low) / 2)


def balance_loss(log_density: Tensor, q: Tensor, temperature: Tensor) -> Tensor:
    """Return the mean of T log w(u | s) - Q(s, a), `[]`, for log-densities and smaller values `[N]`."""
    return (temperature * log_density - q).mean(-1)


def temperature_loss(log_temperature: Tensor, log_density: Tensor, target_entropy: float) -> Tensor:
    """Return T (entropy - target), whose gradient by log T it is, too, `[]`; T `[1]`, log-densities `[N]`."""
    return log_temperature.exp().squeeze(-1) * (-log_density.detach().mean(-1) - target_entropy)


def uniform_strength(rows: Tensor, config: FamO2OConfig, noise: Noise) -> Tensor:
    """Draw a strength of the range for each of `rows` `[N]`, uniformly."""
    return strength_of(2 * noise.uniform(rows) - 1, config.beta, config.beta_high)


def draw_strength(
    balance: Balance, observation: Tensor, config: FamO2OConfig, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Draw strengths of the balance policy for observations, and log-densities of its numbers, `[N]`."""
    policy = balance(observation)
    unit, log_density = squash(policy, noise.normal(policy.mean))
    return strength_of(unit.squeeze(-1), config.beta, config.beta_high), log_density


def balance_losses(
    balance: Balance,
    actor: Callable[[Tensor], Gaussian],
    target_critic: Critic,
    observation: Tensor,
    log_temperature: Tensor,
    config: FamO2OConfig,
    noise: Noise,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of the balance policy and of its temperature, `[]`, and the drawn strengths, `[N]`.

    The action is a sample of the family at the drawn strength, and carries the gradient.
    """
    strength, log_density = draw_strength(balance, observation, config, noise)
    policy = actor(with_code(observation, strength))
    action = torch.addcmul(policy.mean, policy.std, noise.normal(policy.mean))
    q = target_critic(observation, action).amin(-2)
    loss = balance_loss(log_density, q, log_temperature.detach().exp())
    return loss, temperature_loss(log_temperature, log_density, config.target_entropy), strength


def family_loss(
    actor: Any,
    batch: Batch,
    strength: Tensor,
    q: Tensor,
    value: Tensor,
    config: FamO2OConfig,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """Return the actor's loss and weights `[N]` for strengths, lagged values and state values, `[N]` each."""
    weights = advantage_weights(q, value, strength, config.max_weight)
    coded = batch._replace(observation=with_code(batch.observation, strength))
    return extraction_loss(actor, coded, weights, noise), weights


class FamilyPolicy(nn.Module):
    """The family as it acts: observation to a Gaussian of actions, with the strength that suits the state.

    Args:
        actor: observation with code -> Gaussian of actions.
        balance: observation -> Gaussian before the tanh, of one number.
        config: the range, and a fixed strength.
    """

    def __init__(self, actor: nn.Module, balance: nn.Module, config: FamO2OConfig) -> None:
        super().__init__()
        self.actor, self.balance, self.config = actor, balance, config

    def strength(self, observation: Tensor) -> Tensor:
        """Return the strengths with which it acts at observations `[N, O]`, `[N]`."""
        config = self.config
        if config.strength is not None:
            return torch.full_like(observation[..., 0], config.strength)
        return strength_of(self.balance(observation).mean.tanh().squeeze(-1), config.beta, config.beta_high)

    def forward(self, observation: Tensor, noise: Noise | None = None) -> Gaussian:
        """Return the Gaussian of actions, `[N, A]`; noise is of dropout."""
        policy: Gaussian = self.actor(with_code(observation, self.strength(observation)), noise)
        return policy


class FamO2O(IQL):
    """IQL whose actor knows a strength, and a balance policy that learns which to ask for."""

    Config: ClassVar[type] = FamO2OConfig
    needs_data = True
    online: Tensor

    def make_actor(
        self, observation: int, action: int, shape: NetShape
    ) -> UnsquashedActor | DeterministicActor:
        """Return the actor of observations with a code, and make the balance policy."""
        balance = self.net_shape()
        self.balance = UnsquashedActor(observation, 1, balance, log_std_range=BALANCE_LOG_STD, tanh=False)
        return super().make_actor(observation + CODE, action, shape)

    def build(self, spaces: Spaces, config: FamO2OConfig) -> None:  # type: ignore[override]
        """Make IQL's networks, the balance policy and its temperature."""
        super().build(spaces, config)
        if config.init == "orthogonal":
            orthogonal_(self.balance, ORTHOGONAL_GAIN, self.generators["init"])
        self.log_temperature = nn.Parameter(torch.zeros(*self.lead, 1))
        self.balance_optimizer = make_optimizer(
            self,
            config,
            (list(self.balance.parameters()), config.lr_balance),
            ([self.log_temperature], config.lr_temperature),
        )
        self.add_parts(
            self.balance_optimizer,
            balance=self.balance,
            alpha=nn.ParameterList([self.log_temperature]),
        )
        self.register_buffer("online", torch.zeros(1))  # 1 after the data: strengths are the balance policy's
        family = FamilyPolicy(self.actor, self.balance, config)
        std = config.exploration_noise
        self.policy = clipped_policy(family, self.generators["act"], self.normalizer, std)

    def start_online(self) -> None:
        """Go on with strengths that the balance policy draws, and with the actor's first rate."""
        super().start_online()
        self.online.fill_(1.0)

    def move_balance(self, observation: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Step the balance policy and its temperature; actor and critics stand still."""
        networks = self.balance, self.actor, self.target_critic
        loss, of_temperature, strength = balance_losses(
            *networks, observation, self.log_temperature, self.config, noise
        )
        return {
            "alpha": self.log_temperature.detach().exp().mean(-1),
            "grad_norm/balance": self.balance_optimizer.descend(loss + of_temperature),
            "loss/balance": loss.detach(),
            "strength": strength.detach().mean(-1),
        }

    def policy_loss(
        self, batch: Batch, q: Tensor, value: Tensor, noise: Noise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Step the balance policy, then return the family's loss: every row with a strength of its own.

        Strengths are uniform in the range on recorded data, and samples of the balance policy afterwards.
        """
        metrics = self.move_balance(batch.observation, noise)
        uniform = uniform_strength(q, self.config, noise)
        with torch.no_grad():
            chosen, _ = draw_strength(self.balance, batch.observation, self.config, noise)
        strength = torch.where(self.online > 0, chosen, uniform)
        loss, weights = family_loss(self.actor, batch, strength, q, value, self.config, noise)
        return loss, metrics | {"weight/mean": weights.mean(-1)}


class FamO2OLoss(IQLLoss):
    """FamO2O's losses on recorded data as a TorchRL LossModule: IQL's, `loss_balance`, `loss_temperature`.

    Args:
        actor: observation with code -> Gaussian, as `rlsuite.blocks.heads.UnsquashedActor`.
        critic, value, config, generator: as in `IQLLoss`.
        balance: observation -> Gaussian before the tanh, of one number.
    """

    config: FamO2OConfig

    def __init__(
        self,
        actor: UnsquashedActor | DeterministicActor,
        critic: ScalarCritic,
        value: ValueNetwork,
        balance: UnsquashedActor,
        config: FamO2OConfig,
        *,
        generator: Source = None,
    ) -> None:
        super().__init__(actor, critic, value, config, generator=generator)
        self.convert_to_functional(balance, "balance", create_target_params=False)
        self.log_temperature = nn.Parameter(torch.zeros(1))
        self.out_keys = [*self.out_keys, "loss_balance", "loss_temperature"]

    def imitation(self, batch: Batch, q: Tensor, value: Tensor) -> Tensor:
        """Return the family's loss, with uniform strengths."""
        strength = uniform_strength(q, self.config, self.noise)
        return family_loss(self.net("actor"), batch, strength, q, value, self.config, self.noise)[0]

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the five losses."""
        losses = super().forward(tensordict)
        networks = self.net("balance"), self.net("actor", fixed=True), self.net("critic", target=True)
        observation = tensordict.get("observation")
        of_balance, of_temperature, _ = balance_losses(
            *networks, observation, self.log_temperature, self.config, self.noise
        )
        return losses.update({"loss_balance": of_balance, "loss_temperature": of_temperature})
