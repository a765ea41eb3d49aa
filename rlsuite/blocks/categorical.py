"""Returns as probabilities of evenly spaced atoms: their mean, and the targets of such critics.

Legend: N batch, K atoms.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

FAR = 10.0  # deviations beyond the ends from which on a value stands there for `gaussian_bins`; our choice
SMOOTHING = 0.75  # std of HL-Gauss over the distance of two atoms; Farebrother et al. 2024


class Categorical(NamedTuple):
    """Logits over atoms, `[..., K]`, and where these lie, `[K]`."""

    logits: Tensor
    support: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected value, `[...]`."""
        return (self.logits.softmax(-1) * self.support).sum(-1)


def project_atoms(probabilities: Tensor, atoms: Tensor, support: Tensor) -> Tensor:
    """Return probabilities over the support `[K]` of a distribution over other atoms, `[N, K]` each.

    An atom's mass is shared by its two neighbours, the nearer one having more (Bellemare et al. 2017); atoms
    beyond the ends count as there. On CUDA a sum over all pairs, which is deterministic there as
    `scatter_add` is not.
    """
    last = support.shape[-1] - 1
    place = (atoms.clamp(support[0], support[-1]) - support[0]) / (support[1] - support[0])
    if place.is_cuda:
        share = 1 - (place.unsqueeze(-1) - torch.arange(last + 1, device=place.device)).abs()
        return (probabilities.unsqueeze(-1) * share.clamp(min=0)).sum(-2)
    lower = place.floor().clamp(0, last)  # rounding may lead beyond the ends
    upper_share = place - lower
    index = lower.long()
    target = torch.zeros_like(probabilities).scatter_add(-1, index, probabilities * (1 - upper_share))
    return target.scatter_add(-1, (index + 1).clamp(max=last), probabilities * upper_share)


def gaussian_histogram(value: Tensor, support: Tensor) -> Tensor:
    """Return a Gaussian around `value` `[N]` as probabilities `[N, K]`, cut off at the ends (HL-Gauss).

    Farebrother et al. 2024, arXiv 2403.03950: bins are half a distance around every atom, and the std is 0.75
    of the distance. Near the ends of the support `[K]` what is cut off there draws the mean inwards; values
    further out have nearly all their mass in the last bin, as `gaussian_bins` says.
    """
    width = support[1] - support[0]
    edges = torch.cat((support - width / 2, support[-1:] + width / 2))
    return gaussian_bins(value, edges, SMOOTHING * width)


def gaussian_bins(value: Tensor, edges: Tensor, std: Tensor | float) -> Tensor:
    """Return a Gaussian around `value` `[...]` as probabilities of the bins between `edges`, `[..., K]`.

    What lies outside all bins is cut off, so that values far outside end as the distribution of one just
    outside: their tails are ratios of small numbers, taken on the side where these keep their digits. Beyond
    ten deviations, where float32 has no such numbers, values count as there.

    Args:
        value: any numbers.
        edges: K + 1 rising numbers.
        std: of the Gaussian.
    """
    value = value.clamp(edges[0] - FAR * std, edges[-1] + FAR * std).unsqueeze(-1)
    side = torch.where(value < (edges[0] + edges[-1]) / 2, 1.0, -1.0).to(value.dtype)
    tail = torch.special.erfc(side * (edges - value) / (math.sqrt(2.0) * std))
    return tail.diff(dim=-1) / (tail[..., -1:] - tail[..., :1])
