"""O-DICE: offline RL by V alone, its two gradients made orthogonal (Mao et al. 2024, arXiv 2402.00348).

Legend: N batch, M members of V (twins, or one), O observation, A action. Losses are written for the last
axes; leading axes are independent seeds, whose losses and projections stay apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent, Spaces
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import OptimizerConfig, make_optimizer
from rlsuite.agents.policies import clipped_policy
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.agents.value_losses import chi2_conjugate
from rlsuite.blocks.heads import Gaussian, UnsquashedActor, ValueNetwork, log_density
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import Bounds, PolyakRate, Positive, UnitInterval, Widths, check_bounds
from rlsuite.replay.batch import Batch, unpack

LOG_STD_RANGE = (-5.0, 2.0)  # of the actor's log-std; authors' code
LEAST_SQUARE = 1e-10  # of the forward gradient's norm, under the projection; authors' code

Value = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ODICEConfig(OptimizerConfig):
    """Hyper-parameters of O-DICE; the defaults are those of the authors' code for the locomotion data."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers of V."""
    hidden_actor: Widths = (1024, 1024)
    """Widths of the hidden layers of the actor."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    twin: bool = True
    """Two value networks, the smaller of whose lagged copies counts; no: one (AntMaze's larger mazes)."""
    value_layer_norm: bool = True
    """Normalise the hidden layers of V; not on AntMaze."""
    tanh_mean: bool = False
    """The actor's mean is the tanh of its network, as IQL's is."""
    normalize_observations: bool = False
    """Feed all networks observations standardised by mean and std of the data set."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the lagged V."""
    gradient: Literal["orthogonal", "semi", "true"] = "orthogonal"
    """Gradient of V: the forward one and what of the backward one is orthogonal to it, or the forward one
    alone, or that of the residual with V on both sides."""
    residual_weight: UnitInterval = 0.6
    """Weight of the residuals against V itself, the paper's lambda; greater is less conservative."""
    eta: Annotated[float, Bounds(0)] = 1.0
    """Weight of the backward gradient; 0 makes orthogonal the semi-gradient."""
    reward_shift: float = 0.0
    """Added to rewards; on mazes -1, so that the goal's is 0."""
    reward_scale: Positive = 1.0
    """Times shifted rewards. It is the temperature: weights of the policy have no other. On mazes 3."""
    max_weight: Positive = 100.0
    """Bound of the policy's weights."""
    exploration_noise: Annotated[float | None, Bounds(0)] = None
    """Deviation of behaviour noise for actions in [-1, 1]; none: the actor's own."""
    lr_value: Positive = 2e-4
    """Learning rate of V."""
    lr_actor: Positive = 2e-4
    """Learning rate of the actor."""
    weight_decay: Annotated[float, Bounds(0)] = 1e-4
    """Of the actor, added to its gradients."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


class Residuals(NamedTuple):
    """Bellman residuals of the members, `[M, N]`; the gradient of V enters each on one side.

    Attributes:
        forward: r + gamma (1 - terminated) V'(s') - V(s).
        backward: r + gamma (1 - terminated) V(s') - V'(s); None where no gradient needs it.
        value: V(s).
    """

    forward: Tensor
    backward: Tensor | None
    value: Tensor


def residuals(value: Value, lagged: Value, batch: Batch, config: ODICEConfig) -> Residuals:
    """Return the residuals of a batch, rewards shifted and scaled; V' is the smaller of the lagged ones."""
    reward = (batch.reward + config.reward_shift) * config.reward_scale
    reward, carried = reward.unsqueeze(-2), (batch.discount * (1 - batch.terminated)).unsqueeze(-2)
    now = value(batch.observation)
    if config.gradient == "true":
        return Residuals(reward + carried * value(batch.next_observation) - now, None, now)
    with torch.no_grad():
        old_next = lagged(batch.next_observation).amin(-2, keepdim=True)
    forward = reward + carried * old_next - now
    if config.gradient == "semi":
        return Residuals(forward, None, now)
    with torch.no_grad():
        old = lagged(batch.observation).amin(-2, keepdim=True)
    return Residuals(forward, reward + carried * value(batch.next_observation) - old, now)


def projection(forward: Tensor, backward: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return k: what of `backward`'s gradient lies along `forward`'s, one number per seed, `[*lead]`.

    It is over all parameters of V at once, both twins together: projecting them one by one is another
    algorithm.

    Args:
        forward: loss, `[*lead]`.
        backward: loss, `[*lead]`.
        parameters: of V, `[*lead, ...]` each.
    """
    lead = forward.dim()
    along, other = (
        [part.detach() for part in torch.autograd.grad(loss.sum(), parameters, retain_graph=True)]
        for loss in (forward, backward)
    )
    if not torch.compiler.is_dynamo_compiling():
        ranks.average_(along)
        ranks.average_(other)

    def dot(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        products = [(a * b).flatten(lead).sum(-1) for a, b in zip(ours, theirs, strict=True)]
        return torch.stack(products).sum(0)

    return dot(along, other) / dot(along, along).clamp(min=LEAST_SQUARE)


def value_loss(
    shown: Residuals, parameters: Sequence[Tensor], config: ODICEConfig
) -> tuple[Tensor, Tensor | None]:
    """Return a loss whose gradient is V's direction, `[*lead]`, and the projection k (algorithm 1).

    (1 - lambda) V + lambda f*(forward) (1 - k) + lambda eta f*(backward), means over twins and batch. As k is
    constant, the gradient is V's, the forward one, and the backward one less its part along the forward.

    Args:
        shown: residuals, with their graph.
        parameters: of V.
        config: says which gradient.
    """
    weight = config.residual_weight
    loss = (1 - weight) * shown.value.mean((-2, -1))
    forward = weight * chi2_conjugate(shown.forward).mean((-2, -1))
    if shown.backward is None:
        return loss + forward, None
    backward = weight * config.eta * chi2_conjugate(shown.backward).mean((-2, -1))
    k = projection(forward, backward, parameters)
    return loss + (1 - k) * forward + backward, k


def policy_weights(forward: Tensor, max_weight: float) -> Tensor:
    """Return residuals `[M, N]` cut to [0, max_weight], without gradient: weights of the data's actions."""
    return forward.detach().clamp(0, max_weight)


def extraction_loss(actor: Callable[[Tensor], Gaussian], batch: Batch, weights: Tensor) -> Tensor:
    """Return minus the mean over members and batch of weight times log-density of the data's actions."""
    return -(weights.mean(-2) * log_density(actor(batch.observation), batch.action)).mean(-1)


class ODICE(Agent):
    """The learner: a value network or two with lagged copies, and an actor that imitates good actions."""

    Config: ClassVar[type] = ODICEConfig
    needs_data = True
    adopts_statistics: ClassVar[bool] = True

    def build(self, spaces: Spaces, config: ODICEConfig) -> None:
        """Make actor and V with its lagged copy."""
        shape = self.net_shape()
        self.actor = UnsquashedActor(
            spaces.observation,
            spaces.action,
            replace(shape, hidden=config.hidden_actor),
            log_std_range=LOG_STD_RANGE,
            tanh=config.tanh_mean,
        )
        normed = replace(shape, layer_norm=config.value_layer_norm)
        self.value = ValueNetwork(spaces.observation, normed, members=2 if config.twin else 1)
        self.value_optimizer = make_optimizer(self, config, (list(self.value.parameters()), config.lr_value))
        self.actor_optimizer = make_optimizer(
            self, config, (list(self.actor.parameters()), config.lr_actor), weight_decay=config.weight_decay
        )
        self.add_parts(self.actor_optimizer, actor=self.actor)
        self.add_parts(self.value_optimizer, value=self.value)
        self.target_value = self.add_target("target_value", self.value)
        std = config.exploration_noise
        self.policy = clipped_policy(self.actor, self.generators["act"], self.normalizer, std)

    def learn(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:  # type: ignore[override]
        """Step V and its lagged copy, then the actor with the residuals from before V's step."""
        config = self.config
        shown = residuals(self.value, self.target_value, batch, config)
        loss, k = value_loss(shown, self.value_optimizer.parameters, config)
        value_norm = self.value_optimizer.descend(loss)
        polyak(self.target_value, self.value, config.tau)
        weights = policy_weights(shown.forward, config.max_weight)
        policy_loss = extraction_loss(self.actor, batch, weights)
        metrics = {
            "loss/value": loss.detach(),
            "loss/actor": policy_loss.detach(),
            "value/mean": shown.value.detach().mean((-2, -1)),
            "weight/mean": weights.mean((-2, -1)),
            "weight/positive": (weights > 0).to(weights.dtype).mean((-2, -1)),
            "grad_norm/value": value_norm,
            "grad_norm/actor": self.actor_optimizer.descend(policy_loss),
        }
        return metrics if k is None else metrics | {"value/projection": k}


class ODICELoss(AgentLoss):
    """O-DICE's losses as a TorchRL LossModule: `loss_value` and `loss_actor` of a replayed batch.

    The value of `loss_value` says little: its gradient is the direction of V's step. Weight decay is the
    business of the caller's optimiser.

    Args:
        actor: observation -> Gaussian, as `rlsuite.blocks.heads.UnsquashedActor`.
        value: observation -> values of M members, as `rlsuite.blocks.heads.ValueNetwork`.
        config: hyper-parameters; learning rates are the caller's business.
        generator: of noise, of which there is none; for all modules alike.
    """

    def __init__(
        self, actor: UnsquashedActor, value: ValueNetwork, config: ODICEConfig, *, generator: Source = None
    ) -> None:
        networks = {"actor": actor, "value": value}
        super().__init__(networks, ("value",), ["loss_value", "loss_actor"], generator)
        self.config = config

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return both losses; their graph is needed for the projection, so it is made under no_grad, too."""
        batch = unpack(tensordict, self.config.gamma)
        parameters = [p for p in self.value_params.values(True, True) if p.requires_grad]
        with torch.enable_grad():
            shown = residuals(self.net("value"), self.net("value", target=True), batch, self.config)
            loss, _ = value_loss(shown, parameters, self.config)
        weights = policy_weights(shown.forward, self.config.max_weight)
        return TensorDict(
            {"loss_value": loss, "loss_actor": extraction_loss(self.net("actor"), batch, weights)}
        )
