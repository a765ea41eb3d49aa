"""SAC with a categorical critic on normalised residual networks of unit norm: SimbaV2, XQC and FlashSAC.

Lee et al. 2025 (arXiv 2502.15280), Palenicek et al. 2026 (arXiv 2509.25174) and Kim et al. 2026 (arXiv
2604.04539) are presets of one algorithm; docs/simba_sac.md says in what they differ.

Legend: N batch, M = 2 twin critics, K atoms, O observation, A action. Losses are written for the last axes;
leading axes are independent seeds, whose losses stay apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Agent, Spaces, StateValue
from rlsuite.agents.losses import sample_action, soft_action_value, soft_state_value, td_target
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import squashed_gaussian_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.categorical import gaussian_histogram, project_atoms
from rlsuite.blocks.exploration import Filtered, remembering_noise
from rlsuite.blocks.heads import Gaussian, squash
from rlsuite.blocks.noise import Noise, Source
from rlsuite.blocks.normed import Norm, Trunk, UnitShape, project
from rlsuite.blocks.reward_scale import RewardScale, Rule
from rlsuite.blocks.schedule import FallingRate
from rlsuite.blocks.unit_heads import CategoricalCritic, UnitActor
from rlsuite.bounds import AtLeastOne, Bounds, PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch, unpack

Critic = Callable[..., Any]
"""(observation, action, statistics, rows) -> distribution with a `mean`, `[M, N]`; see `unit_heads`."""
Actor = Callable[..., Gaussian]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSACConfig(OptimizerConfig):
    """What agents on networks of unit norm have in common.

    The defaults are FlashSAC's but for its narrower actor and its held noise, which the presets have.
    """

    hidden: Widths = (256, 256, 256)
    """Widths of the critics; of residual trunks that of the stem and once more for every block."""
    hidden_actor: Widths = ()
    """Widths of the actor; empty is the critics'."""
    network: Trunk = "flash"
    """Trunk of actor and critics: FlashSAC's, XQC's or SimbaV2's."""
    norm: Norm = "batch"
    """Norms inside FlashSAC's blocks; layer norms need no joint pass, and normalised observations."""
    actor_std: Literal["tanh", "clamp"] = "tanh"
    """The actor's log std: in (-10, 2) by a tanh (FlashSAC, SimbaV2) or a clamp (XQC)."""
    joint_actor: bool = True
    """The actor's batch norms see next observations, too (FlashSAC)."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by running mean and std (replayed rows)."""
    reward_scale: Rule = "bound"
    """Rewards are divided by the running std of returns, or where greater by a share of the greatest."""
    bound: Positive = 5.0
    """Returns lie in [-bound, bound], after scaling."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.01
    """Polyak rate of the target critics."""
    order: Literal["actor", "critic"] = "actor"
    """What moves first in an update: actor and temperature (FlashSAC, SimbaV2) or the critics (XQC)."""
    delay: AtLeastOne = 2
    """Critic updates per update of actor and temperature."""
    lr_critic: Positive = 3e-4
    """First learning rate of the critics."""
    lr_actor: Positive = 3e-4
    """First learning rate of the actor."""
    lr_alpha: Positive = 3e-4
    """First learning rate of log alpha."""
    lr_final: UnitInterval = 0.5
    """Share of all three rates that is left at the run's end."""
    lr_decay: Literal["cosine", "linear"] = "cosine"
    """How the rates fall over the run."""
    alpha_init: Positive = 0.01
    """First temperature, in units of scaled returns."""
    entropy_std: Positive = 0.15
    """Target entropy is that of an unsquashed Gaussian of this std in every action."""
    target_entropy: float | None = None
    """Entropy of actions in [-1, 1] instead."""
    noise_correlation: Filtered = "white"
    """Behaviour noise from step to step: white, Ornstein-Uhlenbeck, pink, or held (FlashSAC)."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)
        if self.norm == "layer" and self.network != "flash":
            raise ConfigError(
                f"norm = layer: {self.network} networks have their own norms; network must be flash"
            )

    @property
    def joint(self) -> bool:
        """Whether critics see transitions and successors in one pass, as their batch norms ask for."""
        return self.network != "simbav2" and self.norm == "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class SimbaSACConfig(UnitSACConfig):
    """Hyper-parameters of SAC with categorical critics."""

    atoms: Annotated[int, Bounds(2, 2**16)] = 101
    """Atoms of a categorical critic."""
    target: Literal["projection", "hl_gauss"] = "projection"
    """Target of the critics: the projected distribution, or a Gaussian histogram around its mean."""


def entropy_of_std(configured: float | None, std: float, actions: int) -> float:
    """Return the configured target entropy, or that of a Gaussian, (A / 2) ln(2 pi e std^2)."""
    return 0.5 * actions * math.log(2 * math.pi * math.e * std**2) if configured is None else configured


def target_distribution(
    next_logits: Tensor, entropy: Tensor, batch: Batch, support: Tensor, form: str = "projection"
) -> tuple[Tensor, Tensor]:
    """Return the critics' target, `[N, K]`, and the share of atoms beyond the support's ends, `[]`.

    The member with the smaller mean gives the whole distribution.

    Args:
        next_logits: of the target critics, `[M, N, K]`.
        entropy: alpha log pi of the next action, `[N]`; it shifts the atoms.
        batch: reward, terminated, discount.
        support: `[K]`.
        form: "projection" or "hl_gauss".
    """
    probabilities = next_logits.softmax(-1)
    means = (probabilities * support).sum(-1)
    chosen = means.argmin(-2, keepdim=True)  # [1, N]
    smaller = means.gather(-2, chosen).squeeze(-2)
    index = chosen.unsqueeze(-1).expand(*chosen.shape, support.shape[-1])
    discount = batch.discount * (1 - batch.terminated)
    shifted = batch.reward - discount * entropy
    atoms = shifted.unsqueeze(-1) + discount.unsqueeze(-1) * support
    outside = ((atoms < support[0]) | (atoms > support[-1])).to(atoms.dtype).mean((-2, -1))
    if form == "hl_gauss":
        return gaussian_histogram(td_target(batch, smaller - entropy), support), outside
    return project_atoms(probabilities.gather(-3, index).squeeze(-3), atoms, support), outside


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the critics' cross-entropy, logits `[M, N, K]`, to a target `[N, K]`; summed over members."""
    return -(target.unsqueeze(-3) * logits.log_softmax(-1)).sum(-1).mean(-1).sum(-1)


def outputs(
    critic: Critic, target_critic: Critic, batch: Batch, next_action: Tensor, *, joint: bool
) -> tuple[Any, Any]:
    """Return the critics at the replayed rows, with gradient, and the target critics at the next, without.

    In a joint pass both networks see both halves, so that their batch norms use the statistics of the
    mixture; the targets' running statistics serve `values` alone.
    """
    if not joint:
        with torch.no_grad():
            later = target_critic(batch.next_observation, next_action)
        return critic(batch.observation, batch.action), later
    observation = torch.cat((batch.observation, batch.next_observation), -2)
    action = torch.cat((batch.action, next_action), -2)
    with torch.no_grad():
        later = target_critic(observation, action, "learn", "second")
    return critic(observation, action, "learn", "first"), later


@torch.no_grad()
def next_sample(actor: Actor, batch: Batch, alpha: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw next actions `[N, A]`; return them and alpha times their log-density, `[N]`."""
    action, log_prob = sample_action(actor, batch.next_observation, noise)
    return action, alpha * log_prob


def critic_objective(
    actor: Actor,
    critic: Critic,
    target_critic: Critic,
    batch: Batch,
    alpha: Tensor,
    config: SimbaSACConfig,
    noise: Noise,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the critics' loss, `[]`, and what there is to log of them."""
    action, entropy = next_sample(actor, batch, alpha, noise)
    now, later = outputs(critic, target_critic, batch, action, joint=config.joint)
    target, outside = target_distribution(later.logits, entropy, batch, now.support, config.target)
    return cross_entropy(now.logits, target), {
        "q/mean": now.mean.detach().mean((-2, -1)),
        "q/clipped": outside,
    }


def actor_loss(
    actor: Actor, critic: Critic, batch: Batch, alpha: Tensor, noise: Noise, *, joint: bool
) -> tuple[Tensor, Tensor]:
    """Return alpha log pi - min_m Q at a fresh action, `[]`, and log pi, `[N]`.

    The critics use their running statistics. With `joint` the actor sees the next observations in the same
    pass.
    """
    if joint:
        gaussian = actor(torch.cat((batch.observation, batch.next_observation), -2), "learn", "first")
    else:
        gaussian = actor(batch.observation, "learn")
    action, log_prob = squash(gaussian, noise.normal(gaussian.mean))
    q = critic(batch.observation, action).mean.amin(-2)
    return (alpha * log_prob - q).mean(-1), log_prob


def alpha_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Return alpha (entropy - target entropy), `[]`: alpha falls where there is too much entropy."""
    return -(log_alpha.exp().squeeze(-1) * (log_prob.detach().mean(-1) + target_entropy))


class SimbaSAC(Agent):
    """The learner: twin categorical critics with targets, squashed Gaussian actor, learnt temperature."""

    Config: ClassVar[type] = SimbaSACConfig
    reward_scale: RewardScale

    def build(self, spaces: Spaces, config: Any) -> None:
        """Make actor, twin critics, temperature, the critics' target, reward scale and learning rates."""
        self.reward_scale = RewardScale(config.gamma, config.reward_scale, config.bound, lead=self.lead)
        shared: dict[str, Any] = {"trunk_name": config.network, "norm": config.norm, "lead": self.lead}
        shared["generator"] = self.generators["init"]
        widths = config.hidden_actor or config.hidden
        sizes = (spaces.observation, spaces.action)
        self.actor = UnitActor(*sizes, UnitShape(hidden=widths, **shared), std=config.actor_std)
        self.critic = self.make_critic(sizes, UnitShape(hidden=config.hidden, **shared))
        for network in (self.actor, self.critic):
            project(network)
        self.log_alpha = nn.Parameter(torch.full((*self.lead, 1), math.log(config.alpha_init)))
        self.target_entropy = entropy_of_std(config.target_entropy, config.entropy_std, spaces.action)
        first = {"critic": config.lr_critic, "actor": config.lr_actor, "alpha": config.lr_alpha}
        rates = {name: FallingRate(rate, config.lr_final, config.lr_decay) for name, rate in first.items()}
        self.rates = nn.ModuleDict(rates)
        self.critic_optimizer = make_optimizer(
            self, config, (list(self.critic.parameters()), rates["critic"].rate)
        )
        actor = (list(self.actor.parameters()), rates["actor"].rate)
        self.policy_optimizer = make_optimizer(self, config, actor, ([self.log_alpha], rates["alpha"].rate))
        self.add_parts(self.policy_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic)
        self.add_parts(self.policy_optimizer, alpha=nn.ParameterList([self.log_alpha]))
        self.target_critic = self.add_target("target_critic", self.critic)
        act, remembering = self.generators["act"], remembering_noise(config.noise_correlation)
        self.policy = squashed_gaussian_policy(self.actor, act, self.normalizer, remembering=remembering)

    def make_critic(self, sizes: tuple[int, int], shape: UnitShape) -> nn.Module:
        """Make the twin critics of networks of this shape."""
        atoms, bound = self.config.atoms, self.config.bound
        return CategoricalCritic(*sizes, shape, members=2, atoms=atoms, bound=bound)

    def begin(self, updates: int) -> None:
        """Lay the falling rates over the run."""
        for rate in self.falling:
            rate.updates = updates

    @property
    def falling(self) -> list[FallingRate]:
        """The learning rates of critics, actor and temperature."""
        return [rate for rate in self.rates.values() if isinstance(rate, FallingRate)]

    def phase(self) -> dict[str, Any]:
        """Return whether the next update moves actor and temperature: the first does."""
        return {"moves_actor": self.update_count % self.config.delay == 0}

    def normalized_batch(self, batch: Batch, *, observe: bool = False) -> Batch:
        """Return the batch as the networks see it: observations normalised, rewards scaled."""
        batch = super().normalized_batch(batch, observe=observe)
        return batch._replace(reward=self.reward_scale(batch.reward))

    def learn(self, batch: Batch, noise: Noise, *, moves_actor: bool) -> dict[str, Tensor]:  # type: ignore[override]
        """Step actor and temperature, then the critics, then the targets; or the critics first."""
        config = self.config
        metrics: dict[str, Tensor] = {}
        if moves_actor and config.order == "actor":
            metrics |= self.policy_step(batch, noise)
        loss, logged = self.critic_objective(batch, self.log_alpha.detach().exp(), noise)
        norm = self.critic_optimizer.descend(loss)
        project(self.critic, norm)
        polyak(self.target_critic, self.critic, config.tau)
        if moves_actor and config.order == "critic":
            metrics |= self.policy_step(batch, noise)
        for rate in self.falling:
            rate.step()
        metrics |= {"loss/critic": loss.detach(), "grad_norm/critic": norm}
        return metrics | logged | {"reward_scale": self.reward_scale.scale.mean(-1)}

    def critic_objective(self, batch: Batch, alpha: Tensor, noise: Noise) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critics' loss and what there is to log of them."""
        networks = self.actor, self.critic, self.target_critic
        return critic_objective(*networks, batch, alpha, self.config, noise)

    def policy_step(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Step actor and temperature."""
        alpha = self.log_alpha.detach().exp()
        joint = self.config.joint and self.config.joint_actor
        loss, log_prob = actor_loss(self.actor, self.critic, batch, alpha, noise, joint=joint)
        temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
        # Neither loss has a gradient for the other's parameters: one backward serves both.
        norm = self.policy_optimizer.descend(loss + temperature_loss)
        project(self.actor, norm)
        return {
            "loss/actor": loss.detach(),
            "alpha": alpha.mean(-1),
            "entropy": -log_prob.detach().mean(-1),
            "grad_norm/policy": norm,
        }

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller Q-value as `q` and its distance to the target as `td_error`, `[N]`, unscaled."""
        tensors, alpha = self.normalized_batch(self.read(batch)), self.log_alpha.exp()
        action, entropy = next_sample(self.actor, tensors, alpha, Noise(self.generators["learn"]))
        now, later = outputs(self.critic, self.target_critic, tensors, action, joint=False)
        q, target = now.mean.amin(-2), td_target(tensors, later.mean.amin(-2) - entropy)
        scale = self.reward_scale.scale
        return TensorDict({"q": scale * q, "td_error": scale * (target - q)}, batch_size=q.shape)

    def _unscaled(self, value: StateValue) -> StateValue:
        scale = self.reward_scale.scale
        return StateValue(scale * value.value, scale * value.bonus)

    def _mean(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.critic(observation, action).mean

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by both critics' mean at ten actions each, unscaled."""
        draw, observation = partial(sample_action, self.actor), self.normalized(observation)
        return self._unscaled(soft_state_value(draw, self._mean, self.log_alpha.exp(), observation))

    @torch.no_grad()
    def action_value(self, observation: Tensor, action: Tensor) -> StateValue:
        """Value actions `[*lead, N, A]` at observations `[*lead, N, O]` by both critics' mean, unscaled."""
        alpha, observation = self.log_alpha.exp(), self.normalized(observation)
        return self._unscaled(soft_action_value(self.actor, self._mean, alpha, observation, action))


class SimbaSACLoss(AgentLoss):
    """The losses as a TorchRL LossModule: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    Rewards are taken as they are: divide them by a `RewardScale`'s. Call `project` on the networks after
    every optimiser step. Its running statistics move with every call.

    Args:
        actor: as `rlsuite.blocks.unit_heads.UnitActor`.
        critic: twin critics, as `rlsuite.blocks.unit_heads.CategoricalCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        actions: A, for the target entropy.
        generator: noise of both samples; None is torch's global stream.
    """

    def __init__(
        self, actor: nn.Module, critic: nn.Module, config: Any, *, actions: int, generator: Source = None
    ) -> None:
        networks, keys = {"actor": actor, "critic": critic}, ["loss_critic", "loss_actor", "loss_alpha"]
        super().__init__(networks, ("critic",), keys, generator)
        self.config = config
        self.target_entropy = entropy_of_std(config.target_entropy, config.entropy_std, actions)
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha_init)))

    def critics(self, batch: Batch, alpha: Tensor) -> Tensor:
        """Return the critics' loss."""
        networks = self.net("actor"), self.net("critic"), self.net("critic", target=True)
        return critic_objective(*networks, batch, alpha, self.config, self.noise)[0]

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        config, batch = self.config, unpack(tensordict, self.config.gamma)
        alpha, joint = self.log_alpha.detach().exp(), config.joint and config.joint_actor
        critics = None if config.order == "actor" else self.critics(batch, alpha)
        networks = self.net("actor"), self.net("critic", fixed=True)
        policy_loss, log_prob = actor_loss(*networks, batch, alpha, self.noise, joint=joint)
        temperature_loss = alpha_loss(self.log_alpha, log_prob, self.target_entropy)
        losses = {"loss_critic": self.critics(batch, alpha) if critics is None else critics}
        return TensorDict(losses | {"loss_actor": policy_loss, "loss_alpha": temperature_loss})
