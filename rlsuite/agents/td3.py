"""TD3: twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, arXiv 1802.09477).

Legend: N batch, M = 2 twin critics, O observation, A action. Losses are written for the last axes; leading
axes are independent seeds, whose losses stay apart.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictParams
from torch import Tensor
from torchrl.objectives import LossModule

from rlsuite.agents.base import Agent, Batch, Spaces, StateValue, Trained, check_range, columns
from rlsuite.agents.losses import smoothed_target, squared_td_loss
from rlsuite.agents.policies import clipped_policy
from rlsuite.agents.steps import adam, polyak, take_step
from rlsuite.blocks.heads import DeterministicActor, ScalarCritic
from rlsuite.blocks.mlp import Activation
from rlsuite.blocks.networks import Network, check_widths
from rlsuite.blocks.noise import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class TD3Config:
    """Hyper-parameters of TD3; the defaults are those of the authors' code (256 x 256, Adam 3e-4)."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    network: Network = "mlp"
    """Trunk of actor and critics; residual ones have a stem and a block for every further width."""
    activation: Activation = "relu"
    """Activation of all hidden layers."""
    normalize_observations: bool = False
    """Feed all networks observations in running deviations from their running mean (replayed rows)."""
    gamma: float = 0.99
    """Discount per env step."""
    tau: float = 0.005
    """Polyak rate of the targets."""
    delay: int = 2
    """Critic updates per update of the actor and the targets."""
    lr_critic: float = 3e-4
    """Learning rate of the critics."""
    lr_actor: float = 3e-4
    """Learning rate of the actor."""
    exploration_noise: float = 0.1
    """Deviation of the behaviour noise, for actions in [-1, 1]."""
    target_noise: float = 0.2
    """Deviation of the noise on the target action."""
    target_noise_clip: float = 0.5
    """Bound of the noise on the target action."""

    def __post_init__(self) -> None:
        """Raise ValueError for values outside their range."""
        check_widths(self.network, self.hidden)
        check_range("gamma", self.gamma, 0, 1)
        check_range("tau", self.tau, 0, 1, open_low=True)
        check_range("delay", self.delay, 1, math.inf)
        for name in ("exploration_noise", "target_noise", "target_noise_clip"):
            check_range(name, getattr(self, name), 0, math.inf)
        for name in ("lr_critic", "lr_actor"):
            check_range(name, getattr(self, name), 0, math.inf, open_low=True)


def actor_loss(q: Tensor) -> Tensor:
    """Deterministic policy gradient through the first critic of `[M, N]`."""
    return -q[..., 0, :].mean(-1)


class TD3Loss(LossModule):
    """The same losses for any TorchRL loop: `loss_critic` and `loss_actor` of a replayed batch.

    Args:
        actor: observation -> action in [-1, 1], as `rlsuite.blocks.heads.DeterministicActor`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        config: hyper-parameters; learning rates are the caller's business.
        generator: smoothing noise; None is torch's global stream.
    """

    actor_params: TensorDictParams
    critic_params: TensorDictParams
    target_actor_params: TensorDictParams
    target_critic_params: TensorDictParams

    def __init__(
        self,
        actor: DeterministicActor,
        critic: ScalarCritic,
        config: TD3Config,
        *,
        generator: Source = None,
    ) -> None:
        super().__init__()
        self.in_keys = [
            "observation",
            "action",
            *(("next", k) for k in ("observation", "reward", "terminated")),
        ]
        self.out_keys = ["loss_critic", "loss_actor"]
        self.config, self.generator = config, generator
        self.convert_to_functional(actor, "actor", create_target_params=True)
        self.convert_to_functional(critic, "critic", create_target_params=True)

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return both losses."""
        config, rows = self.config, columns(tensordict, self.config.gamma)
        with (
            self.target_actor_params.to_module(self.actor),
            self.target_critic_params.to_module(self.critic),
        ):
            target = smoothed_target(
                self.actor, self.critic, rows, self.generator, config.target_noise, config.target_noise_clip
            )
        with self.critic_params.to_module(self.critic):
            q = self.critic(rows.observation, rows.action)
        with self.actor_params.to_module(self.actor), self.critic_params.detach().to_module(self.critic):
            policy_q = self.critic(rows.observation, self.actor(rows.observation))
        return TensorDict({"loss_critic": squared_td_loss(q, target), "loss_actor": actor_loss(policy_q)})


class TD3(Agent):
    """The learner: twin critics, deterministic actor, targets of both.

    Args:
        spaces: sizes and action range of the environment.
        config: hyper-parameters.
        generators: streams "init", "act" and "learn"; see `rlsuite.agents.base.make_generators`.
        device: where parameters live.
        lead: leading axes of independent seeds; batches then carry them too.
    """

    Config: ClassVar[type] = TD3Config

    def __init__(
        self,
        spaces: Spaces,
        config: TD3Config,
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
            self.actor = DeterministicActor(*sizes, **shape)
            self.critic = ScalarCritic(*sizes, members=2, **shape)
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.critic_parameters = list(self.critic.parameters())
        self.actor_parameters = list(self.actor.parameters())
        self.target_parameters = [*self.target_critic.parameters(), *self.target_actor.parameters()]
        self.critic_optimizer = adam((self.critic_parameters, config.lr_critic))
        self.actor_optimizer = adam((self.actor_parameters, config.lr_actor))
        self.policy = clipped_policy(
            self.actor, self.generators["act"], self.normalizer, config.exploration_noise
        )

    def target(self, rows: Batch) -> Tensor:
        """Give the critics' target, `[N]`, at a smoothed action of the target policy."""
        config, noise = self.config, self.generators["learn"]
        networks = (self.target_actor, self.target_critic)
        return smoothed_target(*networks, rows, noise, config.target_noise, config.target_noise_clip)

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Step the critics; at every `delay`-th update also the actor and the targets."""
        config, rows = self.config, self.rows(batch)
        target = self.target(rows)
        q = self.critic(rows.observation, rows.action)
        loss = squared_td_loss(q, target)
        metrics = {"loss/critic": loss.detach(), "q/mean": q.detach().mean((-2, -1))}
        metrics["grad_norm/critic"] = take_step(self.critic_optimizer, loss, self.critic_parameters)
        self.update_count += 1
        if self.update_count % config.delay == 0:
            policy_loss = actor_loss(self.critic(rows.observation, self.actor(rows.observation)))
            metrics["loss/actor"] = policy_loss.detach()
            metrics["grad_norm/actor"] = take_step(self.actor_optimizer, policy_loss, self.actor_parameters)
            polyak(self.target_parameters, [*self.critic_parameters, *self.actor_parameters], config.tau)
        return metrics

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return the smaller Q-value as `q` and its distance to the target as `td_error`, `[N]`."""
        rows = self.rows(batch, observe=False)
        target = self.target(rows)
        q = self.critic(rows.observation, rows.action).amin(-2)
        return TensorDict({"q": q, "td_error": target - q}, batch_size=q.shape)

    @torch.no_grad()
    def state_value(self, observation: Tensor) -> StateValue:
        """Value observations `[*lead, N, O]` by both critics' mean at the policy's action."""
        observation = self.normalized(observation)
        value = self.critic(observation, self.actor(observation)).mean(-2)
        return StateValue(value, torch.zeros_like(value))

    def parts(self) -> tuple[Trained, ...]:
        """Actor and critic with their optimisers, and both targets."""
        return (
            Trained("actor", self.actor, self.actor_optimizer),
            Trained("critic", self.critic, self.critic_optimizer),
            Trained("target_actor", self.target_actor, None),
            Trained("target_critic", self.target_critic, None),
        )
