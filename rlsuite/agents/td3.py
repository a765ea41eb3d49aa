"""TD3: twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv 1802.09477).

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.agents.base import Agent, Spaces, StateValue
from rlsuite.agents.losses import Critic, smoothed_next_action, squared_td_loss, td_target
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import clipped_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.encoder import EncoderFields
from rlsuite.blocks.exploration import Correlation, remembering_noise
from rlsuite.blocks.heads import DeterministicActor, ScalarCritic
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import NetShape, Network, check_widths
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import AtLeastOne, Bounds, PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.replay.batch import Batch, detached, unpack

Actor = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class TD3Config(EncoderFields, OptimizerConfig):
    """Hyper-parameters of TD3; the defaults are those of the authors' code (256 x 256, Adam 3e-4)."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    network: Network = "mlp"
    """Trunk of actor and critics; residual ones have a stem and a block for every further width."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by running mean and std (replayed rows)."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the targets."""
    delay: AtLeastOne = 2
    """Critic updates per update of the actor and the targets."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critics."""
    lr_actor: Positive = 3e-4
    """Learning rate of the actor."""
    action_units: Literal["unit", "env"] = "unit"
    """Actions as the critics see them: in [-1, 1], or in the environment's units (the authors' code)."""
    exploration_noise: Annotated[float, Bounds(0)] = 0.1
    """Deviation of the behaviour noise, for actions in [-1, 1]."""
    noise_correlation: Correlation = "white"
    """Behaviour noise from step to step: white, Ornstein-Uhlenbeck (`ou`, slow), pink (all time scales), or a
    random function of the state (`sde`)."""
    sde_steps: AtLeastOne = 32
    """Env steps for which `sde` keeps its function; our choice."""
    target_noise: Annotated[float, Bounds(0)] = 0.2
    """Deviation of the noise on the target action."""
    target_noise_clip: Annotated[float, Bounds(0)] = 0.5
    """Bound of the noise on the target action."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_bounds(self)


@torch.no_grad()
def smoothed_target(
    target_actor: Actor, target_critic: Critic, batch: Batch, config: TD3Config, noise: Noise
) -> Tensor:
    """Return r + gamma (1 - terminated) min_m Q' at the smoothed action of the target policy, `[N]`."""
    action = smoothed_next_action(target_actor, batch, config.target_noise, config.target_noise_clip, noise)
    return td_target(batch, target_critic(batch.next_observation, action).amin(-2))


def actor_loss(actor: Actor, critic: Critic, batch: Batch, config: TD3Config) -> Tensor:
    """Return minus the mean of the first critic at the actor's actions: the deterministic policy gradient."""
    return -critic(batch.observation, actor(batch.observation))[..., 0, :].mean(-1)


class TD3(Agent):
    """The learner: twin critics, deterministic actor, targets of both."""

    Config: ClassVar[type] = TD3Config
    asymmetric = True
    policy_objective: ClassVar[Any] = staticmethod(actor_loss)
    bellman_target: ClassVar[Any] = staticmethod(smoothed_target)

    def build(self, spaces: Spaces, config: TD3Config) -> None:
        """Make actor, twin critics and the targets of both."""
        sizes, shape = (spaces.observation, spaces.action), self.net_shape()
        self.actor = DeterministicActor(spaces.shown, spaces.action, shape)
        scale = spaces.half_range if config.action_units == "env" else None
        self.critic = ScalarCritic(*sizes, self.critic_shape(), members=2, action_scale=scale)
        self.critic_optimizer = make_optimizer(
            self, config, (self.critic_parameters(self.critic), config.lr_critic)
        )
        self.actor_optimizer = make_optimizer(self, config, (list(self.actor.parameters()), config.lr_actor))
        self.add_parts(self.actor_optimizer, actor=self.actor)
        self.add_parts(self.critic_optimizer, critic=self.critic, **self.encoder_part())
        self.target_actor = self.add_target("target_actor", self.actor)
        self.target_critic = self.add_target("target_critic", self.critic)
        remembering = remembering_noise(config.noise_correlation, config.hidden[-1], config.sde_steps)
        noise = (config.exploration_noise, remembering)
        self.policy = clipped_policy(self.actor, self.generators["act"], self.preprocessor, *noise)

    def critic_shape(self) -> NetShape:
        """Return the shape of the critics; that of all networks, unless a subclass says otherwise."""
        return self.net_shape()

    def phase(self) -> dict[str, Any]:
        """Return whether the next update moves actor and targets: every `delay`-th does."""
        return {"moves_actor": (self.update_count + 1) % self.config.delay == 0}

    def target(self, batch: Batch, noise: Noise) -> Tensor:
        """Return the critics' target, `[N]`."""
        target: Tensor = self.bellman_target(self.target_actor, self.target_critic, batch, self.config, noise)
        return target

    def policy_loss(self, batch: Batch) -> Tensor:
        """Return the actor's loss, `[]`."""
        loss: Tensor = self.policy_objective(self.actor, self.critic, batch, self.config)
        return loss

    def learn(self, batch: Batch, noise: Noise, *, moves_actor: bool) -> dict[str, Tensor]:  # type: ignore[override]
        """Step the critics; where `moves_actor` also the actor and the targets."""
        q = self.critic(batch.observation, batch.action)
        loss = squared_td_loss(q, self.target(batch, noise))
        metrics = {"loss/critic": loss.detach(), "q/mean": q.detach().mean((-2, -1))}
        metrics["grad_norm/critic"] = self.critic_optimizer.descend(loss)
        if moves_actor:
            policy_loss = self.policy_loss(detached(batch))
            metrics["loss/actor"] = policy_loss.detach()
            metrics["grad_norm/actor"] = self.actor_optimizer.descend(policy_loss)
            polyak(self.target_critic, self.critic, self.config.tau)
            polyak(self.target_actor, self.actor, self.config.tau)
        return metrics

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller Q-value as `q` and its distance to the target as `td_error`, `[N]`."""
        tensors = self.normalized_batch(self.read(batch))
        target = self.target(tensors, Noise(self.generators["learn"]))
        q = self.critic(tensors.observation, tensors.action).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by both critics' mean at the policy's action."""
        observation = self.normalized(observation)
        value = self.critic(observation, self.actor(observation)).mean(-2)
        return StateValue(value, torch.zeros_like(value))


class TD3Loss(AgentLoss):
    """TD3's losses as a TorchRL LossModule: `loss_critic` and `loss_actor` of a replayed batch.

    Args:
        actor: observation -> action in [-1, 1], as `rlsuite.blocks.heads.DeterministicActor`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        generator: smoothing noise; None is torch's global stream.
    """

    policy_objective: ClassVar[Any] = staticmethod(actor_loss)
    bellman_target: ClassVar[Any] = staticmethod(smoothed_target)

    def __init__(
        self, actor: DeterministicActor, critic: ScalarCritic, config: TD3Config, *, generator: Source = None
    ) -> None:
        networks = {"actor": actor, "critic": critic}
        super().__init__(networks, ("actor", "critic"), ["loss_critic", "loss_actor"], generator)
        self.config = config

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return both losses."""
        config, batch = self.config, unpack(tensordict, self.config.gamma)
        targets = self.net("actor", target=True), self.net("critic", target=True)
        target = self.bellman_target(*targets, batch, config, self.noise)
        q = self.net("critic")(batch.observation, batch.action)
        policy_loss = self.policy_objective(self.net("actor"), self.net("critic", fixed=True), batch, config)
        return TensorDict({"loss_critic": squared_td_loss(q, target), "loss_actor": policy_loss})
