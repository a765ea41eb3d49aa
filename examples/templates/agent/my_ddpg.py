"""DDPG: one critic and one deterministic actor (Lillicrap et al. 2015, arXiv 1509.02971); a template.

Legend: N batch, O observation, A action. Losses are written for the last axes: leading axes are independent
seeds, whose losses stay apart.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from rlsuite.agents.steps import adam, polyak, take_step
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.agents.base import Agent, Batch, Spaces, Trained
from rlsuite.agents.losses import bellman_target, squared_td_loss
from rlsuite.agents.policies import clipped_policy
from rlsuite.blocks.heads import DeterministicActor, ScalarCritic
from rlsuite.blocks.noise import Source
from rlsuite.bounds import PolyakRate, Positive, UnitInterval, check_bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class MyDDPGConfig:
    """Hyper-parameters: fields become flags, `--agent.tau`, and the line below a field its help."""

    hidden: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers of actor and critic."""
    gamma: UnitInterval = 0.99
    """Discount per env step."""
    tau: PolyakRate = 0.005
    """Polyak rate of the targets."""
    lr: Positive = 3e-4
    """Learning rate of actor and critic."""
    exploration_noise: float = 0.1
    """Deviation of the behaviour noise, for actions in [-1, 1]."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range; the command line makes one sentence of it."""
        check_bounds(self)


class MyDDPG(Agent):
    """The learner. Whatever changes is a parameter, an optimiser of `parts` or one of `generators`."""

    Config: ClassVar[type] = MyDDPGConfig

    def __init__(
        self,
        spaces: Spaces,
        config: MyDDPGConfig,
        generators: Mapping[str, Source],
        *,
        device: torch.device | str = "cpu",
        lead: tuple[int, ...] = (),
    ) -> None:
        super().__init__(spaces, config, generators, device=device, lead=lead)
        sizes = (spaces.observation, spaces.action, config.hidden)
        shape: dict[str, Any] = {"activation": "relu", "lead": lead, "generator": self.generators["init"]}
        with torch.device(device):
            self.actor = DeterministicActor(*sizes, **shape)
            self.critic = ScalarCritic(*sizes, members=1, **shape)
        self.targets = copy.deepcopy(torch.nn.ModuleList([self.actor, self.critic])).requires_grad_(False)
        self.actor_parameters = list(self.actor.parameters())
        self.critic_parameters = list(self.critic.parameters())
        self.actor_optimizer = adam((self.actor_parameters, config.lr))
        self.critic_optimizer = adam((self.critic_parameters, config.lr))
        self.policy = clipped_policy(
            self.actor, self.generators["act"], self.normalizer, config.exploration_noise
        )

    @torch.no_grad()
    def target(self, rows: Batch) -> Tensor:
        """Return r + gamma (1 - terminated) Q'(s', pi'(s')), `[N]`; a truncated row bootstraps."""
        actor, critic = self.targets
        return bellman_target(rows, critic(rows.next_observation, actor(rows.next_observation)))

    def update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Step the critic, the actor and the targets on `[*lead, N]` rows; return metrics `[*lead]`."""
        rows = self.rows(batch)
        loss = squared_td_loss(self.critic(rows.observation, rows.action), self.target(rows))
        metrics = {"loss/critic": loss.detach()}
        metrics["grad_norm/critic"] = take_step(self.critic_optimizer, loss, self.critic_parameters)
        actor_loss = -self.critic(rows.observation, self.actor(rows.observation)).mean((-2, -1))
        metrics["loss/actor"] = actor_loss.detach()
        metrics["grad_norm/actor"] = take_step(self.actor_optimizer, actor_loss, self.actor_parameters)
        online = [*self.actor_parameters, *self.critic_parameters]
        polyak(list(self.targets.parameters()), online, self.config.tau)
        self.update_count += 1
        return metrics

    @torch.no_grad()
    def values(self, batch: TensorDictBase) -> TensorDict:
        """Return `q` and its distance to the target, `td_error`, `[N]`."""
        rows = self.rows(batch, observe=False)
        q = self.critic(rows.observation, rows.action).squeeze(-2)
        return TensorDict({"q": q, "td_error": self.target(rows) - q}, batch_size=q.shape)

    def parts(self) -> tuple[Trained, ...]:
        """Everything that is saved by name: networks with their optimisers, and the targets."""
        return (
            Trained("actor", self.actor, self.actor_optimizer),
            Trained("critic", self.critic, self.critic_optimizer),
            Trained("targets", self.targets, None),
        )
