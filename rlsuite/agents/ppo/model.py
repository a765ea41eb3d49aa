"""PPO's actors and what is asked of their distributions.

Legend: N rows, O observation, A action; leading axes are independent seeds.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.agents.policies import Policy
from rlsuite.blocks.heads import LOG_2PI, Gaussian, log_density
from rlsuite.blocks.masks import masked
from rlsuite.blocks.mlp import orthogonal_
from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import Noise, Source

HIDDEN_GAIN = math.sqrt(2)

Law = Gaussian | Tensor
"""Distribution of actions: a Gaussian `[*, N, A]` each, or the logits `[*, N, A]` of discrete ones."""


class PPOActor(nn.Module):
    """Observation to a Gaussian of actions, not squashed, with one std for all observations; or to logits.

    Args:
        observation: O.
        action: A.
        shape: of the trunk.
        head_gain: of the last layer's orthogonal weights.
        log_std: first log-std; None makes logits.
        mask: the observation's last A numbers say which actions are allowed; the logits of the others are
            so low that they have no probability, and no share in entropy or gradients.
    """

    log_std: nn.Parameter | None

    def __init__(
        self,
        observation: int,
        action: int,
        shape: NetShape,
        *,
        head_gain: float,
        log_std: float | None,
        mask: bool = False,
    ) -> None:
        super().__init__()
        self.mask = mask
        self.trunk = shape.trunk(observation, action)
        orthogonal_(self.trunk, HIDDEN_GAIN, shape.generator)
        orthogonal_(self.trunk.head, head_gain, shape.generator)
        self.log_std = None
        if log_std is not None:
            self.log_std = nn.Parameter(torch.full((*shape.lead, action), log_std))

    def forward(self, observation: Tensor, noise: Noise | None = None) -> Law:
        """Return the distribution at `[*lead, N, O]`."""
        output: Tensor = self.trunk(observation, noise).to(observation.dtype)
        if self.log_std is None:
            return masked(output, observation) if self.mask else output
        return Gaussian(output, self.log_std.exp().unsqueeze(-2).expand_as(output))


def log_prob(law: Law, action: Tensor) -> Tensor:
    """Return log-densities or -probabilities `[*, N]` of actions `[*, N, A]`; the greatest score counts."""
    if isinstance(law, Gaussian):
        return log_density(law, action)
    chosen = action.argmax(-1, keepdim=True)
    return law.log_softmax(-1).gather(-1, chosen).squeeze(-1)


def entropy(law: Law) -> Tensor:
    """Return the entropy `[*, N]`."""
    if isinstance(law, Gaussian):
        return (law.std.log() + 0.5 * (1 + LOG_2PI)).sum(-1)
    logs = law.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def as_scores(logits: Tensor) -> Tensor:
    """Return 1 for the greatest of `[*, N, A]` and 0 for all others."""
    return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


def sampled(law: Law, noise: Tensor) -> Tensor:
    """Return actions `[*, N, A]` from standard normal noise; those of a Gaussian may lie outside [-1, 1].

    Discrete ones by the greatest of logits plus Gumbel noise, which is -log(-log u) of u = Phi(noise).
    """
    if isinstance(law, Gaussian):
        return law.mean + law.std * noise
    return as_scores(law - (-torch.special.log_ndtr(noise)).log())


def most_likely(law: Law) -> Tensor:
    """Return the evaluation action `[*, N, A]`: the mean, cut to [-1, 1], or the likeliest choice."""
    return law.mean.clamp(-1, 1) if isinstance(law, Gaussian) else as_scores(law)


def ppo_policy(actor: PPOActor, generator: Source, normalizer: nn.Module | None) -> Policy:
    """Return the policy: a sample of the actor's distribution, or its most likely action."""
    return Policy(actor, most_likely, sampled, generator, normalizer)
