"""Losses of critics that learn the return as a Gaussian, with DSAC-T's three refinements (Duan et al. 2025).

arXiv 2310.05858, IEEE TPAMI 47(5). Legend: N batch, M = 2 twin critics; leading axes are independent seeds.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from rlsuite import distributed as ranks
from rlsuite.blocks.heads import Gaussian
from rlsuite.replay.batch import Batch

NOISE_BOUND = 3.0  # the sampled return stays within three stds; authors' code
CLIP_SPREADS = 3.0  # xi of eq. 23: the clip around the mean, in running stds
EPS = 0.1  # epsilon and epsilon_omega of eq. 26
HUBER_DELTA = 50.0  # reward units; `release` loss
WEIGHT_RANGE = (0.1, 10.0)  # clamp of the per-sample weight; `release` loss


def return_targets(
    batch: Batch, next_returns: Gaussian, noise: Tensor, next_log_prob: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor]:
    """Targets of the mean and of the std (refinements 1 and 2).

    Args:
        batch: reward, terminated, discount, `[N]`.
        next_returns: target critics at the next observation and action, `[M, N]`.
        noise: standard normal draws, one per member, `[M, N]`.
        next_log_prob: log-density of the next action under the target policy, `[N]`.
        alpha: temperature, scalar or `[1]`.

    Returns:
        expected target y_q and sampled target y_z, `[N]`, both of the twin with the smaller mean.
    """
    sample = next_returns.mean + next_returns.std * noise.clamp(-NOISE_BOUND, NOISE_BOUND)
    first, second = next_returns.mean.unbind(-2)
    first_is_smaller = first < second
    mean = torch.where(first_is_smaller, first, second)
    sample = torch.where(first_is_smaller, sample[..., 0, :], sample[..., 1, :])
    discount = batch.discount * (1 - batch.terminated)
    entropy = alpha * next_log_prob
    return batch.reward + discount * (mean - entropy), batch.reward + discount * (sample - entropy)


def running_spread(spread: Tensor, count: Tensor, std: Tensor, rate: float) -> Tensor:
    """Next running mean of a critic's std (eq. 27), `[M]`: the first batch's mean, then an average.

    A batch that is not finite leaves it as it is.

    Args:
        spread: current running mean, `[M]`.
        count: batches seen so far, scalar.
        std: stds on the replayed batch, `[M, N]`.
        rate: weight of the newest batch.
    """
    newest = std.mean(-1)
    moved = torch.where(count == 0, newest, spread.lerp(newest, rate))
    return torch.where(newest.isfinite(), moved, spread)


def clipped_sample(mean: Tensor, y_z: Tensor, spread: Tensor) -> Tensor:
    """Clip the sampled target to three running stds around the own mean (refinement 3), `[M, N]`."""
    bound = (CLIP_SPREADS * spread).unsqueeze(-1)
    return mean + (y_z.unsqueeze(-2) - mean).clamp(-bound, bound)


def critic_loss(
    returns: Gaussian, y_q: Tensor, y_z: Tensor, spread: Tensor, form: Literal["paper", "release"] = "paper"
) -> Tensor:
    """Surrogate whose gradients are the critics' (docs/dsac_t.md); its value means nothing.

    Args:
        returns: the critics at the replayed rows, `[M, N]`.
        y_q: expected target, `[N]`.
        y_z: sampled target, `[N]`.
        spread: running stds after this batch, `[M]`.
        form: `paper` settles at the std of the error, `release` at 1/sqrt(2) of it.

    Returns:
        `[*lead]`, summed over members.
    """
    mean, std = returns
    fixed_mean, fixed_std = mean.detach(), std.detach()
    sample = clipped_sample(fixed_mean, y_z, spread)
    y_q = y_q.unsqueeze(-2)
    spread = spread.unsqueeze(-1)
    if form == "paper":
        mean_slope = (y_q - fixed_mean) / (fixed_std.square() + EPS)
        std_slope = ((sample - fixed_mean).square() - fixed_std.square()) / (fixed_std.pow(3) + EPS)
        scale = spread.square() + EPS
        return -(scale * (mean_slope * mean + std_slope * std)).mean(-1).sum(-1)
    weight = (spread.square() / (fixed_std.square() + EPS)).clamp(*WEIGHT_RANGE)
    mean_error = F.huber_loss(mean, y_q.expand_as(mean), reduction="none", delta=HUBER_DELTA)
    std_error = F.huber_loss(fixed_mean, sample, reduction="none", delta=HUBER_DELTA)
    std_slope = (fixed_std.square() - std_error) / (fixed_std + EPS)
    return (weight * (mean_error + std_slope * std)).mean(-1).sum(-1)


@torch.no_grad()
def move_spread(spread: Tensor, count: Tensor, std: Tensor, rate: float) -> None:
    """Apply `running_spread` in place and count the batch."""
    newest = ranks.mean(std.mean(-1, keepdim=True))
    spread.copy_(running_spread(spread, count, newest, rate))
    count += 1
