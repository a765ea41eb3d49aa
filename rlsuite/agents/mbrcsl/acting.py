"""MBRCSL's policy: the clone that asks for what is left of the best imagined return.

Legend: B worlds, O observation, A action. Leading axes are independent seeds.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type

from rlsuite.agents.mbrcsl.config import STAGES, MBRCSLConfig, Stage
from rlsuite.blocks.diffusion import Denoiser, Noise, Schedule, ancestral
from rlsuite.blocks.noise import Source, normal

FIXED_DRAWS = 64  # env steps of an evaluation until the behaviour policy meets the first one's noise again


class BehaviourPolicy(nn.Module):
    """p(action | observation) of the data by diffusion: a denoiser and its schedule."""

    def __init__(self, denoiser: Denoiser, schedule: Schedule, action: int) -> None:
        super().__init__()
        self.denoiser, self.schedule, self.action = denoiser, schedule, action

    @torch.no_grad()
    def draw(self, observation: Tensor, noise: Noise) -> Tensor:
        """Draw actions in [-1, 1], `[*lead, B, A]`, at normalised observations `[*lead, B, O]`."""
        start = noise(observation.new_empty(*observation.shape[:-1], 1, self.action))
        predict = self.denoiser.predictor(observation)
        clipped: Any = lambda x, time: predict(x, time).clamp(-1, 1)  # noqa: E731
        return ancestral(self.schedule, clipped, start, noise).squeeze(-2)


class ReturnPolicy(nn.Module):
    """Observation, and what was rewarded since the last step, to an action in [-1, 1].

    What a world should still bring is state that travels with its row: `return_to_go` begins with the target
    and is lowered by the reward of each step (`last_reward`, which our environments fill in; where nobody
    does the target stays). A missing one, and one at step 0 of an episode (`step_count`), begin anew. Until
    the clone has learnt the behaviour policy acts: with exploration by chance from `generator`, without it
    with noise that is the same for all worlds and follows from the step.

    Args:
        clone: (standardised observation, return to go) to action.
        behaviour: acts before.
        config: hyper-parameters.
        normalizer: of the observations, or None.
        generator: the behaviour's chance.
        lead: leading axes of independent seeds.
    """

    exploration_scale: Tensor
    learnt: Tensor
    target: Tensor
    input_mean: Tensor
    input_std: Tensor

    def __init__(
        self,
        clone: nn.Module,
        behaviour: BehaviourPolicy,
        config: MBRCSLConfig,
        *,
        observation: int,
        normalizer: nn.Module | None,
        generator: Source,
        lead: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.clone, self.behaviour, self.normalizer = clone, behaviour, normalizer
        self.generator = generator
        self.register_buffer("exploration_scale", torch.ones(()))
        self.register_buffer("target", torch.zeros(*lead, 1))
        self.register_buffer("input_mean", torch.zeros(*lead, observation + 1))
        self.register_buffer("input_std", torch.ones(*lead, observation + 1))
        # Updates of every stage. The host reads it to decide what acting does: it stays there.
        self.register_buffer("learnt", torch.zeros(len(STAGES), dtype=torch.int64, device="cpu"))
        fixed = torch.Generator().manual_seed(0)
        draws = torch.randn(FIXED_DRAWS, behaviour.action, generator=fixed)
        self.fixed = draws.to(self.target.device, self.target.dtype)

    def has(self, stage: Stage) -> bool:
        """Return whether anything was learnt in a stage."""
        return bool(self.learnt[STAGES.index(stage)] > 0)

    def act(self, observation: Tensor, return_to_go: Tensor) -> Tensor:
        """Return the clone's action, not yet clipped, `[*lead, B, A]`.

        Args:
            observation: as the environment shows it, `[*lead, B, O]`.
            return_to_go: undiscounted, `[*lead, B, 1]`.
        """
        asked = torch.cat((observation, return_to_go), -1)
        return self.clone((asked - self.input_mean.unsqueeze(-2)) / self.input_std.unsqueeze(-2))

    def forward(
        self,
        observation: Tensor,
        return_to_go: Tensor | None = None,
        last_reward: Tensor | None = None,
        step_count: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions `[*lead, B, A]`, `return_to_go` and an empty `last_reward`, `[*lead, B, 1]` each."""
        target = self.target.unsqueeze(-2).expand(*observation.shape[:-1], 1)
        wanted = target if return_to_go is None else return_to_go
        if last_reward is not None:
            wanted = wanted - last_reward
        if step_count is not None:
            wanted = torch.where(step_count == 0, target, wanted)
        if self.has("clone") or not self.has("behaviour"):
            action = self.act(observation, wanted).clamp(-1, 1)
        else:
            state = observation if self.normalizer is None else self.normalizer(observation)
            action = self.behaviour.draw(state, self._noise(step_count))
        return action, wanted.clone(), torch.zeros_like(wanted)

    def _noise(self, step_count: Tensor | None) -> Noise:
        if exploration_type() == ExplorationType.RANDOM:
            return lambda like: normal(like, self.generator) * self.exploration_scale
        calls = 0

        def fixed(like: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            step = torch.zeros(like.shape[:-1], dtype=torch.int64, device=like.device)
            if step_count is not None:
                step = step + step_count
            return self.fixed[(step + calls - 1) % FIXED_DRAWS].to(like.dtype)

        return fixed
