"""A running scale of rewards, from the discounted returns of what was played.

Legend: B envs of one seed; leading axes are independent seeds.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from rlsuite import distributed as ranks
from rlsuite.blocks.mlp import Lead

Rule = Literal["off", "std", "bound"]

FIRST_WEIGHT = 1e-4  # of the first variance, 1, in steps; FlashSAC's code
VAR_EPS = 1e-8


class RewardScale(nn.Module):
    """What rewards are divided by: the running deviation of returns, or a share of the greatest one.

    The discounted return so far, G_t = gamma G_(t-1) (1 - end_(t-1)) + r_t, is followed in every env; v is
    the variance of all of them and R their greatest absolute value. `scale` is sqrt(v) under the rule "std"
    (XQC), and max(sqrt(v), R / bound) under "bound" (FlashSAC, SimbaV2); 1 before the first step and under
    "off". The replay keeps raw rewards; they are divided when they are learnt from.

    The authors' codes clear G at an episode's last step instead of behind it, which loses that step's past
    and leaks its reward into the next episode; we do not.

    Args:
        gamma: discount of the returns.
        rule: see above.
        bound: greatest scaled return.
        lead: axes of independent seeds.
    """

    scale: Tensor
    count: Tensor
    mean: Tensor
    var: Tensor
    greatest: Tensor

    def __init__(self, gamma: float, rule: Rule, bound: float, *, lead: Lead = ()) -> None:
        super().__init__()
        self.gamma, self.rule, self.bound = gamma, rule, bound
        # One axis more than seeds: a compiled function may lose doubles without axes.
        self.register_buffer("scale", torch.ones(*lead, 1))
        self.register_buffer("count", torch.zeros(1, dtype=torch.float64))
        for name, value in (("mean", 0.0), ("var", 1.0), ("greatest", 0.0)):
            self.register_buffer(name, torch.full((*lead, 1), value, dtype=torch.float64))

    @torch.no_grad()
    def observe(self, reward: Tensor, done: Tensor, carried: Tensor | None) -> Tensor:
        """Follow one step of all envs; return what their returns carry to the next step, float64.

        Args:
            reward: raw, `[*lead * B]`, each seed's envs together; what is not finite counts as 0.
            done: an episode ended here, terminated or truncated.
            carried: what the last call returned; None begins at 0.
        """
        step = torch.where(reward.isfinite(), reward, 0).double()
        returns = step if carried is None else carried + step
        rows = returns.view(*self.mean.shape[:-1], -1)
        var, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
        greatest, size = rows.abs().amax(-1, keepdim=True), rows.shape[-1]
        if ranks.size() > 1:  # envs of all ranks have one scale
            local, mean = mean, ranks.mean(mean)
            var = ranks.mean(var + (local - mean).square())
            greatest, size = ranks.most(greatest), size * ranks.size()
        total = self.count + size
        delta = mean - self.mean
        squares = (
            self.var * (self.count + FIRST_WEIGHT) + var * size + delta.square() * self.count * size / total
        )
        self.var.copy_(squares / total)
        self.mean.add_(delta * size / total)
        self.greatest.copy_(torch.maximum(self.greatest, greatest))
        self.count.copy_(total)
        if self.rule != "off":
            scale = (self.var + VAR_EPS).sqrt()
            if self.rule == "bound":
                scale = torch.maximum(scale, self.greatest / self.bound)
            self.scale.copy_(scale)
        return self.gamma * returns.masked_fill(done, 0)

    def forward(self, reward: Tensor) -> Tensor:
        """Return `[*lead, N]` rewards divided by the scale."""
        return reward / self.scale
