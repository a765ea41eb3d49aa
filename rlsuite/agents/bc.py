"""BC: behaviour cloning, the policy of recorded data by regression (Pomerleau 1988).

Legend: N batch, O observation, A action. Losses are written for the last axes; leading axes are independent
seeds, whose losses stay apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.agents.base import Agent, Spaces
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import clipped_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.heads import DeterministicActor, Gaussian, UnsquashedActor, log_density
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import Bounds, DropoutRate, Positive, Widths, check_bounds
from rlsuite.replay.batch import Batch

LOG_STD_RANGE = (-5.0, 2.0)  # of the actor's log-std; IQL's authors' code, whose actor this is


@dataclass(frozen=True, slots=True, kw_only=True)
class BCConfig(OptimizerConfig):
    """Hyper-parameters of BC; the defaults are CORL's."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    normalize_observations: bool = True
    """Feed the actor observations standardised by mean and std of the data set."""
    loss: Literal["mse", "likelihood"] = "mse"
    """Fit one action by squared error, or a Gaussian with one std per action by likelihood."""
    fraction: Annotated[float, Bounds(0, 1, open_low=True)] = 1.0
    """Share of the recorded episodes to learn from, those with the highest returns; 0.1 is CORL's 10%BC."""
    dropout: DropoutRate = 0.0
    """Dropout of the hidden layers, in the loss only."""
    exploration_noise: Annotated[float | None, Bounds(0)] = None
    """Deviation of behaviour noise for actions in [-1, 1]; none: the actor's own (mse: 0.03)."""
    lr_actor: Positive = 3e-4
    """Learning rate."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


def cloning_loss(
    actor: Callable[[Tensor, Noise], Gaussian | Tensor], observation: Tensor, action: Tensor, noise: Noise
) -> Tensor:
    """Return the misfit to the data's actions `[N, A]`: mean squared error, or minus the mean log-density."""
    policy = actor(observation, noise)
    if isinstance(policy, Gaussian):
        return -log_density(policy, action).mean(-1)
    return (policy - action).square().mean((-2, -1))


class BC(Agent):
    """The learner: one actor."""

    Config: ClassVar[type] = BCConfig
    needs_data = True
    adopts_statistics: ClassVar[bool] = True
    actor: DeterministicActor | UnsquashedActor

    def build(self, spaces: Spaces, config: BCConfig) -> None:
        """Make the actor."""
        sizes = (spaces.observation, spaces.action)
        shape = replace(self.net_shape(), dropout=config.dropout, dropout_generator=self.generators["learn"])
        if config.loss == "mse":
            self.actor = DeterministicActor(*sizes, shape)
        else:
            self.actor = UnsquashedActor(*sizes, shape, log_std_range=LOG_STD_RANGE)
        self.optimizer = make_optimizer(self, config, (list(self.actor.parameters()), config.lr_actor))
        self.add_parts(self.optimizer, actor=self.actor)
        std = config.exploration_noise
        self.policy = clipped_policy(self.actor, self.generators["act"], self.normalizer, std)

    def learn(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Step the actor."""
        loss = cloning_loss(self.actor, batch.observation, batch.action, noise)
        return {"loss/actor": loss.detach(), "grad_norm/actor": self.optimizer.descend(loss)}


class BCLoss(AgentLoss):
    """BC's loss as a TorchRL LossModule: `loss_actor` of a replayed batch.

    Args:
        actor: observation -> action or Gaussian, as `rlsuite.blocks.heads.DeterministicActor`.
        generator: of dropout; None is torch's global stream.
    """

    def __init__(self, actor: DeterministicActor | UnsquashedActor, *, generator: Source = None) -> None:
        super().__init__({"actor": actor}, (), ["loss_actor"], generator)
        self.in_keys = ["observation", "action"]

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the loss."""
        observation, action = tensordict.get("observation"), tensordict.get("action")
        return TensorDict({"loss_actor": cloning_loss(self.net("actor"), observation, action, self.noise)})
