"""Values of skills: twin critics over (state, latent) and their targets (LDCQ, section 4.3).

Legend: N windows, C candidate latents of each, Z latent, O observation; two critics stand before N. Leading
axes are independent seeds.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rlsuite.blocks.mlp import MLP, LayerNorm, Lead
from rlsuite.blocks.noise import Source
from rlsuite.replay.windows import ReturnRange, WindowReplay

STATE_FEATURES, LATENT_FEATURES = 256, 128  # widths of both branches; authors' code
JOINT = (128, 32)  # widths after them; authors' code

Choice = Literal["other", "smaller"]
Ends = Literal["terminated", "reward", "never"]
WindowReward = Literal["sum", "goal", "increments"]
Weighting = Literal["rows", "mean"]


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


def weighted_loss(q: Tensor, target: Tensor, weight: Tensor, weighting: Weighting = "rows") -> Tensor:
    """Weighted squared error of each member, `[*, 2]`: mean over `[*, 2, N]` with weights `[*, N]`.

    With "mean" every row has the weights' mean, which corrects for nothing: the authors' code multiplies a
    loss `[N, 1]` by weights `[N]`, and the mean of the product `[N, N]` is that of both factors.
    """
    if weighting == "mean":
        weight = weight.mean(-1, keepdim=True)
    return (weight.unsqueeze(-2) * (q - target).square()).mean(-1)


class WindowTargets(NamedTuple):
    """What the targets of windows are made of, `[W]` each, and the range of what their values can be."""

    reward: Tensor
    discount: Tensor
    kept: Tensor
    """Whether the window is learnt from."""
    range: ReturnRange


def window_targets(
    data: WindowReplay,
    *,
    gamma: float,
    window_gamma: float,
    bootstrap: str,
    ends: Ends,
    window_reward: WindowReward,
    scale: float,
) -> WindowTargets:
    """Sum the rewards of windows and say how far what comes after counts.

    Args:
        data: the windows.
        gamma: discount per env step.
        window_gamma: discount inside a window.
        bootstrap: what comes after counts gamma to the window's length ("window") or gamma ("step").
        ends: what ends the future of a window.
        window_reward: see `LDCQConfig`.
        scale: multiplies the sums.
    """
    kept = torch.ones(len(data), dtype=torch.bool, device=data.starts.device)
    if window_reward == "goal":
        kept = data.until_reward()
        ones = data.discounted(lambda step: torch.ones_like(data.starts, dtype=torch.float64), window_gamma)
        reward = torch.where(data.rewarded(), ones, 0.0)
    elif window_reward == "increments":
        reward = data.discounted(data.increment, window_gamma)
    else:
        reward = data.returns(window_gamma)
    reward = scale * reward
    length = data.lengths if bootstrap == "window" else torch.ones_like(data.lengths)
    ended = data.terminated() if ends != "never" else torch.zeros_like(kept)
    if ends == "reward":
        ended = ended | data.rewarded()
    discount = torch.where(ended, 0.0, gamma**length).float()
    if window_reward == "sum":
        low, high = data.return_range(gamma, cuts_end=ends == "reward")
        return WindowTargets(reward, discount, kept, ReturnRange(scale * low, scale * high))
    # A window may bring the least or the greatest of these sums for ever, unless a reward ends its future.
    going_on = 1.0 if ends == "reward" else 1 / (1 - min(float(discount.max()), 1 - 1e-6))
    low, high = min(0.0, float(reward.min())), max(0.0, float(reward.max()))
    return WindowTargets(reward, discount, kept, ReturnRange(going_on * low, going_on * high))
