"""FQL: flow Q-learning, a flow policy of the data and one step of it that climbs Q (arXiv 2502.02538).

Park, Li, Levine 2025. Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for
the last axes; leading axes are independent seeds, whose losses stay apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Agent, Spaces, StateValue
from rlsuite.agents.losses import Critic, soft_state_value, td_target
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import clipped, noise_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.flow import VelocityField, euler, flow_matching_loss
from rlsuite.blocks.heads import NoiseActor, ScalarCritic
from rlsuite.blocks.mlp import Activation, Norm, glorot_
from rlsuite.blocks.networks import NetShape, Network, check_widths
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import AtLeastOne, Bounds, PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.replay.batch import Batch, unpack

Actor = Callable[[Tensor, Tensor], Tensor]
"""(observation, noise) to actions without bounds."""
Flow = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(observation, point, time) to a velocity of the point."""

NORMS: dict[str, Norm] = {"after": "after", "before": True, "none": False}


@dataclass(frozen=True, kw_only=True)
class FQLConfig(OptimizerConfig):
    """Hyper-parameters of FQL; the defaults are the authors', with their advice for new tasks (alpha)."""

    hidden: Widths = (512, 512, 512, 512)
    """Widths of the hidden layers of all networks."""
    network: Network = "mlp"
    """Trunk of all networks; residual ones have a stem and a block for every further width."""
    activation: Activation = "gelu_tanh"
    """Activation of all hidden layers; the authors' networks are JAX's, whose GELU is the one by tanh."""
    critic_norm: Literal["after", "before", "none"] = "after"
    """Layer normalisation of the critics' hidden layers: after their activation (authors), or before."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by mean and std of the data set."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the target."""
    alpha: Annotated[float, Bounds(0)] = 1.0
    """Weight of the distance to the flow policy's action; in units of Q unless that is normalised."""
    normalize_q: bool = True
    """Divide the one-step policy's value by the mean of its absolute values."""
    aggregate: Literal["mean", "min"] = "mean"
    """What the members' values become in targets; the policy always climbs their mean."""
    flow_steps: AtLeastOne = 10
    """Euler steps from noise to an action of the flow policy."""
    evaluation: Literal["sample", "mode"] = "sample"
    """Evaluation action: of fresh noise (authors), or of noise 0, which can be exported."""
    lr_critic: Positive = 3e-4
    """Learning rate of the critics."""
    lr_actor: Positive = 3e-4
    """Learning rate of both policies."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_bounds(self)


class PolicyLosses(NamedTuple):
    """Losses of both policies, `[]` each: the flow's; the other's distance to it, and minus its value."""

    flow: Tensor
    distance: Tensor
    value: Tensor

    def total(self, alpha: float) -> Tensor:
        """Return what is stepped on."""
        return self.flow + alpha * self.distance + self.value


def aggregated(q: Tensor, how: str) -> Tensor:
    """Return the mean or the minimum over members `[*, M, N]`, `[*, N]`."""
    return q.amin(-2) if how == "min" else q.mean(-2)


@torch.no_grad()
def bellman_target(
    actor: Actor, target_critic: Critic, batch: Batch, config: FQLConfig, noise: Noise
) -> Tensor:
    """Return r + gamma (1 - terminated) agg_m Q'(s', clip(p(s', z'))), `[N]`."""
    action = clipped(actor(batch.next_observation, noise.normal(batch.action)))
    return td_target(batch, aggregated(target_critic(batch.next_observation, action), config.aggregate))


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Return the mean over members and N of the squared error of `q` `[M, N]` to `target` `[N]`."""
    return (q - target.unsqueeze(-2)).square().mean((-2, -1))


def actor_value_loss(q: Tensor, normalize: bool) -> Tensor:
    """Return minus the mean over N of the members' mean of `q` `[M, N]`, over its mean size where asked."""
    value = q.mean(-2)
    weight = 1 / value.detach().abs().mean(-1) if normalize else 1.0
    return -weight * value.mean(-1)


def policy_losses(
    flow: Flow, actor: Actor, critic: Critic, batch: Batch, config: FQLConfig, noise: Noise
) -> PolicyLosses:
    """Return the losses of flow and one-step policy.

    The one-step policy's noise is the same in its distance and its value; only its value sees the bounds.

    Args:
        flow: the flow policy's velocity.
        actor: the one-step policy.
        critic: whose gradient in the action is climbed; its own weights are the caller's to leave alone.
        batch: transitions, of which observation and action are read.
        config: hyper-parameters.
        noise: where the paths begin, their times, then the one-step policy's noise.
    """
    observation = batch.observation
    start = noise.normal(batch.action)
    time = noise.uniform(batch.action[..., :1])
    flow_loss = flow_matching_loss(partial(flow, observation), start, batch.action, time)
    drawn = noise.normal(batch.action)
    with torch.no_grad():
        goal = clipped(euler(partial(flow, observation), drawn, config.flow_steps))
    action = actor(observation, drawn)
    distance = (action - goal).square().mean((-2, -1))
    value = actor_value_loss(critic(observation, clipped(action)), config.normalize_q)
    return PolicyLosses(flow_loss, distance, value)


class FQL(Agent):
    """The learner: flow policy, one-step policy, twin critics with a target."""

    Config: ClassVar[type] = FQLConfig
    needs_data = True
    adopts_statistics: ClassVar[bool] = True

    def build(self, spaces: Spaces, config: FQLConfig) -> None:
        """Make both policies and the critics, all with Glorot's first weights where they are perceptrons."""
        shape = self.net_shape()
        sizes = (spaces.observation, spaces.action)
        self.flow, self.actor = VelocityField(*sizes, shape), NoiseActor(*sizes, shape)
        self.critic = ScalarCritic(*sizes, self.normed_shape(), members=2)
        for network in (self.flow, self.actor, self.critic):
            self.draw_weights(network)
        policies = [*self.flow.parameters(), *self.actor.parameters()]
        self.actor_optimizer = make_optimizer(self, config, (policies, config.lr_actor))
        self.add_parts(self.actor_optimizer, actor=self.actor, flow=self.flow)
        self.build_critic(spaces, config)
        self.policy = noise_policy(
            self.actor, self.generators["act"], self.normalizer, mean=config.evaluation == "mode"
        )

    def build_critic(self, spaces: Spaces, config: FQLConfig) -> None:
        """Make the critics' optimiser and target."""
        self.critic_optimizer = make_optimizer(
            self, config, (list(self.critic.parameters()), config.lr_critic)
        )
        self.add_parts(self.critic_optimizer, critic=self.critic)
        self.target_critic = self.add_target("target_critic", self.critic)

    def normed_shape(self) -> NetShape:
        """Return the shape of the critics, with their norms."""
        return replace(self.net_shape(), layer_norm=NORMS[self.config.critic_norm])

    def draw_weights(self, network: nn.Module) -> None:
        """Give a perceptron the authors' first weights; other trunks bring their own."""
        if self.config.network == "mlp":
            glorot_(network, self.generators["init"])

    def target(self, batch: Batch, noise: Noise) -> Tensor:
        """Return the target of the values, `[N]`."""
        return bellman_target(self.actor, self.target_critic, batch, self.config, noise)

    def learn(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Step both policies with the critics of before, then the critics towards the target of before.

        So all losses are of the same weights, as in the authors' code, which sums them for one Adam.
        """
        target = self.target(batch, noise)
        losses = policy_losses(self.flow, self.actor, self.critic, batch, self.config, noise)
        total = losses.total(self.config.alpha)
        metrics = {
            "loss/actor": total.detach(),
            "loss/flow": losses.flow.detach(),
            "loss/distance": losses.distance.detach(),
            "grad_norm/actor": self.actor_optimizer.descend(total),
        }
        return metrics | self.learn_critic(batch, target, noise)

    def learn_critic(self, batch: Batch, target: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Step the critics and their target; `target` is `[N]`."""
        q = self.critic(batch.observation, batch.action)
        loss = critic_loss(q, target)
        norm = self.critic_optimizer.descend(loss)
        polyak(self.target_critic, self.critic, self.config.tau)
        mean = q.detach().mean((-2, -1))
        return {"loss/critic": loss.detach(), "q/mean": mean, "grad_norm/critic": norm}

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the critics' mean as `q` and its distance to the target as `td_error`, `[N]`."""
        tensors = self.normalized_batch(self.read(batch))
        target = self.target(tensors, Noise(self.generators["learn"]))
        q = self.critic(tensors.observation, tensors.action).mean(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by the critics' mean at ten actions of the one-step policy."""

        def draw(repeated: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
            like = repeated.new_empty(*repeated.shape[:-1], self.spaces.action)
            action = clipped(self.actor(repeated, noise.normal(like)))
            return action, torch.zeros_like(action[..., 0])

        observation = self.normalized(observation)
        return soft_state_value(draw, self.critic, observation.new_zeros(1), observation)


class FQLLoss(AgentLoss):
    """FQL's losses as a TorchRL LossModule: `loss_critic` and `loss_actor` of a replayed batch.

    Args:
        actor: (observation, noise) -> action, as `rlsuite.blocks.heads.NoiseActor`.
        flow: velocity, as `rlsuite.blocks.flow.VelocityField`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        generator: of noise; None is torch's global stream.
    """

    def __init__(
        self,
        actor: NoiseActor,
        flow: VelocityField,
        critic: ScalarCritic,
        config: FQLConfig,
        *,
        generator: Source = None,
    ) -> None:
        networks = {"actor": actor, "flow": flow, "critic": critic}
        super().__init__(networks, ("critic",), ["loss_critic", "loss_actor"], generator)
        self.config = config

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return both losses."""
        config, batch = self.config, unpack(tensordict, self.config.gamma)
        actor, critic = self.net("actor"), self.net("critic", fixed=True)
        target = bellman_target(actor, self.net("critic", target=True), batch, config, self.noise)
        losses = policy_losses(self.net("flow"), actor, critic, batch, config, self.noise)
        q = self.net("critic")(batch.observation, batch.action)
        return TensorDict({"loss_critic": critic_loss(q, target), "loss_actor": losses.total(config.alpha)})
