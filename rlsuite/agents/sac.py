"""SAC: soft actor-critic with twin critics and a learnt temperature (Haarnoja et al. 2018, arXiv 1812.05905).

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictParams
from torch import Tensor, nn
from torchrl.objectives import LossModule

from rlsuite.agents.base import Agent, Batch, Spaces, StateValue, Trained, check_range, columns
from rlsuite.agents.losses import (
    alpha_loss,
    sample_action,
    soft_actor_loss,
    soft_state_value,
    soft_target,
    squared_td_loss,
)
from rlsuite.agents.policies import squashed_gaussian_policy
from rlsuite.agents.steps import adam, descend_alpha, polyak, take_step
from rlsuite.blocks.heads import EVALUATION_ACTIONS, Gaussian, GaussianActor, ScalarCritic
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import Network, check_widths
from rlsuite.blocks.noise import Source

LOG_STD_RANGE = (-20.0, 2.0)  # of the actor, before exp; authors' code


@dataclass(frozen=True, slots=True, kw_only=True)
class SACConfig:
    """Hyper-parameters of SAC; the defaults are those of the paper's appendix D."""

    hidden: tuple[int, ...] = (256, 256)
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
    """The actor's deviation: exp of a clamped output, or softplus of one with a floor (STAC's paper)."""
    normalize_observations: bool = False
    """Feed all networks observations in running deviations from their running mean (replayed rows)."""
    gamma: float = 0.99
    """Discount per env step."""
    tau: float = 0.005
    """Polyak rate of the target critics."""
    lr_critic: float = 3e-4
    """Learning rate of the critics."""
    lr_actor: float = 3e-4
    """Learning rate of the actor."""
    lr_alpha: float = 3e-4
    """Learning rate of log alpha."""
    alpha_step: Literal["adam", "sgd"] = "adam"
    """How log alpha descends; Adam's steps do not grow with the distance to the target entropy."""
    alpha_init: float = 1.0
    """First temperature."""
    target_entropy: float | None = None
    """Entropy of actions in [-1, 1]; None is minus the action's length."""
    evaluation: Literal["mode", "mean"] = "mode"
    """Evaluation action: tanh of the Gaussian's mean, or the squashed Gaussian's mean."""

    def __post_init__(self) -> None:
        """Raise ValueError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_range("gamma", self.gamma, 0, 1)
        check_range("tau", self.tau, 0, 1, open_low=True)
        for name in ("lr_critic", "lr_actor", "lr_alpha", "alpha_init"):
            check_range(name, getattr(self, name), 0, math.inf, open_low=True)


@torch.no_grad()
def sample_target(
    actor: Callable[[Tensor], Gaussian],
    target_critic: Callable[[Tensor, Tensor], Tensor],
    batch: Batch,
    alpha: Tensor,
    generator: Source,
) -> Tensor:
    """Draw the next action from the policy and give the soft Bellman target, `[N]`."""
    action, log_prob = sample_action(actor, batch.next_observation, generator)
    return soft_target(batch, target_critic(batch.next_observation, action), log_prob, alpha)


class SACLoss(LossModule):
    """The same losses for any TorchRL loop: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    Args:
        actor: observation -> pre-tanh Gaussian, as `rlsuite.blocks.heads.GaussianActor`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        actions: A, for the target entropy.
        generator: noise of both samples; None is torch's global stream.
    """

    actor_params: TensorDictParams
    critic_params: TensorDictParams
    target_actor_params: TensorDictParams
    target_critic_params: TensorDictParams

    def __init__(
        self,
        actor: GaussianActor,
        critic: ScalarCritic,
        config: SACConfig,
        *,
        actions: int,
        generator: Source = None,
    ) -> None:
        super().__init__()
        self.in_keys = [
            "observation",
            "action",
            *(("next", k) for k in ("observation", "reward", "terminated")),
        ]
        self.out_keys = ["loss_critic", "loss_actor", "loss_alpha"]
        self.config, self.generator = config, generator
        self.target_entropy = -float(actions) if config.target_entropy is None else config.target_entropy
        self.convert_to_functional(actor, "actor")
        self.convert_to_functional(critic, "critic", create_target_params=True)
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha_init)))

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        rows = columns(tensordict, self.config.gamma)
        alpha = self.log_alpha.detach().exp()
        with self.actor_params.to_module(self.actor):
            with self.target_critic_params.to_module(self.critic):
                target = sample_target(self.actor, self.critic, rows, alpha, self.generator)
            action, log_prob = sample_action(self.actor, rows.observation, self.generator)
        with self.critic_params.to_module(self.critic):
            q = self.critic(rows.observation, rows.action)
        with self.critic_params.detach().to_module(self.critic):
            policy_q = self.critic(rows.observation, action)
        return TensorDict(
            {
                "loss_critic": squared_td_loss(q, target),
                "loss_actor": soft_actor_loss(log_prob, policy_q, alpha),
                "loss_alpha": alpha_loss(self.log_alpha, log_prob, self.target_entropy),
            }
        )


class SAC(Agent):
    """The learner: twin critics with targets, squashed Gaussian actor, learnt temperature.

    Args:
        spaces: sizes and action range of the environment.
        config: hyper-parameters.
        generators: streams "init", "act" and "learn"; see `rlsuite.agents.base.make_generators`.
        device: where parameters live.
        lead: leading axes of independent seeds; batches then carry them too.
    """

    Config: ClassVar[type] = SACConfig

    def __init__(
        self,
        spaces: Spaces,
        config: SACConfig,
        generators: Mapping[str, Source],
        *,
        device: torch.device | str = "cpu",
        lead: tuple[int, ...] = (),
    ) -> None:
        super().__init__(spaces, config, generators, device=device, lead=lead)
        sizes = (spaces.observation, spaces.action, config.hidden)
        shape: dict[str, Any] = {
            "trunk": config.network,
            "activation": config.activation,
            "lead": lead,
            "generator": self.generators["init"],
        }
        with torch.device(device):
            self.actor = GaussianActor(
                *sizes,
                log_std_range=LOG_STD_RANGE if config.actor_std == "exp" else None,
                layer_norm=config.layer_norm_actor,
                **shape,
            )
            self.critic = ScalarCritic(*sizes, members=2, layer_norm=config.layer_norm, **shape)
            self.log_alpha = nn.Parameter(torch.full((*lead, 1), math.log(config.alpha_init)))
        self.target_entropy = (
            -float(spaces.action) if config.target_entropy is None else config.target_entropy
        )
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_parameters = list(self.critic.parameters())
        self.actor_parameters = list(self.actor.parameters())
        self.target_parameters = list(self.target_critic.parameters())
        self.critic_optimizer = adam((self.critic_parameters, config.lr_critic))
        self.policy_parameters = list(self.actor_parameters)
        groups = [(self.actor_parameters, config.lr_actor)]
        if config.alpha_step == "adam":
            self.policy_parameters.append(self.log_alpha)
            groups.append(([self.log_alpha], config.lr_alpha))
        self.policy_optimizer = adam(*groups)
        mode = EVALUATION_ACTIONS[config.evaluation]
        self.policy = squashed_gaussian_policy(self.actor, self.generators["act"], self.normalizer, mode)

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Step the critics, then actor and temperature against the new critics, then the targets."""
        config, rows, noise = self.config, self.rows(batch), self.generators["learn"]
        alpha = self.log_alpha.detach().exp()
        target = sample_target(self.actor, self.target_critic, rows, alpha, noise)
        q = self.critic(rows.observation, rows.action)
        loss = squared_td_loss(q, target)
        critic_norm = take_step(self.critic_optimizer, loss, self.critic_parameters)
        action, log_prob = sample_action(self.actor, rows.observation, noise)
        policy_loss = soft_actor_loss(log_prob, self.critic(rows.observation, action), alpha)
        temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
        # Neither loss has a gradient for the other's parameters: one backward serves both.
        policy_norm = take_step(self.policy_optimizer, policy_loss + temperature_loss, self.policy_parameters)
        if config.alpha_step == "sgd":
            descend_alpha(self.log_alpha, log_prob, self.target_entropy, config.lr_alpha)
        polyak(self.target_parameters, self.critic_parameters, config.tau)
        self.update_count += 1
        return {
            "loss/critic": loss.detach(),
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
        rows = self.rows(batch, observe=False)
        alpha = self.log_alpha.exp()
        target = sample_target(self.actor, self.target_critic, rows, alpha, self.generators["learn"])
        q = self.critic(rows.observation, rows.action).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by both critics' mean at ten actions each."""
        draw = partial(sample_action, self.actor)
        return soft_state_value(draw, self.critic, self.log_alpha.exp(), self.normalized(observation))

    def parts(self) -> tuple[Trained, ...]:
        """Actor, critic and temperature with their optimisers, and the target critic."""
        return (
            Trained("actor", self.actor, self.policy_optimizer),
            Trained("critic", self.critic, self.critic_optimizer),
            Trained(
                "alpha",
                nn.ParameterList([self.log_alpha]),
                self.policy_optimizer if self.config.alpha_step == "adam" else None,
            ),
            Trained("target_critic", self.target_critic, None),
        )
