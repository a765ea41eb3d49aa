"""CrossQ: soft actor-critic without target networks, by batch renormalisation (Bhatt et al., ICLR 2024).

Current and next transitions go through the critics as one batch, whose statistics are then those of both; so
the networks themselves can give the target (arXiv 1902.05605). Passes of an update get its noise, which makes
them normalise by their batch (`rlsuite.blocks.batch_renorm`).

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Spaces
from rlsuite.agents.losses import entropy_target, sample_action, td_target
from rlsuite.agents.optim import BETAS
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import squashed_gaussian_policy
from rlsuite.agents.sac import LOG_STD_RANGE, SAC, actor_loss, alpha_loss, critic_loss
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.batch_renorm import RenormShape
from rlsuite.blocks.exploration import Filtered, remembering_noise
from rlsuite.blocks.heads import EVALUATION_ACTIONS, GaussianActor, ScalarCritic
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import AtLeastOne, Bounds, NotNegative, Positive, UnitInterval, Widths, check_bounds
from rlsuite.replay.batch import Batch, unpack


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossQConfig(OptimizerConfig):
    """Hyper-parameters of CrossQ; the defaults are those of the authors' code."""

    hidden: Widths = (2048, 2048)
    """Widths of the critics' hidden layers; they set the price of an update (docs/crossq.md)."""
    hidden_actor: Widths = (256, 256)
    """Widths of the actor's hidden layers."""
    activation: Activation = "relu"
    """Activation of all hidden layers, before their normalisation."""
    renorm_warmup: NotNegative = 100_000
    """Learning passes of plain batch normalisation before it is corrected by running statistics."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by running mean and std (replayed rows)."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    lr_critic: Positive = 1e-3
    """Learning rate of the critics."""
    lr_actor: Positive = 1e-3
    """Learning rate of the actor."""
    lr_alpha: Positive = 1e-3
    """Learning rate of log alpha."""
    beta1: Annotated[float, Bounds(0, 1, open_high=True)] = 0.5
    """Adam's first decay for critics and actor; the temperature's is 0.9."""
    delay: AtLeastOne = 3
    """Critic updates per update of actor and temperature."""
    alpha_init: Positive = 1.0
    """First temperature."""
    target_entropy: float | None = None
    """Entropy of actions in [-1, 1]; None is minus the action's length."""
    critic_scale: Positive = 0.5
    """Factor of the critics' squared error. Adam feels it by its epsilon alone."""
    noise_correlation: Filtered = "white"
    """Behaviour noise from step to step: white, Ornstein-Uhlenbeck (`ou`, slow) or pink (all time scales)."""
    evaluation: Literal["mode", "mean"] = "mode"
    """Evaluation action: tanh of the Gaussian's mean, or the squashed Gaussian's mean."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


def joint_values(critic: Any, actor: Any, batch: Batch, alpha: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return Q(s, a) `[M, N]` and the target `[N]`, from one pass of the critics over both halves.

    The target is r + gamma (1 - terminated)(min_m Q(s', a') - alpha log pi(a' | s')), without gradient, with
    a' of the actor as it acts. Rows that end an episode stay in the batch: their s' are observations, too.

    Args:
        critic: (observation, action, noise) -> values `[M, N]`.
        actor: observation -> Gaussian before the tanh.
        batch: `[N]` transitions.
        alpha: temperature.
        noise: of the action, and the mark of a learning pass.
    """
    with torch.no_grad():
        action, log_prob = sample_action(actor, batch.next_observation, noise)
    observations = torch.cat((batch.observation, batch.next_observation), -2)
    q, next_q = critic(observations, torch.cat((batch.action, action), -2), noise).chunk(2, -1)
    with torch.no_grad():
        target = td_target(batch, next_q.detach().amin(-2) - alpha * log_prob)
    return q, target


class CrossQ(SAC):
    """SAC's learner without targets: twin critics, actor, all batch-renormalised, and a temperature."""

    Config: ClassVar[type] = CrossQConfig

    def build(self, spaces: Spaces, config: CrossQConfig) -> None:  # type: ignore[override]
        """Make actor, twin critics and temperature."""
        sizes = (spaces.observation, spaces.action)
        shape: dict[str, Any] = {"activation": config.activation, "warmup": config.renorm_warmup}
        shape |= {"lead": self.lead, "generator": self.generators["init"]}
        actor_shape = RenormShape(hidden=config.hidden_actor, **shape)
        self.actor = GaussianActor(*sizes, actor_shape, log_std_range=LOG_STD_RANGE)
        self.critic = ScalarCritic(*sizes, RenormShape(hidden=config.hidden, **shape), members=2)
        self.log_alpha = nn.Parameter(torch.full((*self.lead, 1), math.log(config.alpha_init)))
        self.target_entropy = entropy_target(config.target_entropy, spaces.action)
        betas = (config.beta1, BETAS[1])
        self.critic_optimizer = make_optimizer(
            self, config, (list(self.critic.parameters()), config.lr_critic), betas=betas
        )
        self.actor_optimizer = make_optimizer(
            self, config, (list(self.actor.parameters()), config.lr_actor), betas=betas
        )
        self.alpha_optimizer = make_optimizer(self, config, ([self.log_alpha], config.lr_alpha))
        self.add_parts(self.actor_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic)
        self.add_parts(self.alpha_optimizer, alpha=nn.ParameterList([self.log_alpha]))
        mode, act = EVALUATION_ACTIONS[config.evaluation], self.generators["act"]
        remembering = remembering_noise(config.noise_correlation)
        self.policy = squashed_gaussian_policy(self.actor, act, self.normalizer, mode, remembering)

    def learn(  # type: ignore[override]
        self, batch: Batch, noise: Noise, *, moves_actor: bool = True
    ) -> dict[str, Tensor]:
        """Step the critics, then, where `moves_actor`, actor and temperature against the new critics."""
        alpha = self.log_alpha.detach().exp()
        q, target = joint_values(self.critic, self.actor, batch, alpha, noise)
        loss = critic_loss(q, target, self.config.critic_scale)
        metrics = {"loss/critic": loss.detach(), "q/mean": q.detach().mean((-2, -1))}
        metrics["grad_norm/critic"] = self.critic_optimizer.descend(loss)
        if moves_actor:
            actor = learning(self.actor, noise)
            policy_loss, log_prob = actor_loss(actor, self.critic, batch, alpha, noise)
            metrics |= {"loss/actor": policy_loss.detach(), "alpha": alpha.mean(-1)}
            metrics["entropy"] = -log_prob.detach().mean(-1)
            metrics["grad_norm/actor"] = self.actor_optimizer.descend(policy_loss)
            self.alpha_optimizer.descend(alpha_loss(self.log_alpha, log_prob, self.target_entropy))
        return metrics

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller Q-value as `q` and its distance to the target as `td_error`, `[N]`.

        Both are normalised by the running statistics.
        """
        tensors, alpha = self.normalized_batch(self.read(batch)), self.log_alpha.exp()
        noise = Noise(self.generators["learn"])
        action, log_prob = sample_action(self.actor, tensors.next_observation, noise)
        next_q = self.critic(tensors.next_observation, action).amin(-2)
        q = self.critic(tensors.observation, tensors.action).amin(-2)
        target = td_target(tensors, next_q - alpha * log_prob)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)


def learning(actor: Any, noise: Noise) -> Any:
    """Return the actor in a pass of learning: normalised by its batch."""
    return lambda observation: actor(observation, noise)


class CrossQLoss(AgentLoss):
    """CrossQ's losses as a TorchRL LossModule: `loss_critic`, `loss_actor`, `loss_alpha` of a replayed batch.

    All three read the networks as they are. There are no targets to update.

    Args:
        actor: observation -> pre-tanh Gaussian, with a trunk of `rlsuite.blocks.batch_renorm`.
        critic: twin critics with such a trunk, as `rlsuite.blocks.heads.ScalarCritic`.
        config: hyper-parameters; learning rates and `delay` are the caller's business.
        actions: A, for the target entropy.
        generator: noise of both samples; None is torch's global stream.
    """

    def __init__(
        self,
        actor: GaussianActor,
        critic: ScalarCritic,
        config: CrossQConfig,
        *,
        actions: int,
        generator: Source = None,
    ) -> None:
        networks = {"actor": actor, "critic": critic}
        super().__init__(networks, (), ["loss_critic", "loss_actor", "loss_alpha"], generator)
        self.config = config
        self.target_entropy = entropy_target(config.target_entropy, actions)
        self.log_alpha = nn.Parameter(torch.full((1,), math.log(config.alpha_init)))

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses; the critics' statistics have moved when the actor's loss reads them."""
        batch, noise, config = unpack(tensordict, self.config.gamma), self.noise, self.config
        actor, alpha = self.net("actor"), self.log_alpha.detach().exp()
        q, target = joint_values(self.net("critic"), actor, batch, alpha, noise)
        fixed = self.net("critic", fixed=True)
        policy_loss, log_prob = actor_loss(learning(actor, noise), fixed, batch, alpha, noise)
        return TensorDict(
            {
                "loss_critic": critic_loss(q, target, config.critic_scale),
                "loss_actor": policy_loss,
                "loss_alpha": alpha_loss(self.log_alpha, log_prob, self.target_entropy),
            }
        )
