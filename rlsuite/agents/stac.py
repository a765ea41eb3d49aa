"""STAC: soft actor-critic with one Gaussian critic and pessimism from its deviation (Özalp 2026).

"Stochastic Actor-Critic: Mitigating Overestimation via Temporal Aleatoric Uncertainty", arXiv 2601.00737.
The critic is fitted by likelihood to one-step targets, so that its deviation measures how much a target
varies for a given observation and action; beta deviations are taken off in the target and for the actor.

Legend: N batch, M critics (one; two for ESTAC), O observation, A action. Losses are written for the last
axes; leading axes are independent seeds, whose losses stay apart.
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
from rlsuite.agents.losses import sample_action, soft_actor_loss, soft_state_value, soft_target
from rlsuite.agents.policies import evaluating, squashed_gaussian_policy
from rlsuite.agents.steps import adam, descend_alpha, polyak, take_step
from rlsuite.blocks.heads import EVALUATION_ACTIONS, LOG_2PI, FlooredGaussianCritic, Gaussian, GaussianActor
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import Network, check_widths
from rlsuite.blocks.noise import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class STACConfig:
    """Hyper-parameters of STAC; defaults as in the paper, beta and dropout our choice among its values."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critic, each with LayerNorm."""
    network: Network = "mlp"
    """Trunk of actor and critics; residual ones have a stem and a block for every further width."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    beta: float = 0.25
    """Deviations taken off the mean; of the paper's five values the one that is never its worst."""
    critics: int = 1
    """Critics of which the lowest counts; 2 with beta 0 is the paper's ESTAC."""
    dropout_actor: float = 0.01
    """Dropout rate of the actor, in behaviour, targets and losses."""
    dropout_critic: float = 0.01
    """Dropout rate of critic and target critic."""
    normalize_observations: bool = False
    """Feed all networks observations in running deviations from their running mean (replayed rows)."""
    gamma: float = 0.99
    """Discount per env step."""
    tau: float = 0.005
    """Polyak rate of the target critic."""
    lr_critic: float = 3e-4
    """Learning rate of the critic."""
    lr_actor: float = 3e-4
    """Learning rate of the actor."""
    lr_alpha: float = 3e-4
    """Rate of the temperature's own step, see `update`."""
    alpha_init: float = 0.2
    """First temperature."""
    target_entropy: float | None = None
    """Entropy of actions in [-1, 1]; None is minus the action's length."""
    evaluation: Literal["mean", "mode"] = "mean"
    """Evaluation action: the squashed Gaussian's mean, or tanh of the Gaussian's."""

    def __post_init__(self) -> None:
        """Raise ValueError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_range("gamma", self.gamma, 0, 1)
        check_range("tau", self.tau, 0, 1, open_low=True)
        check_range("beta", self.beta, 0, math.inf)
        check_range("critics", self.critics, 1, math.inf)
        for name in ("dropout_actor", "dropout_critic"):
            check_range(name, getattr(self, name), 0, 0.99)
        for name in ("lr_critic", "lr_actor", "lr_alpha", "alpha_init"):
            check_range(name, getattr(self, name), 0, math.inf, open_low=True)


def pessimistic(returns: Gaussian, beta: float) -> Tensor:
    """Mean less beta deviations, `[M, N]`: what target and actor see of the critic."""
    return returns.mean - beta * returns.std if beta else returns.mean


def likelihood_loss(returns: Gaussian, target: Tensor) -> Tensor:
    """Negative log-likelihood of targets `[N]` under the critics `[M, N]`; summed over members.

    Both mean and deviation get their gradient; nothing is clipped (paper, section 4.1).
    """
    error = (target.unsqueeze(-2) - returns.mean) / returns.std
    return (0.5 * LOG_2PI + returns.std.log() + 0.5 * error.square()).mean(-1).sum(-1)


def stac_alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Temperature loss alpha (entropy - target entropy): plain gradient descent on log alpha is the paper's.

    Adam is not: its steps do not shrink with alpha.
    """
    return -(log_alpha.exp().squeeze(-1) * (log_prob.detach().mean(-1) + target_entropy))


@torch.no_grad()
def sample_target(
    actor: Callable[[Tensor], Gaussian],
    target_critic: Callable[[Tensor, Tensor], Gaussian],
    batch: Batch,
    alpha: Tensor,
    beta: float,
    generator: Source,
) -> Tensor:
    """Draw the next action from the policy and give the pessimistic one-step target, `[N]`.

    The target critic's mean enters, never a sample: the deviation stays that of one step.
    """
    action, log_prob = sample_action(actor, batch.next_observation, generator)
    next_q = pessimistic(target_critic(batch.next_observation, action), beta)
    return soft_target(batch, next_q, log_prob, alpha)


def entropy_target(config: STACConfig, actions: int) -> float:
    """Target entropy of actions in [-1, 1]: the configured one, or minus the action's length."""
    return -float(actions) if config.target_entropy is None else config.target_entropy


class STACLoss(LossModule):
    """The same losses for any TorchRL loop: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    Args:
        actor: observation -> pre-tanh Gaussian, as `rlsuite.blocks.heads.GaussianActor`.
        critic: as `rlsuite.blocks.heads.FlooredGaussianCritic`. Keep actor and critic in training mode:
            dropout is part of the targets, too.
        config: hyper-parameters; learning rates are the caller's business. Step log alpha by
            `torch.optim.SGD` to follow the paper.
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
        critic: FlooredGaussianCritic,
        config: STACConfig,
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
        self.target_entropy = entropy_target(config, actions)
        self.convert_to_functional(actor, "actor")
        self.convert_to_functional(critic, "critic", create_target_params=True)
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha_init)))

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        config, rows = self.config, columns(tensordict, self.config.gamma)
        alpha = self.log_alpha.detach().exp()
        with self.actor_params.to_module(self.actor), self.target_critic_params.to_module(self.critic):
            target = sample_target(self.actor, self.critic, rows, alpha, config.beta, self.generator)
        with self.critic_params.to_module(self.critic):
            returns = self.critic(rows.observation, rows.action)
        with self.actor_params.to_module(self.actor):
            action, log_prob = sample_action(self.actor, rows.observation, self.generator)
        with self.critic_params.detach().to_module(self.critic):
            policy_q = pessimistic(self.critic(rows.observation, action), config.beta)
        return TensorDict(
            {
                "loss_critic": likelihood_loss(returns, target),
                "loss_actor": soft_actor_loss(log_prob, policy_q, alpha),
                "loss_alpha": stac_alpha_loss(self.log_alpha, log_prob, self.target_entropy),
            }
        )


class STAC(Agent):
    """The learner: a Gaussian critic with its target, squashed Gaussian actor, learnt temperature.

    Args:
        spaces: sizes and action range of the environment.
        config: hyper-parameters.
        generators: streams "init", "act" and "learn"; see `rlsuite.agents.base.make_generators`. All
            dropout masks come from "learn".
        device: where parameters live.
        lead: leading axes of independent seeds; batches then carry them too.
    """

    Config: ClassVar[type] = STACConfig

    def __init__(
        self,
        spaces: Spaces,
        config: STACConfig,
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
            "layer_norm": True,
            "generator": self.generators["init"],
            "dropout_generator": self.generators["learn"],
        }
        with torch.device(device):
            self.actor = GaussianActor(*sizes, log_std_range=None, dropout=config.dropout_actor, **shape)
            self.critic = FlooredGaussianCritic(
                *sizes, members=config.critics, dropout=config.dropout_critic, **shape
            )
            log_alpha = torch.full((*lead, 1), math.log(config.alpha_init))
        with torch.no_grad():  # deviations start near log 2; author's code
            self.critic.trunk.head.bias[..., 1] = 0
        self.log_alpha = nn.Parameter(log_alpha, requires_grad=False)
        self.target_entropy = entropy_target(config, spaces.action)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_parameters = list(self.critic.parameters())
        self.actor_parameters = list(self.actor.parameters())
        self.target_parameters = list(self.target_critic.parameters())
        self.critic_optimizer = adam((self.critic_parameters, config.lr_critic))
        self.actor_optimizer = adam((self.actor_parameters, config.lr_actor))
        mode = EVALUATION_ACTIONS[config.evaluation]
        self.policy = squashed_gaussian_policy(self.actor, self.generators["act"], self.normalizer, mode)

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Step the critic, move its target, then step the actor against the new critic and the temperature.

        The temperature follows alpha <- alpha exp(lr alpha (target entropy - entropy)): plain gradient
        descent on log alpha, slow where alpha is small (author's code).
        """
        config, rows, noise = self.config, self.rows(batch), self.generators["learn"]
        alpha = self.log_alpha.exp()
        target = sample_target(self.actor, self.target_critic, rows, alpha, config.beta, noise)
        returns = self.critic(rows.observation, rows.action)
        loss = likelihood_loss(returns, target)
        critic_norm = take_step(self.critic_optimizer, loss, self.critic_parameters)
        polyak(self.target_parameters, self.critic_parameters, config.tau)
        action, log_prob = sample_action(self.actor, rows.observation, noise)
        policy_q = pessimistic(self.critic(rows.observation, action), config.beta)
        policy_loss = soft_actor_loss(log_prob, policy_q, alpha)
        policy_norm = take_step(self.actor_optimizer, policy_loss, self.actor_parameters)
        descend_alpha(self.log_alpha, log_prob, self.target_entropy, config.lr_alpha * alpha)
        self.update_count += 1
        return {
            "loss/critic": loss.detach(),
            "loss/actor": policy_loss.detach(),
            "q/mean": returns.mean.detach().mean((-2, -1)),
            "q/std": returns.std.detach().mean((-2, -1)),
            "alpha": alpha.mean(-1),
            "entropy": -log_prob.detach().mean(-1),
            "grad_norm/critic": critic_norm,
            "grad_norm/policy": policy_norm,
        }

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the pessimistic value as `q` and its distance to the target as `td_error`, `[N]`."""
        rows, beta = self.rows(batch, observe=False), self.config.beta
        with evaluating(self.actor, self.critic, self.target_critic):
            target = sample_target(
                self.actor, self.target_critic, rows, self.log_alpha.exp(), beta, self.generators["learn"]
            )
            q = pessimistic(self.critic(rows.observation, rows.action), beta).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by the critic's mean, without pessimism, at ten actions each."""
        draw, alpha = partial(sample_action, self.actor), self.log_alpha.exp()
        with evaluating(self.actor, self.critic):
            return soft_state_value(draw, self.critic.expected, alpha, self.normalized(observation))

    def parts(self) -> tuple[Trained, ...]:
        """Actor and critic with their optimisers; the temperature, which steps itself; the target critic."""
        return (
            Trained("actor", self.actor, self.actor_optimizer),
            Trained("critic", self.critic, self.critic_optimizer),
            Trained("alpha", nn.ParameterList([self.log_alpha]), None),
            Trained("target_critic", self.target_critic, None),
        )
