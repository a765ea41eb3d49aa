"""Two ways to use trained denoisers and flows: in real time, and several together.

Real-time iteration (RTI-DP, arXiv 2508.05396) begins a plan with what is left of the last one and
runs the last few steps of the sampler alone. Composition (GPC, arXiv 2510.01068) adds the
predictions of several denoisers; of Gaussians that gives the product weighted by precision. Neither learns
anything. Both know no network: a step of a sampler, or a prediction, is a function.

Legend: B envs, T rows of a plan, A action. Time counts down: `steps` is noise, 0 is clean.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Step = Callable[[Tensor, int], Tensor]
"""One step of a sampler: plans `[..., B, T, A]` at time t, and t; returns them at t - 1."""
Predict = Callable[[Tensor, int], Tensor]
"""What a network says of noisy plans at time t: their noise, or the clean ones, in which it is affine."""


def shifted(plan: Tensor) -> Tensor:
    """Return plans `[..., T, A]` a row later: without the first row, the last one twice."""
    return torch.cat([plan[..., 1:, :], plan[..., -1:, :]], -2)


def real_time_plans(
    step: Step,
    last: Tensor,
    start: Tensor,
    *,
    new: Tensor,
    steps: int,
    again: int,
    limit: float | Tensor | None = None,
) -> Tensor:
    """Return plans `[..., B, T, A]`: from noise in some envs, from what is left of the last plan in others.

    The shifted plan is taken as one at time `again` as it is, without new noise, as in the authors' code. It
    is a good guess where plans that follow each other are alike; after a reset, a push, or wherever the state
    is not the one that was expected, ask for a new one. While any env plans anew the step is called for all.

    Args:
        step: the sampler, at the present observations.
        last: the plans of the env step before; of envs in `new` anything that is finite.
        start: noise at time `steps`.
        new: `[..., B]` bool, envs that plan from noise: at least those whose episode begins.
        steps: of the whole sampler.
        again: steps of the others, from 1 to `steps`.
        limit: bounds of what is kept of the last plan, +-; a tensor `[A]` bounds each action its own way. A
            gripper that is kept at its bound may never leave it again.

    Raises:
        ValueError: `again` is not from 1 to `steps`.
    """
    if not 1 <= again <= steps:
        raise ValueError(f"again = {again}: must be from 1 to steps = {steps}")
    kept = shifted(last)
    if limit is not None:
        bound = torch.as_tensor(limit, dtype=kept.dtype, device=kept.device)
        kept = torch.minimum(torch.maximum(kept, -bound), bound)
    fresh = new[..., None, None]
    plan = torch.where(fresh, start, kept)
    for time in range(steps if bool(new.any()) else again, 0, -1):
        after = step(plan, time)
        plan = after if time <= again else torch.where(fresh, after, plan)
    return plan


class Parent(NamedTuple):
    """A denoiser that is to be composed.

    Attributes:
        predict: at the present observations.
        kept: share of the signal's variance at every time (alpha bar), `[steps + 1]`.
        predicts: what: "noise" or "clean".
    """

    predict: Predict
    kept: Tensor
    predicts: str = "clean"


def composed(parents: Sequence[Parent], weights: Sequence[float]) -> Predict:
    """Return the prediction of several denoisers together, the weighted sum of theirs.

    Clean plans and noise are affine in each other at one time, so that the sum of one is that of the other,
    and -noise / std is the score: scores are added, too.

    Args:
        parents: of one schedule and one kind of prediction.
        weights: one each, not negative, 1 together; a parent of weight 0 is not asked. Which are best is
            found by trying (the authors: 0 to 1 by 0.1, on success).

    Raises:
        ValueError: the parents differ in schedule or kind, or the weights are no shares.
    """
    if not parents or len(parents) != len(weights):
        raise ValueError(f"{len(parents)} denoisers and {len(weights)} weights: give each denoiser one")
    if min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise ValueError(f"weights {', '.join(map(str, weights))}: must not be negative, and 1 together")
    first = parents[0]
    for parent in parents[1:]:
        if parent.predicts != first.predicts or not torch.equal(parent.kept, first.kept):
            raise ValueError("denoisers of different schedules or kinds of prediction cannot be composed")
    asked = [(parent.predict, weight) for parent, weight in zip(parents, weights, strict=True) if weight]

    def predict(plan: Tensor, time: int) -> Tensor:
        if len(asked) == 1:
            return asked[0][0](plan, time)
        return torch.stack([weight * each(plan, time) for each, weight in asked]).sum(0)

    return predict
