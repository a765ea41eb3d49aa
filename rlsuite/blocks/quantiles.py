"""Quantiles of returns by action: their levels, their loss, and those of one action.

Legend: N batch, A actions, K quantiles, m components of the return.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def quantile_levels(count: int) -> Tensor:
    """Return the midpoints (2 i - 1) / (2 K) of K equal steps, `[K]` float64."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def select(theta: Tensor, action: Tensor) -> Tensor:
    """Return the quantiles `[*, K, m]` of one action each, `[*]` int64, of `[*, A, K, m]`."""
    index = action[..., None, None, None].expand(*theta.shape[:-3], 1, *theta.shape[-2:])
    return theta.gather(-3, index).squeeze(-3)


def greedy_quantiles(theta: Tensor, value: Tensor, average_ties: bool) -> Tensor:
    """Return the quantiles `[*, K, m]` of the best action, or the mean of those of all best ones.

    Args:
        theta: `[*, A, K, m]`.
        value: of each action, `[*, A]`.
        average_ties: equally good actions share; otherwise the first one counts.
    """
    if not average_ties:
        return select(theta, value.argmax(-1))
    best = (value == value.amax(-1, keepdim=True)).to(theta.dtype)
    return ((best / best.sum(-1, keepdim=True))[..., None, None] * theta).sum(-3)


def quantile_huber_loss(theta: Tensor, target: Tensor, kappa: float) -> Tensor:
    """Quantile regression: sum over quantiles i and components, mean over targets j and the batch.

    |tau_i - 1{u_ij < 0}| Huber_kappa(u_ij) / kappa with u_ij = y_j - theta_i (Dabney et al. 2018, eq. 10).

    Args:
        theta: `[N, K, m]`, with gradient.
        target: `[N, K', m]`.
        kappa: 0 gives the plain quantile loss.
    """
    levels = quantile_levels(theta.shape[-2]).to(theta)
    error = target.unsqueeze(-3) - theta.unsqueeze(-2)  # [N, K, K', m]
    size = error.abs()
    if kappa:
        size = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=kappa) / kappa
    weight = (levels[:, None, None] - (error.detach() < 0).to(theta.dtype)).abs()
    return (weight * size).mean(-2).sum((-2, -1)).mean(-1)
