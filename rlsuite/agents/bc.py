"""BC: behaviour cloning, the policy of recorded data by regression (Pomerleau 1988).

Legend: N batch, O observation, A action. Losses are written for the last axes; leading axes are independent
seeds, whose losses stay apart.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictParams
from torch import Tensor
from torchrl.objectives import LossModule

from rlsuite.agents.base import Agent, Spaces, Trained, check_range
from rlsuite.agents.policies import clipped_policy
from rlsuite.agents.steps import adam, take_step
from rlsuite.blocks.heads import DeterministicActor, Gaussian, UnsquashedActor, log_density
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.noise import Source

LOG_STD_RANGE = (-5.0, 2.0)  # of the actor's log-deviation; IQL's authors' code, whose actor this is


@dataclass(frozen=True, slots=True, kw_only=True)
class BCConfig:
    """Hyper-parameters of BC; the defaults are CORL's."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    normalize_observations: bool = True
    """Feed the actor observations in deviations from the mean, both of the data set."""
    loss: Literal["mse", "likelihood"] = "mse"
    """Fit one action by squared error, or a Gaussian with one deviation per action by likelihood."""
    dropout: float = 0.0
    """Dropout of the hidden layers, in the loss only."""
    exploration_noise: float | None = None
    """Deviation of behaviour noise for actions in [-1, 1]; none: the actor's own (mse: 0.03)."""
    lr_actor: float = 3e-4
    """Learning rate."""

    def __post_init__(self) -> None:
        """Raise ValueError for values outside their range."""
        check_range("dropout", self.dropout, 0, math.nextafter(1, 0))
        check_range("exploration_noise", self.exploration_noise or 0, 0, math.inf)
        check_range("lr_actor", self.lr_actor, 0, math.inf, open_low=True)


def cloning_loss(policy: Gaussian | Tensor, action: Tensor) -> Tensor:
    """Misfit to the data's actions `[N, A]`: mean squared error, or minus the mean log-density."""
    if isinstance(policy, Gaussian):
        return -log_density(policy, action).mean(-1)
    return (policy - action).square().mean((-2, -1))


class BCLoss(LossModule):
    """The same loss for any TorchRL loop: `loss_actor` of a replayed batch.

    Args:
        actor: observation -> action or Gaussian, as `rlsuite.blocks.heads.DeterministicActor`.
    """

    actor_params: TensorDictParams

    def __init__(self, actor: DeterministicActor | UnsquashedActor) -> None:
        super().__init__()
        self.in_keys, self.out_keys = ["observation", "action"], ["loss_actor"]
        self.convert_to_functional(actor, "actor")

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the loss."""
        with self.actor_params.to_module(self.actor):
            policy = self.actor(tensordict.get("observation"))
        return TensorDict({"loss_actor": cloning_loss(policy, tensordict.get("action"))})


class BC(Agent):
    """The learner: one actor.

    Args:
        spaces: sizes and action range of the environment.
        config: hyper-parameters.
        generators: streams "init", "act" and "learn"; see `rlsuite.agents.base.make_generators`.
        device: where parameters live.
        lead: leading axes of independent seeds; batches then carry them too.
    """

    Config: ClassVar[type] = BCConfig
    adopts_statistics: ClassVar[bool] = True

    def __init__(
        self,
        spaces: Spaces,
        config: BCConfig,
        generators: Mapping[str, Source],
        *,
        device: torch.device | str = "cpu",
        lead: tuple[int, ...] = (),
    ) -> None:
        super().__init__(spaces, config, generators, device=device, lead=lead)
        sizes = (spaces.observation, spaces.action, config.hidden)
        shape: dict[str, Any] = {
            "activation": config.activation,
            "lead": lead,
            "dropout": config.dropout,
            "generator": self.generators["init"],
            "dropout_generator": self.generators["learn"],
        }
        self.actor: DeterministicActor | UnsquashedActor
        with torch.device(device):
            if config.loss == "mse":
                self.actor = DeterministicActor(*sizes, **shape)
            else:
                self.actor = UnsquashedActor(*sizes, log_std_range=LOG_STD_RANGE, **shape)
        self.actor_parameters = list(self.actor.parameters())
        self.optimizer = adam((self.actor_parameters, config.lr_actor))
        self.policy = clipped_policy(
            self.actor, self.generators["act"], self.normalizer, config.exploration_noise
        )

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Step the actor."""
        rows = self.rows(batch)
        loss = cloning_loss(self.actor(rows.observation), rows.action)
        norm = take_step(self.optimizer, loss, self.actor_parameters)
        self.update_count += 1
        return {"loss/actor": loss.detach(), "grad_norm/actor": norm}

    def parts(self) -> tuple[Trained, ...]:
        """The actor with its optimiser."""
        return (Trained("actor", self.actor, self.optimizer),)
