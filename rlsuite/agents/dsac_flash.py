"""DSAC-T's Gaussian critics on FlashSAC's networks, rewards and temperature; a combination of ours.

Everything but the critics' loss is `simba_sac`'s. The loss is DSAC-T's (Duan et al. 2025, arXiv 2310.05858)
in the environment's units: critics and targets are multiplied by the reward scale, so that its constants keep
their sense. DSAC-T's target policy is dropped, as in FlashSAC (Kim et al. 2026, arXiv 2604.04539).

Legend: N batch, M = 2 twin critics, O observation, A action; leading axes are independent seeds.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rlsuite.agents.base import Spaces
from rlsuite.agents.gaussian_returns import critic_loss, move_spread, return_targets
from rlsuite.agents.losses import sample_action
from rlsuite.agents.simba_sac import SimbaSAC, SimbaSACLoss, UnitSACConfig, outputs
from rlsuite.blocks.heads import Gaussian
from rlsuite.blocks.noise import Noise, Source
from rlsuite.blocks.normed import UnitShape
from rlsuite.blocks.unit_heads import UnitGaussianCritic
from rlsuite.bounds import PolyakRate
from rlsuite.replay.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class DSACFlashConfig(UnitSACConfig):
    """Hyper-parameters: those of `simba_sac` without its categorical critics', and two of DSAC-T's."""

    tau_spread: PolyakRate = 0.005
    """Rate of the running mean of the critics' standard deviations."""
    critic_loss: Literal["paper", "release"] = "paper"
    """DSAC-T's loss behind the published numbers, or the Huber form of its authors' later code."""


def gaussian_objective(
    networks: tuple[Any, Any, Any],
    batch: Batch,
    alpha: Tensor,
    scale: Tensor,
    spread: Tensor,
    count: Tensor,
    config: DSACFlashConfig,
    noise: Noise,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return DSAC-T's loss over the square of the scale, `[]`, and what there is to log; moves the spread.

    Args:
        networks: actor, critics, target critics.
        batch: rewards scaled.
        alpha: temperature, `[1]`.
        scale: of rewards, `[1]`.
        spread: running stds in the environment's units, `[M]`.
        count: batches that they have seen.
        config: hyper-parameters.
        noise: of the next action and of the returns' sample.
    """
    actor, critic, target_critic = networks
    with torch.no_grad():
        action, log_prob = sample_action(actor, batch.next_observation, noise)
    now, later = outputs(critic, target_critic, batch, action, joint=config.joint)
    with torch.no_grad():
        y_q, y_z = return_targets(batch, later, noise.normal(later.mean), log_prob, alpha)
    wide = scale.unsqueeze(-1)
    move_spread(spread, count, wide * now.std.detach(), config.tau_spread)
    raw = Gaussian(wide * now.mean, wide * now.std)
    loss = critic_loss(raw, scale * y_q, scale * y_z, spread, config.critic_loss)
    return loss / scale.squeeze(-1).square(), {
        "q/mean": now.mean.detach().mean((-2, -1)),
        "q/std": now.std.detach().mean((-2, -1)),
        "q/spread": spread.mean(-1),
    }


class DSACFlash(SimbaSAC):
    """`SimbaSAC` with Gaussian critics and DSAC-T's loss."""

    Config: ClassVar[type] = DSACFlashConfig
    spread: Tensor
    spread_count: Tensor

    def build(self, spaces: Spaces, config: DSACFlashConfig) -> None:
        """Make what `SimbaSAC` has, and the running stds."""
        super().build(spaces, config)
        self.register_buffer("spread", torch.zeros(*self.lead, 2))
        self.register_buffer("spread_count", torch.zeros((), dtype=torch.int64))

    def make_critic(self, sizes: tuple[int, int], shape: UnitShape) -> nn.Module:
        """Make the twin critics of networks of this shape."""
        return UnitGaussianCritic(*sizes, shape, members=2)

    def critic_objective(self, batch: Batch, alpha: Tensor, noise: Noise) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the critics' loss and what there is to log of them."""
        networks = self.actor, self.critic, self.target_critic
        state = self.reward_scale.scale, self.spread, self.spread_count
        return gaussian_objective(networks, batch, alpha, *state, self.config, noise)


class DSACFlashLoss(SimbaSACLoss):
    """The losses as a TorchRL LossModule; see `SimbaSACLoss`. The spread moves with every call."""

    spread: Tensor
    spread_count: Tensor

    def __init__(
        self, actor: nn.Module, critic: nn.Module, config: Any, *, actions: int, generator: Source = None
    ) -> None:
        super().__init__(actor, critic, config, actions=actions, generator=generator)
        self.register_buffer("spread", torch.zeros(2))
        self.register_buffer("spread_count", torch.zeros((), dtype=torch.int64))

    def critics(self, batch: Batch, alpha: Tensor) -> Tensor:
        """Return the critics' loss."""
        networks = self.net("actor"), self.net("critic"), self.net("critic", target=True)
        state = torch.ones_like(alpha), self.spread, self.spread_count
        return gaussian_objective(networks, batch, alpha, *state, self.config, self.noise)[0]
