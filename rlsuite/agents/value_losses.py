"""Losses that fit a value network to the better ones of the data's actions: IQL's, XQL's and f-DVL's.

They differ in what V(s) becomes of the distribution of Q(s, a) over the data: an expectile, a soft maximum,
a quantile. u = q - v throughout; none has a gradient for q.

Legend: N batch. Losses are written for the last axis; leading axes are independent seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from rlsuite.agents.optimizers import OptimizerConfig
from rlsuite.bounds import Bounds, Positive

LEAST_EXPONENT = -1.0  # of what a batch of `gumbel_entries` is divided by; XQL's code
CHI2_FLOOR = -2.0  # below it the conjugate of chi-square is constant


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueLossConfig(OptimizerConfig):
    """Which loss fits the value network, and its one or two numbers."""

    value_loss: Literal["expectile", "gumbel", "chi2", "tv"] = "expectile"
    """Loss of the value network: expectile (IQL), gumbel (XQL; f-DVL's reverse KL), chi2 or tv (f-DVL)."""
    expectile: Annotated[float, Bounds(0.5, 1)] = 0.7
    """Expectile of the value loss, the paper's tau: 0.5 is the mean, 1 the best of the data's actions."""
    loss_temperature: Positive = 2.0
    """Of gumbel: great values make V the mean of Q, small ones its maximum; in units of Q."""
    exp_clip: Positive = 7.0
    """Of gumbel: bound of (q - v) / loss_temperature; rows above it have no gradient."""
    alpha: Annotated[float, Bounds(0.5, 1, open_high=True)] = 0.8
    """Of chi2 and tv: weight of rows above V; tv makes V the quantile (2 alpha - 1) / alpha of Q."""


def chi2_conjugate(x: Tensor) -> Tensor:
    """Return x + x^2 / 4 for x > -2 and -1 below, of any shape.

    That is the conjugate of the chi-square divergence, restricted to positive ratios.
    """
    bounded = x.clamp(min=CHI2_FLOOR)
    return bounded + bounded.square() / 4


def expectile_entries(gap: Tensor, config: ValueLossConfig) -> Tensor:
    """Return |expectile - 1[u < 0]| u^2 (Kostrikov et al. 2021, equation 5)."""
    return torch.where(gap < 0, 1 - config.expectile, config.expectile) * gap.square()


def gumbel_entries(gap: Tensor, config: ValueLossConfig) -> Tensor:
    """Return e^(z - c) - z e^(-c) - e^(-c), z = min(u / temperature, clip) (Garg et al. 2023, XQL).

    c = max(-1, max z over N), without gradient, keeps the exponential small: as it depends on the batch, the
    size of the loss says nothing, and seeds must not share it.
    """
    z = (gap / config.loss_temperature).clamp(max=config.exp_clip)
    greatest = z.detach().amax(-1, keepdim=True).clamp(min=LEAST_EXPONENT)
    return (z - greatest).exp() - (z + 1) * (-greatest).exp()


def chi2_entries(gap: Tensor, config: ValueLossConfig) -> Tensor:
    """Return alpha max(f*(u), 0) - (1 - alpha) u, f* the conjugate of chi-square (Sikchi et al. 2024, f-DVL).

    The authors' code has max(u + u^2 / 4, 0), which rises again below -4 and pulls V down to rows far below
    it; here these rows have the slope of all rows below V.
    """
    return config.alpha * chi2_conjugate(gap).clamp(min=0) - (1 - config.alpha) * gap


def tv_entries(gap: Tensor, config: ValueLossConfig) -> Tensor:
    """Return alpha max(u, 0) - (1 - alpha) u: regression of a quantile (Sikchi et al. 2024, f-DVL)."""
    return config.alpha * gap.clamp(min=0) - (1 - config.alpha) * gap


VALUE_LOSSES: dict[str, Callable[[Tensor, ValueLossConfig], Tensor]] = {
    "expectile": expectile_entries,
    "gumbel": gumbel_entries,
    "chi2": chi2_entries,
    "tv": tv_entries,
}


def value_loss(q: Tensor, value: Tensor, config: ValueLossConfig, rows: Tensor | None = None) -> Tensor:
    """Return the mean loss of `value` `[N]` for `q` `[N]`, with gradient into `value` alone.

    Args:
        q: of the data's actions.
        value: of their observations.
        config: says which loss.
        rows: 1 for the rows that count, else 0, `[N]`; None counts all.
    """
    return row_mean(VALUE_LOSSES[config.value_loss](q.detach() - value, config), rows)


def row_mean(entries: Tensor, rows: Tensor | None) -> Tensor:
    """Return the mean of `entries` `[N]` over the rows that are marked 1, over all where `rows` is None."""
    if rows is None:
        return entries.mean(-1)
    return (rows * entries).sum(-1) / rows.sum(-1).clamp(min=1)
