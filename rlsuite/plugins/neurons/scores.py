"""Scores of units as shares of their layer's mean, and which of them are inactive."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

MIN_MEAN = 1e-12  # a layer whose mean score is below got no signal at all: nothing is flagged


class Activity(NamedTuple):
    """Scores of the units of one layer.

    Attributes:
        score: share of the layer's mean, `[*lead, H]`; infinite where the layer got no signal.
        inactive: which are at or below the threshold, `[*lead, H]`.
    """

    score: Tensor
    inactive: Tensor

    @property
    def fraction(self) -> Tensor:
        """Share of inactive units, `[*lead]`."""
        return self.inactive.float().mean(-1)


def activity(raw: Tensor, tau: float, max_fraction: float = 1.0, *others: Tensor) -> Activity:
    """Normalise raw scores by their layer's mean and flag the units at or below `tau`.

    Args:
        raw: `[*lead, H]`.
        tau: threshold on the normalised score.
        max_fraction: of the flagged units at most this share of the layer (at least one) stay flagged: the
            smallest.
        others: further raw scores of the same units; of all normalised scores the smallest counts.
    """
    score = torch.stack([_share_of_mean(each) for each in (raw, *others)]).amin(0)
    inactive = score <= tau
    if max_fraction < 1:
        allowed = max(1, math.floor(max_fraction * raw.shape[-1] + 1e-9))
        inactive &= score.argsort(dim=-1, stable=True).argsort(-1) < allowed
    return Activity(score, inactive)


def _share_of_mean(raw: Tensor) -> Tensor:
    """Divide raw scores `[*lead, H]` by their mean; infinite where that is no signal at all."""
    mean = raw.mean(-1, keepdim=True)
    return torch.where(mean >= MIN_MEAN, raw / mean.clamp(min=MIN_MEAN), math.inf)


def inactive_share(scores: Mapping[str, Activity]) -> Tensor:
    """Share of inactive units over several layers, each of the same leading axes; the last axis is summed."""
    flagged = torch.stack([layer.inactive.sum(-1).float() for layer in scores.values()]).sum(0)
    return flagged / sum(layer.inactive.shape[-1] for layer in scores.values())
