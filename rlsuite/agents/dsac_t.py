"""DSAC-T: soft actor-critic with Gaussian return distributions and three refinements (Duan et al. 2025).

arXiv 2310.05858, IEEE TPAMI 47(5). The critics learn mean and standard deviation of the soft return; the
mean follows the expected target, the deviation a sampled one clipped at three running deviations.

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictParams
from torch import Tensor, nn
from torch.nn import functional as F
from torchrl.objectives import LossModule

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent, Batch, Spaces, StateValue, Trained, check_range, columns
from rlsuite.agents.losses import alpha_loss, soft_actor_loss, soft_state_value
from rlsuite.agents.policies import squashed_gaussian_policy
from rlsuite.agents.steps import adam, polyak, take_step
from rlsuite.blocks.heads import Gaussian, GaussianActor, GaussianCritic, squash
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import Network, check_widths
from rlsuite.blocks.noise import Source, normal

LOG_STD_RANGE = (-20.0, 0.5)  # of the actor, before exp; authors' MuJoCo script
NOISE_BOUND = 3.0  # the sampled return stays within three deviations; authors' code
CLIP_SPREADS = 3.0  # xi of eq. 23: the clip around the mean, in running deviations
EPS = 0.1  # epsilon and epsilon_omega of eq. 26
HUBER_DELTA = 50.0  # reward units; `release` loss
WEIGHT_RANGE = (0.1, 10.0)  # clamp of the per-sample weight; `release` loss


@dataclass(frozen=True, slots=True, kw_only=True)
class DSACTConfig:
    """Hyper-parameters of DSAC-T; the defaults are those of the authors' MuJoCo script."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of actor and critics."""
    network: Network = "mlp"
    """Trunk of actor and critics; residual ones have a stem and a block for every further width."""
    activation: Activation = "gelu"
    """Activation of all hidden layers."""
    normalize_observations: bool = False
    """Feed all networks observations in running deviations from their running mean (replayed rows)."""
    gamma: float = 0.99
    """Discount per env step."""
    tau: float = 0.005
    """Polyak rate of the three target networks."""
    tau_spread: float = 0.005
    """Rate of the running mean of the critics' standard deviations."""
    delay: int = 2
    """Critic updates per update of actor, temperature and targets."""
    lr_critic: float = 1e-4
    """Learning rate of the critics."""
    lr_actor: float = 1e-4
    """Learning rate of the actor."""
    lr_alpha: float = 3e-4
    """Learning rate of log alpha."""
    alpha_init: float = math.e
    """First temperature."""
    target_entropy: float | None = None
    """Entropy in environment action units; None is minus the action's length."""
    critic_loss: Literal["paper", "release"] = "paper"
    """`paper` made the published numbers; `release` is the authors' Huber form of July 2025."""

    def __post_init__(self) -> None:
        """Raise ValueError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_range("gamma", self.gamma, 0, 1)
        for name in ("tau", "tau_spread"):
            check_range(name, getattr(self, name), 0, 1, open_low=True)
        for name in ("lr_critic", "lr_actor", "lr_alpha", "alpha_init"):
            check_range(name, getattr(self, name), 0, math.inf, open_low=True)
        check_range("delay", self.delay, 1, math.inf)


def return_targets(
    batch: Batch, following: Gaussian, noise: Tensor, next_log_prob: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor]:
    """Targets of the mean and of the deviation (refinements 1 and 2).

    Args:
        batch: reward, terminated, discount, `[N]`.
        following: target critics at the next observation and action, `[M, N]`.
        noise: standard normal draws, one per member, `[M, N]`.
        next_log_prob: log-density of the next action under the target policy, `[N]`.
        alpha: temperature, scalar or `[1]`.

    Returns:
        expected target y_q and sampled target y_z, `[N]`, both of the twin with the smaller mean.
    """
    sample = following.mean + following.std * noise.clamp(-NOISE_BOUND, NOISE_BOUND)
    first, second = following.mean.unbind(-2)
    first_is_smaller = first < second
    mean = torch.where(first_is_smaller, first, second)
    sample = torch.where(first_is_smaller, sample[..., 0, :], sample[..., 1, :])
    discount = batch.discount * (1 - batch.terminated)
    entropy = alpha * next_log_prob
    return batch.reward + discount * (mean - entropy), batch.reward + discount * (sample - entropy)


def running_spread(spread: Tensor, count: Tensor, std: Tensor, rate: float) -> Tensor:
    """Next running mean of a critic's deviation (eq. 27), `[M]`: the first batch's mean, then an average.

    A batch that is not finite leaves it as it is.

    Args:
        spread: current running mean, `[M]`.
        count: batches seen so far, scalar.
        std: deviations on the replayed batch, `[M, N]`.
        rate: weight of the newest batch.
    """
    newest = std.mean(-1)
    moved = torch.where(count == 0, newest, spread.lerp(newest, rate))
    return torch.where(newest.isfinite(), moved, spread)


def clipped_sample(mean: Tensor, y_z: Tensor, spread: Tensor) -> Tensor:
    """Clip the sampled target to three running deviations around the own mean (refinement 3), `[M, N]`."""
    bound = (CLIP_SPREADS * spread).unsqueeze(-1)
    return mean + (y_z.unsqueeze(-2) - mean).clamp(-bound, bound)


def critic_loss(
    returns: Gaussian, y_q: Tensor, y_z: Tensor, spread: Tensor, form: Literal["paper", "release"] = "paper"
) -> Tensor:
    """Surrogate whose gradients are the critics' (docs/dsac_t.md); its value means nothing.

    Args:
        returns: the critics at the replayed rows, `[M, N]`.
        y_q: expected target, `[N]`.
        y_z: sampled target, `[N]`.
        spread: running deviations after this batch, `[M]`.
        form: `paper` settles at the deviation of the error, `release` at 1/sqrt(2) of it.

    Returns:
        `[*lead]`, summed over members.
    """
    mean, std = returns
    fixed_mean, fixed_std = mean.detach(), std.detach()
    sample = clipped_sample(fixed_mean, y_z, spread)
    y_q = y_q.unsqueeze(-2)
    spread = spread.unsqueeze(-1)
    if form == "paper":
        mean_slope = (y_q - fixed_mean) / (fixed_std.square() + EPS)
        std_slope = ((sample - fixed_mean).square() - fixed_std.square()) / (fixed_std.pow(3) + EPS)
        scale = spread.square() + EPS
        return -(scale * (mean_slope * mean + std_slope * std)).mean(-1).sum(-1)
    weight = (spread.square() / (fixed_std.square() + EPS)).clamp(*WEIGHT_RANGE)
    mean_error = F.huber_loss(mean, y_q.expand_as(mean), reduction="none", delta=HUBER_DELTA)
    std_error = F.huber_loss(fixed_mean, sample, reduction="none", delta=HUBER_DELTA)
    std_slope = (fixed_std.square() - std_error) / (fixed_std + EPS)
    return (weight * (mean_error + std_slope * std)).mean(-1).sum(-1)


def sample_action(
    actor: Callable[[Tensor], Gaussian],
    observation: Tensor,
    action_scale: Tensor,
    generator: Source,
) -> tuple[Tensor, Tensor]:
    """Draw actions in environment units, `[N, A]`, and their log-densities in those units, `[N]`."""
    gaussian = actor(observation)
    noise = normal(gaussian.mean, generator)
    action, log_prob = squash(gaussian, noise, action_scale.log().sum(-1))
    return action * action_scale, log_prob


@torch.no_grad()
def sample_targets(
    target_actor: Callable[[Tensor], Gaussian],
    target_critic: Callable[[Tensor, Tensor], Gaussian],
    batch: Batch,
    alpha: Tensor,
    action_scale: Tensor,
    generator: Source,
) -> tuple[Tensor, Tensor]:
    """Draw the next action from the target policy and both twins' returns; give y_q and y_z, `[N]`."""
    action, log_prob = sample_action(target_actor, batch.next_observation, action_scale, generator)
    following = target_critic(batch.next_observation, action)
    noise = normal(following.mean, generator)
    return return_targets(batch, following, noise, log_prob, alpha)


@torch.no_grad()
def move_spread(spread: Tensor, count: Tensor, std: Tensor, rate: float) -> None:
    """Apply `running_spread` in place and count the batch."""
    newest = ranks.mean(std.mean(-1, keepdim=True))
    spread.copy_(running_spread(spread, count, newest, rate))
    count += 1


def entropy_target(config: DSACTConfig, action_scale: Tensor) -> float:
    """Target entropy in environment units: the configured one, or minus the length of the action."""
    return -float(action_scale.shape[-1]) if config.target_entropy is None else config.target_entropy


class DSACTLoss(LossModule):
    """DSAC-T's losses for any TorchRL loop: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    The target networks are TorchRL's (`target_*_params`, moved by `torchrl.objectives.SoftUpdate`); step
    actor, temperature and targets at every second critic step to follow the paper.

    Args:
        actor: observation -> pre-tanh Gaussian, as `rlsuite.blocks.heads.GaussianActor`.
        critic: twin critics, as `rlsuite.blocks.heads.GaussianCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        half_range: (high - low) / 2 of each action in the environment's units.
        generator: noise of both samples; None is torch's global stream.
    """

    actor_params: TensorDictParams
    critic_params: TensorDictParams
    target_actor_params: TensorDictParams
    target_critic_params: TensorDictParams

    def __init__(
        self,
        actor: GaussianActor,
        critic: GaussianCritic,
        config: DSACTConfig,
        *,
        half_range: tuple[float, ...],
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
        self.convert_to_functional(actor, "actor", create_target_params=True)
        self.convert_to_functional(critic, "critic", create_target_params=True)
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha_init)))
        self.register_buffer("spread", torch.zeros(2))
        self.register_buffer("spread_count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("action_scale", torch.tensor(half_range))

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses; the running spreads move with every call."""
        config, rows = self.config, columns(tensordict, self.config.gamma)
        alpha = self.log_alpha.detach().exp()
        noise = (self.action_scale, self.generator)
        with (
            self.target_actor_params.to_module(self.actor),
            self.target_critic_params.to_module(self.critic),
        ):
            y_q, y_z = sample_targets(self.actor, self.critic, rows, alpha, *noise)
        with self.critic_params.to_module(self.critic):
            returns = self.critic(rows.observation, rows.action * self.action_scale)
        move_spread(self.spread, self.spread_count, returns.std, config.tau_spread)
        with self.actor_params.to_module(self.actor):
            action, log_prob = sample_action(self.actor, rows.observation, *noise)
        with self.critic_params.detach().to_module(self.critic):
            mean = self.critic(rows.observation, action).mean
        target_entropy = entropy_target(config, self.action_scale)
        return TensorDict(
            {
                "loss_critic": critic_loss(returns, y_q, y_z, self.spread, config.critic_loss),
                "loss_actor": soft_actor_loss(log_prob, mean, alpha),
                "loss_alpha": alpha_loss(self.log_alpha, log_prob, target_entropy),
            }
        )


class DSACT(Agent):
    """The learner: twin Gaussian critics, squashed Gaussian actor, learnt temperature, three targets.

    Args:
        spaces: sizes and action range of the environment.
        config: hyper-parameters.
        generators: streams "init", "act" and "learn"; see `rlsuite.agents.base.make_generators`.
        device: where parameters live.
        lead: leading axes of independent seeds; batches then carry them too.
    """

    Config: ClassVar[type] = DSACTConfig
    log_alpha: nn.Parameter
    spread: Tensor
    spread_count: Tensor
    action_scale: Tensor

    def __init__(
        self,
        spaces: Spaces,
        config: DSACTConfig,
        generators: Mapping[str, Source],
        *,
        device: torch.device | str = "cpu",
        lead: tuple[int, ...] = (),
    ) -> None:
        super().__init__(spaces, config, generators, device=device, lead=lead)
        shape: dict[str, Any] = {
            "trunk": config.network,
            "activation": config.activation,
            "lead": lead,
            "generator": self.generators["init"],
        }
        with torch.device(device):
            self.actor = GaussianActor(
                spaces.observation, spaces.action, config.hidden, log_std_range=LOG_STD_RANGE, **shape
            )
            self.critic = GaussianCritic(spaces.observation, spaces.action, config.hidden, members=2, **shape)
            self.log_alpha = nn.Parameter(torch.full((*lead, 1), math.log(config.alpha_init)))
            self.register_buffer("spread", torch.zeros(*lead, 2))
            self.register_buffer("spread_count", torch.zeros((), dtype=torch.int64))
            # The critics see actions, and the entropy is measured, in the environment's units (pitfall P2).
            self.register_buffer("action_scale", torch.tensor(spaces.half_range), persistent=False)
        self.target_entropy = entropy_target(config, self.action_scale)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_parameters = list(self.critic.parameters())
        self.actor_parameters = list(self.actor.parameters())
        self.critic_optimizer = adam((self.critic_parameters, config.lr_critic))
        self.policy_optimizer = adam(
            (self.actor_parameters, config.lr_actor), ([self.log_alpha], config.lr_alpha)
        )
        self.target_parameters = [*self.target_critic.parameters(), *self.target_actor.parameters()]
        self.policy = squashed_gaussian_policy(self.actor, self.generators["act"], self.normalizer)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sample y_q and y_z, `[N]`, from the target networks."""
        noise = (self.action_scale, self.generators["learn"])
        return sample_targets(self.target_actor, self.target_critic, batch, self.log_alpha.exp(), *noise)

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """One iteration in the order of the authors' code.

        The actor's gradient uses the critics before their step. Actor, temperature and targets move at
        every `delay`-th update, the first included; in between their pass is left out.
        """
        config, rows = self.config, self.rows(batch)
        y_q, y_z = self.targets(rows)
        returns = self.critic(rows.observation, rows.action * self.action_scale)
        move_spread(self.spread, self.spread_count, returns.std, config.tau_spread)
        loss = critic_loss(returns, y_q, y_z, self.spread, config.critic_loss)
        metrics = {
            "loss/critic": loss.detach(),
            "q/mean": returns.mean.detach().mean((-2, -1)),
            "q/std": returns.std.detach().mean((-2, -1)),
            "q/spread": self.spread.mean(-1),
        }
        moves_actor = self.update_count % config.delay == 0
        if moves_actor:
            alpha = self.log_alpha.detach().exp()
            noise = (self.action_scale, self.generators["learn"])
            action, log_prob = sample_action(self.actor, rows.observation, *noise)
            policy_loss = soft_actor_loss(log_prob, self.critic(rows.observation, action).mean, alpha)
            temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
            # Neither loss has a gradient for the other's parameters: one backward serves both.
            norm = take_step(
                self.policy_optimizer,
                policy_loss + temperature_loss,
                [*self.actor_parameters, self.log_alpha],
            )
            metrics |= {
                "grad_norm/policy": norm,
                "loss/actor": policy_loss.detach(),
                "alpha": alpha.mean(-1),
                "entropy": -log_prob.detach().mean(-1),
            }
        metrics["grad_norm/critic"] = take_step(self.critic_optimizer, loss, self.critic_parameters)
        if moves_actor:
            online = [*self.critic_parameters, *self.actor_parameters]
            polyak(self.target_parameters, online, config.tau)
        self.update_count += 1
        return metrics

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller mean as `q` and its distance to the expected target as `td_error`, `[N]`."""
        rows = self.rows(batch, observe=False)
        y_q, _ = self.targets(rows)
        q = self.critic(rows.observation, rows.action * self.action_scale).mean.amin(-2)
        return TensorDict({"q": q, "td_error": y_q - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by both critics' mean at ten actions each."""

        def draw(observation: Tensor, source: Source) -> tuple[Tensor, Tensor]:
            return sample_action(self.actor, observation, self.action_scale, source)

        alpha, observation = self.log_alpha.exp(), self.normalized(observation)
        return soft_state_value(draw, self.critic.expected, alpha, observation)

    def parts(self) -> tuple[Trained, ...]:
        """Actor, critic and temperature with their optimisers, and the two targets."""
        return (
            Trained("actor", self.actor, self.policy_optimizer),
            Trained("critic", self.critic, self.critic_optimizer),
            Trained("alpha", nn.ParameterList([self.log_alpha]), self.policy_optimizer),
            Trained("target_actor", self.target_actor, None),
            Trained("target_critic", self.target_critic, None),
        )
