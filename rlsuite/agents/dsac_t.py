"""DSAC-T: soft actor-critic with Gaussian return distributions and three refinements (Duan et al. 2025).

arXiv 2310.05858, IEEE TPAMI 47(5). The critics learn mean and standard deviation of the soft return; the
mean follows the expected target, the deviation a sampled one clipped at three running deviations.

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Agent, Spaces, StateValue
from rlsuite.agents.gaussian_returns import critic_loss, move_spread, return_targets
from rlsuite.agents.losses import Actor, entropy_target, soft_state_value
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import squashed_gaussian_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.encoder import EncoderFields
from rlsuite.blocks.heads import Gaussian, GaussianActor, GaussianCritic, squash
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import Network, check_widths
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import AtLeastOne, PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.replay.batch import Batch, detached, unpack

LOG_STD_RANGE = (-20.0, 0.5)  # of the actor, before exp; authors' MuJoCo script


@dataclass(frozen=True, slots=True, kw_only=True)
class DSACTConfig(EncoderFields, OptimizerConfig):
    """Hyper-parameters of DSAC-T; the defaults are those of the authors' MuJoCo script."""

    hidden: Widths = (256, 256, 256)
    """Widths of the hidden layers of actor and critics."""
    network: Network = "mlp"
    """Trunk of actor and critics; residual ones have a stem and a block for every further width."""
    activation: Activation = "gelu"
    """Activation of all hidden layers."""
    layer_norm: bool = False
    """Normalise the critics' hidden layers (our choice for mixed batches, after RLPD)."""
    entropy_backup: bool = True
    """The critics' targets have the entropy bonus; without it the actor's loss alone has it."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by running mean and std (replayed rows)."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the three target networks."""
    tau_spread: PolyakRate = 0.005
    """Rate of the running mean of the critics' standard deviations."""
    delay: AtLeastOne = 2
    """Critic updates per update of actor, temperature and targets."""
    lr_critic: Positive = 1e-4
    """Learning rate of the critics."""
    lr_actor: Positive = 1e-4
    """Learning rate of the actor."""
    lr_alpha: Positive = 3e-4
    """Learning rate of log alpha."""
    alpha_init: Positive = math.e
    """First temperature."""
    target_entropy: float | None = None
    """Entropy in environment action units; None is minus the action's length."""
    critic_loss: Literal["paper", "release"] = "paper"
    """`paper` made the published numbers; `release` is the authors' Huber form of July 2025."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_bounds(self)


Critic = Callable[[Tensor, Tensor], Gaussian]


class Box(NamedTuple):
    """The actions' range in the environment's units: critics see these, and the entropy is of them."""

    scale: Tensor
    center: Tensor
    log_volume: Tensor
    """Sum of the logarithms of `scale`."""

    def __call__(self, action: Tensor) -> Tensor:
        """Return actions in the environment's units for actions in [-1, 1]."""
        return self.center + action * self.scale


def box_of(half_range: tuple[float, ...], center: tuple[float, ...] = ()) -> Box:
    """Return the box of actions with these half ranges and this centre; empty is all zeros."""
    scale = torch.tensor(half_range)
    return Box(scale, torch.tensor(center) if center else torch.zeros_like(scale), scale.log().sum(-1))


def sample_action(actor: Actor, box: Box, observation: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw actions in environment units, `[N, A]`, and their log-densities in those units, `[N]`."""
    gaussian = actor(observation)
    action, log_prob = squash(gaussian, noise.normal(gaussian.mean), box.log_volume)
    return box(action), log_prob


@torch.no_grad()
def sample_targets(
    target_actor: Actor, target_critic: Critic, batch: Batch, alpha: Tensor, box: Box, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Draw the next action from the target policy and both twins' returns; give y_q and y_z, `[N]`.

    `alpha` is the weight of the entropy bonus in both.
    """
    action, log_prob = sample_action(target_actor, box, batch.next_observation, noise)
    next_returns = target_critic(batch.next_observation, action)
    return return_targets(batch, next_returns, noise.normal(next_returns.mean), log_prob, alpha)


def actor_loss(
    actor: Actor, critic: Critic, batch: Batch, alpha: Tensor, box: Box, noise: Noise
) -> tuple[Tensor, Tensor]:
    """Return alpha log pi - min_m of the mean returns at a fresh action, and log pi, `[N]`."""
    action, log_prob = sample_action(actor, box, batch.observation, noise)
    q = critic(batch.observation, action).mean.amin(-2)
    return (alpha * log_prob - q).mean(-1), log_prob


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return the temperature loss, linear in log alpha; entropies are in environment units."""
    return -(log_alpha.squeeze(-1) * (log_prob.detach().mean(-1) + target_entropy))


def backed_up(alpha: Tensor, config: DSACTConfig) -> Tensor:
    """Return the weight of the entropy bonus in the critics' targets: alpha, or 0 where it is left out."""
    return alpha if config.entropy_backup else torch.zeros_like(alpha)


class DSACT(Agent):
    """The learner: twin Gaussian critics, squashed Gaussian actor, learnt temperature, two targets."""

    Config: ClassVar[type] = DSACTConfig
    asymmetric = True
    log_alpha: nn.Parameter
    spread: Tensor
    spread_count: Tensor
    action_scale: Tensor
    action_center: Tensor
    action_log_volume: Tensor

    def build(self, spaces: Spaces, config: DSACTConfig) -> None:
        """Make actor, twin critics, their targets, temperature and running stds."""
        sizes, shape = (spaces.observation, spaces.action), self.net_shape()
        self.actor = GaussianActor(spaces.shown, spaces.action, shape, log_std_range=LOG_STD_RANGE)
        self.critic = GaussianCritic(*sizes, replace(shape, layer_norm=config.layer_norm), members=2)
        self.log_alpha = nn.Parameter(torch.full((*self.lead, 1), math.log(config.alpha_init)))
        self.register_buffer("spread", torch.zeros(*self.lead, 2))
        self.register_buffer("spread_count", torch.zeros((), dtype=torch.int64))
        for name, tensor in box_of(spaces.half_range, spaces.center)._asdict().items():
            self.register_buffer(f"action_{name}", tensor, persistent=False)
        self.target_entropy = entropy_target(config.target_entropy, spaces.action)
        self.critic_optimizer = make_optimizer(
            self, config, (self.critic_parameters(self.critic), config.lr_critic)
        )
        self.policy_optimizer = make_optimizer(
            self,
            config,
            (list(self.actor.parameters()), config.lr_actor),
            ([self.log_alpha], config.lr_alpha),
        )
        self.add_parts(self.policy_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic, **self.encoder_part())
        self.add_parts(self.policy_optimizer, alpha=nn.ParameterList([self.log_alpha]))
        self.target_actor = self.add_target("target_actor", self.actor)
        self.target_critic = self.add_target("target_critic", self.critic)
        self.policy = squashed_gaussian_policy(self.actor, self.generators["act"], self.preprocessor)

    @property
    def box(self) -> Box:
        """The actions' range."""
        return Box(self.action_scale, self.action_center, self.action_log_volume)

    def phase(self) -> dict[str, Any]:
        """Return whether the next update moves actor, temperature and targets: the first does."""
        return {"moves_actor": self.update_count % self.config.delay == 0}

    def learn(self, batch: Batch, noise: Noise, *, moves_actor: bool) -> dict[str, Tensor]:  # type: ignore[override]
        """Do one iteration in the order of the authors' code.

        The actor's gradient uses the critics before their step. Actor, temperature and targets move where
        `moves_actor`; in between their pass is left out.
        """
        config, box = self.config, self.box
        alpha = self.log_alpha.detach().exp()
        bonus = backed_up(alpha, config)
        y_q, y_z = sample_targets(self.target_actor, self.target_critic, batch, bonus, box, noise)
        returns = self.critic(batch.observation, box(batch.action))
        move_spread(self.spread, self.spread_count, returns.std, config.tau_spread)
        loss = critic_loss(returns, y_q, y_z, self.spread, config.critic_loss)
        metrics = {
            "loss/critic": loss.detach(),
            "q/mean": returns.mean.detach().mean((-2, -1)),
            "q/std": returns.std.detach().mean((-2, -1)),
            "q/spread": self.spread.mean(-1),
        }
        if moves_actor:
            seen = detached(batch)
            policy_loss, log_prob = actor_loss(self.actor, self.critic, seen, alpha, box, noise)
            temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
            # Neither loss has a gradient for the other's parameters: one backward serves both.
            metrics |= {
                "grad_norm/policy": self.policy_optimizer.descend(policy_loss + temperature_loss),
                "loss/actor": policy_loss.detach(),
                "alpha": alpha.mean(-1),
                "entropy": -log_prob.detach().mean(-1),
            }
        metrics["grad_norm/critic"] = self.critic_optimizer.descend(loss)
        if moves_actor:
            polyak(self.target_critic, self.critic, config.tau)
            polyak(self.target_actor, self.actor, config.tau)
        return metrics

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller mean as `q` and its distance to the expected target as `td_error`, `[N]`."""
        tensors, noise = self.normalized_batch(self.read(batch)), Noise(self.generators["learn"])
        networks, alpha = (
            (self.target_actor, self.target_critic),
            backed_up(self.log_alpha.exp(), self.config),
        )
        y_q, _ = sample_targets(*networks, tensors, alpha, self.box, noise)
        q = self.critic(tensors.observation, self.box(tensors.action)).mean.amin(-2)
        return TensorDict({"q": q, "td_error": y_q - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by both critics' mean at ten actions each."""
        draw, alpha = partial(sample_action, self.actor, self.box), self.log_alpha.exp()
        return soft_state_value(draw, self.critic.expected, alpha, self.normalized(observation))


class DSACTLoss(AgentLoss):
    """DSAC-T's losses for any TorchRL loop: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    The target networks are TorchRL's (`target_*_params`, moved by `torchrl.objectives.SoftUpdate`); step
    actor, temperature and targets at every second critic step to follow the paper.

    Args:
        actor: observation -> pre-tanh Gaussian, as `rlsuite.blocks.heads.GaussianActor`.
        critic: twin critics, as `rlsuite.blocks.heads.GaussianCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        half_range: (high - low) / 2 of each action in the environment's units.
        center: (high + low) / 2 of each action; empty is all zeros.
        generator: noise of both samples; None is torch's global stream.
    """

    def __init__(
        self,
        actor: GaussianActor,
        critic: GaussianCritic,
        config: DSACTConfig,
        *,
        half_range: tuple[float, ...],
        center: tuple[float, ...] = (),
        generator: Source = None,
    ) -> None:
        networks, keys = {"actor": actor, "critic": critic}, ["loss_critic", "loss_actor", "loss_alpha"]
        super().__init__(networks, ("actor", "critic"), keys, generator)
        self.config = config
        self.target_entropy = entropy_target(config.target_entropy, len(half_range))
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha_init)))
        self.register_buffer("spread", torch.zeros(2))
        self.register_buffer("spread_count", torch.zeros((), dtype=torch.int64))
        for name, tensor in box_of(half_range, center)._asdict().items():
            self.register_buffer(f"action_{name}", tensor)

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses; the running spreads move with every call."""
        config, batch, noise = self.config, unpack(tensordict, self.config.gamma), self.noise
        alpha = self.log_alpha.detach().exp()
        box = Box(self.action_scale, self.action_center, self.action_log_volume)
        targets = self.net("actor", target=True), self.net("critic", target=True)
        y_q, y_z = sample_targets(*targets, batch, backed_up(alpha, config), box, noise)
        returns = self.net("critic")(batch.observation, box(batch.action))
        move_spread(self.spread, self.spread_count, returns.std, config.tau_spread)
        networks = self.net("actor"), self.net("critic", fixed=True)
        policy_loss, log_prob = actor_loss(*networks, batch, alpha, box, noise)
        return TensorDict(
            {
                "loss_critic": critic_loss(returns, y_q, y_z, self.spread, config.critic_loss),
                "loss_actor": policy_loss,
                "loss_alpha": alpha_loss(self.log_alpha, log_prob, self.target_entropy),
            }
        )
