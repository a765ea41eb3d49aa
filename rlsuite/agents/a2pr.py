"""A2PR: TD3+BC tied to the better of data and learnt proposals (Liu et al. 2024, arXiv 2405.19909).

Legend: N batch, M = 2 twin critics, O observation, A action, Z = 2 A latent numbers. Losses are written for
the last axes; leading axes are independent seeds, whose losses stay apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from rlsuite.agents.base import Spaces
from rlsuite.agents.losses import smoothed_next_action, squared_td_loss, td_target
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import make_optimizer
from rlsuite.agents.td3_bc import TD3BC, TD3BCConfig
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.heads import DeterministicActor, Gaussian, ScalarCritic, ValueNetwork
from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import Bounds, Positive, Widths
from rlsuite.replay.batch import Batch, unpack

Networks = tuple[Callable[..., Any], ...]

LOG_STD_RANGE = (-4.0, 15.0)  # of the encoder's latent Gaussian; authors' code


@dataclass(frozen=True, kw_only=True)
class A2PRConfig(TD3BCConfig):
    """Hyper-parameters of A2PR; the defaults are those of the authors' code."""

    hidden: Widths = (256, 256, 256)
    """Widths of the actor's hidden layers."""
    hidden_critic: Widths | None = None
    """Widths of critics and value network; none: the actor's, the last one twice (authors: 4 of 256)."""
    hidden_vae: Widths = (750, 750)
    """Widths of encoder and decoder of the proposals."""
    vae_weight: Annotated[float, Bounds(0)] = 1.0
    """Weight of the proposals' squared error at data actions that are better than the value."""
    constraint: Annotated[float, Bounds(0)] = 0.5
    """Weight of the distance to the chosen action, the authors' mask: 0.4 to 1 in their settings."""
    target_gradient: bool = False
    """Let the actor's gradient run through the proposal, too, as in the authors' code."""
    lr_value: Positive = 3e-4
    """Learning rate of the value network."""
    lr_vae: Positive = 1e-3
    """Learning rate of encoder and decoder."""


class ActionVAE(nn.Module):
    """Variational auto-encoder of actions given observations, with a latent Gaussian of Z = 2 A numbers."""

    trunks = ("encoder", "decoder")

    def __init__(self, observation: int, action: int, shape: NetShape) -> None:
        super().__init__()
        self.encoder = shape.trunk(observation + action, 4 * action)
        self.decoder = shape.trunk(observation + 2 * action, action)

    def forward(
        self, observation: Tensor, action: Tensor, noise: Noise | None = None
    ) -> tuple[Tensor, Gaussian]:
        """Return reconstructed actions in [-1, 1], `[N, A]`, and the latent Gaussian, `[N, Z]` each.

        Without noise the latent vector is the Gaussian's mean.
        """
        encoded = self.encoder(torch.cat((observation, action), -1)).to(action.dtype)
        mean, log_std = encoded.chunk(2, -1)
        latent = Gaussian(mean, log_std.clamp(*LOG_STD_RANGE).exp())
        z = mean if noise is None else torch.addcmul(mean, latent.std, noise.normal(mean))
        return self.decoder(torch.cat((observation, z), -1)).to(action.dtype).tanh(), latent


def value_target(batch: Batch, old_q: Tensor, new_q: Tensor) -> Tensor:
    """Return the smaller of the targets of lagged and of stepped critics `[M, N]` at a~', `[N]`."""
    return torch.minimum(td_target(batch, old_q.amin(-2)), td_target(batch, new_q.amin(-2)))


def vae_loss(rebuilt: Tensor, latent: Gaussian, action: Tensor, better: Tensor, weight: float) -> Tensor:
    """Return `weight` times the squared error where `better` `[N]` is 1, plus half the divergence, `[]`.

    Both are means over N and over the numbers of action or latent vector, as in the authors' code.
    """
    error = better.unsqueeze(-1) * (rebuilt - action).square()
    divergence = -0.5 * (1 + latent.std.square().log() - latent.mean.square() - latent.std.square())
    return weight * error.mean((-2, -1)) + 0.5 * divergence.mean((-2, -1))


def choose(q_proposed: Tensor, q_data: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether the proposal is taken, and whether anything is: each `[N]`, 0 or 1.

    Ties go to the proposal; the gate is 1 where the proposal is at least the value, or the data above it.
    """
    gate = (q_proposed >= value) | (q_data > value)
    return (q_proposed >= q_data).to(value.dtype), gate.to(value.dtype)


def constrained_loss(action: Tensor, q: Tensor, target: Tensor, gate: Tensor, config: A2PRConfig) -> Tensor:
    """Return the gated squared distance to `target` minus lambda mean Q, `[]`; TD3+BC's where gate is 1.

    Args:
        action: of the actor, `[N, A]`.
        q: the first critic's values of them, `[N]`.
        target: chosen actions, `[N, A]`.
        gate: `[N]`, 0 or 1.
        config: alpha, with lambda = alpha / mean |Q|, and the weight of the distance.
    """
    distance = (gate.unsqueeze(-1) * (action - target).square()).mean((-2, -1))
    weight = config.alpha / q.detach().abs().mean(-1)
    return config.constraint * distance - weight * q.mean(-1)


def rest_losses(
    networks: Networks, batch: Batch, following: Tensor, old_q: Tensor, config: A2PRConfig, noise: Noise
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values of the observations `[N]`, without gradient, and the losses of V and proposals.

    Args:
        networks: critics, value network, proposals.
        batch: `[N]` transitions.
        following: a~', `[N, A]`.
        old_q: the lagged critics' values of it, `[M, N]`.
        config: the weight of the proposals' error.
        noise: of the latent numbers.
    """
    critic, value_network, vae = networks
    with torch.no_grad():
        target = value_target(batch, old_q, critic(batch.next_observation, following))
        q = critic(batch.observation, batch.action)[..., 0, :]
    value = value_network(batch.observation)
    old_value = value.detach()
    rebuilt, latent = vae(batch.observation, batch.action, noise)
    better = (q > old_value).to(q.dtype)
    proposal_loss = vae_loss(rebuilt, latent, batch.action, better, config.vae_weight)
    return old_value, (value - target).square().mean(-1), proposal_loss


def actor_loss(
    networks: Networks, batch: Batch, value: Tensor, config: A2PRConfig, noise: Noise
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the actor's loss `[]`, and from `choose` which targets are proposals and the gate, `[N]`.

    Args:
        networks: actor, critics, proposals.
        batch: `[N]` transitions.
        value: of the observations before the last step, `[N]`.
        config: see `constrained_loss`.
        noise: of the proposal's latent numbers.
    """
    actor, critic, vae = networks
    observation = batch.observation
    action = actor(observation)
    proposal, _ = vae(observation, action if config.target_gradient else action.detach(), noise)
    with torch.no_grad():
        q_proposed = critic(observation, proposal)[..., 0, :]
        q_data = critic(observation, batch.action)[..., 0, :]
        proposed, gate = choose(q_proposed, q_data, value)
    proposal = proposal if config.target_gradient else proposal.detach()
    target = torch.where(proposed.unsqueeze(-1) > 0, proposal, batch.action)
    q = critic(observation, action)[..., 0, :]
    return constrained_loss(action, q, target, gate, config), proposed, gate


def smoothing(config: A2PRConfig) -> tuple[float, float]:
    """Return deviation and bound of the noise on the target action."""
    return config.target_noise, config.target_noise_clip


class A2PR(TD3BC):
    """TD3+BC with a value network, proposals from a VAE, and a gate on the imitation."""

    Config: ClassVar[type] = A2PRConfig
    needs_data = True

    def build(self, spaces: Spaces, config: A2PRConfig) -> None:  # type: ignore[override]
        """Make TD3's networks, a value network and the proposals."""
        super().build(spaces, config)
        self.value = ValueNetwork(spaces.observation, self.critic_shape())
        shape = replace(self.net_shape(), network="mlp", hidden=config.hidden_vae)
        self.vae = ActionVAE(spaces.observation, spaces.action, shape)
        value, vae = list(self.value.parameters()), list(self.vae.parameters())
        self.rest_optimizer = make_optimizer(self, config, (value, config.lr_value), (vae, config.lr_vae))
        self.add_parts(self.rest_optimizer, value=self.value, vae=self.vae)

    def critic_shape(self) -> NetShape:
        """Return the shape of critics and value network."""
        config = self.config
        return replace(self.net_shape(), hidden=config.hidden_critic or (*config.hidden, config.hidden[-1]))

    def learn(self, batch: Batch, noise: Noise, *, moves_actor: bool) -> dict[str, Tensor]:  # type: ignore[override]
        """Step the critics, then value network and proposals; where `moves_actor` also actor and targets."""
        config = self.config
        with torch.no_grad():
            following = smoothed_next_action(self.target_actor, batch, *smoothing(config), noise)
            old_q = self.target_critic(batch.next_observation, following)
        q = self.critic(batch.observation, batch.action)
        q_loss = squared_td_loss(q, td_target(batch, old_q.amin(-2)))
        metrics = {"loss/critic": q_loss.detach(), "q/mean": q.detach().mean((-2, -1))}
        metrics["grad_norm/critic"] = self.critic_optimizer.descend(q_loss)
        networks = self.critic, self.value, self.vae
        value, value_loss, proposal_loss = rest_losses(networks, batch, following, old_q, config, noise)
        metrics |= {"loss/value": value_loss.detach(), "loss/vae": proposal_loss.detach()}
        # Neither has a gradient for the other's parameters: one backward serves both.
        metrics["grad_norm/rest"] = self.rest_optimizer.descend(value_loss + proposal_loss)
        if moves_actor:
            policy_loss, proposed, gate = actor_loss(
                (self.actor, self.critic, self.vae), batch, value, config, noise
            )
            metrics |= {"loss/actor": policy_loss.detach(), "share/proposed": proposed.mean(-1)}
            metrics["share/tied"] = gate.mean(-1)
            metrics["grad_norm/actor"] = self.actor_optimizer.descend(policy_loss)
            polyak(self.target_critic, self.critic, config.tau)
            polyak(self.target_actor, self.actor, config.tau)
        return metrics


class A2PRLoss(AgentLoss):
    """A2PR's losses as a TorchRL LossModule: `loss_critic`, `loss_value`, `loss_vae`, `loss_actor`.

    All read the networks as they are; a loop that steps on each and calls the module again for the next has
    the agent's order.

    Args:
        actor: observation -> action in [-1, 1], as `rlsuite.blocks.heads.DeterministicActor`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        value: observation -> value, as `rlsuite.blocks.heads.ValueNetwork`.
        vae: (observation, action, noise) -> action and latent Gaussian, as `ActionVAE`.
        config: hyper-parameters; learning rates are the caller's business.
        generator: smoothing and latent noise; None is torch's global stream.
    """

    def __init__(
        self,
        actor: DeterministicActor,
        critic: ScalarCritic,
        value: ValueNetwork,
        vae: ActionVAE,
        config: A2PRConfig,
        *,
        generator: Source = None,
    ) -> None:
        networks = {"actor": actor, "critic": critic, "value": value, "vae": vae}
        keys = ["loss_critic", "loss_value", "loss_vae", "loss_actor"]
        super().__init__(networks, ("actor", "critic"), keys, generator)
        self.config = config

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the four losses."""
        config, batch, noise = self.config, unpack(tensordict, self.config.gamma), self.noise
        critic, vae = self.net("critic"), self.net("vae")
        with torch.no_grad():
            following = smoothed_next_action(self.net("actor", target=True), batch, *smoothing(config), noise)
            old_q = self.net("critic", target=True)(batch.next_observation, following)
        q_loss = squared_td_loss(critic(batch.observation, batch.action), td_target(batch, old_q.amin(-2)))
        networks = critic, self.net("value"), vae
        value, value_loss, proposal_loss = rest_losses(networks, batch, following, old_q, config, noise)
        fixed = self.net("actor"), self.net("critic", fixed=True), self.net("vae", fixed=True)
        policy_loss, _, _ = actor_loss(fixed, batch, value, config, noise)
        losses = (q_loss, value_loss, proposal_loss, policy_loss)
        return TensorDict(dict(zip(self.out_keys, losses, strict=True)))
