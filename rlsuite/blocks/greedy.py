"""Epsilon-greedy choice among actions that a network values."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrl.envs.utils import ExplorationType, exploration_type

from rlsuite.blocks.masks import masked
from rlsuite.blocks.noise import Source, uniform


class GreedyPolicy(nn.Module):
    """Observation to scores of the actions, 1 for the chosen one and 0 for all others; epsilon-greedy.

    Args:
        value: observation `[*, O]` -> worth of each action, `[*, A]`.
        generator: behaviour noise.
        epsilon: share of random actions at first.
        mask: the observation's last A numbers say which actions are allowed, by chance too.
    """

    exploration_scale: Tensor
    epsilon: Tensor

    def __init__(
        self, value: Callable[[Tensor], Tensor], generator: Source, epsilon: float, *, mask: bool = False
    ) -> None:
        super().__init__()
        self.value, self.generator, self.mask = value, generator, mask
        self.register_buffer("exploration_scale", torch.ones(()))
        self.register_buffer("epsilon", torch.tensor(epsilon, dtype=torch.float32))

    def forward(self, observation: Tensor) -> Tensor:
        """Return `[*, A]`; the share epsilon is random under ExplorationType.RANDOM alone."""
        scores = self.value(observation).to(observation.dtype)
        if exploration_type() == ExplorationType.RANDOM:
            draw = uniform(scores.new_empty(*scores.shape[:-1], 1 + scores.shape[-1]), self.generator)
            random = draw[..., :1] < self.epsilon * self.exploration_scale
            drawn = masked(draw[..., 1:], observation) if self.mask else draw[..., 1:]
            scores = torch.where(random, drawn, scores)
        return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(observation.dtype)
