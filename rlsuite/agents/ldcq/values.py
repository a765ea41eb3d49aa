"""Values of skills: twin critics over (state, latent) and their targets (LDCQ, section 4.3).

Legend: N windows, C candidate latents of each, Z latent, O observation; two critics stand before N. Leading
axes are independent seeds.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlsuite.blocks.mlp import MLP, LayerNorm, Lead
from rlsuite.blocks.noise import Source

STATE_FEATURES, LATENT_FEATURES = 256, 128  # widths of both branches; authors' code
JOINT = (128, 32)  # widths after them; authors' code

Choice = Literal["other", "smaller"]


class LatentCritic(nn.Module):
    """Q-values of two members; layer norm and GELU after every hidden layer.

    Args:
        observation: O.
        latent: Z.
        scale: multiplies the authors' widths 256, 128 and (128, 32).
        lead: independent networks along leading axes; the members' axis comes after them.
        generator: draws the initial weights.
    """

    def __init__(
        self, observation: int, latent: int, *, scale: float = 1.0, lead: Lead = (), generator: Source = None
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "activation": "gelu",
            "layer_norm": True,
            "lead": (*lead, 2),
            "generator": generator,
        }
        state, skill = round(scale * STATE_FEATURES), round(scale * LATENT_FEATURES)
        self.state = MLP(observation, (state,), state, **options)
        self.latent = MLP(latent, (skill,), skill, **options)
        self.norms = nn.ModuleList(LayerNorm(width, lead=(*lead, 2)) for width in (state, skill))
        self.joint = MLP(state + skill, tuple(round(scale * width) for width in JOINT), 1, **options)

    def forward(self, observation: Tensor, latent: Tensor) -> Tensor:
        """Return `[*lead, 2, N, C]` for states `[*lead, N, O]` and latents `[*lead, N, C, Z]`."""
        rows, candidates = latent.shape[-3:-1]
        state = nn.functional.gelu(self.norms[0](self.state(observation.unsqueeze(-3))))
        skill = nn.functional.gelu(self.norms[1](self.latent(latent.flatten(-3, -2).unsqueeze(-3))))
        joined = torch.cat((state.repeat_interleave(candidates, -2), skill), -1)
        return self.joint(joined).to(latent.dtype).squeeze(-1).unflatten(-1, (rows, candidates))


def smaller(q: Tensor) -> Tensor:
    """The smaller of both members' values, `[*, N, C]` of `[*, 2, N, C]`."""
    return q.amin(-3)


def choose(q: Tensor) -> Tensor:
    """Index of the candidate with the best smaller value, `[*, N]` in [0, C), of `[*, 2, N, C]`."""
    return smaller(q).argmax(-1)


def latent_targets(reward: Tensor, discount: Tensor, next_q: Tensor, choice: Choice) -> Tensor:
    """Targets y_k = R + discount min(Q_0'(s', z_k), Q_1'(s', z_k)) of both members, `[*, 2, N]`.

    Args:
        reward: discounted sum over the window, `[*, N]`.
        discount: of the bootstrap, 0 where there is none, `[*, N]`.
        next_q: target members at the candidates of the next state, `[*, 2, N, C]`.
        choice: who picks z_k. "other": the other member's target (authors' code, double Q-learning);
            "smaller": both members' smaller value, which is the paper's equation 8 with the twins' minimum
            as its Q.
    """
    lowest = smaller(next_q)
    if choice == "other":
        picked = next_q.flip(-3).argmax(-1)
    else:
        picked = lowest.argmax(-1).unsqueeze(-2).expand(next_q.shape[:-1])
    values = lowest.unsqueeze(-3).expand_as(next_q).gather(-1, picked.unsqueeze(-1)).squeeze(-1)
    return reward.unsqueeze(-2) + discount.unsqueeze(-2) * values


def importance_weights(probability: Tensor, exponent: float | Tensor) -> Tensor:
    """Weights of a prioritised batch, `[*, N]`: probabilities to minus `exponent`, over their greatest.

    Schaul et al. 2016 (arXiv 1511.05952), section 3.4; the number of rows cancels.
    """
    weight = probability.pow(-exponent)
    return weight / weight.amax(-1, keepdim=True)


def weighted_loss(q: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error of each member, `[*, 2]`: mean over `[*, 2, N]` with weights `[*, N]`."""
    return (weight.unsqueeze(-2) * (q - target).square()).mean(-1)
