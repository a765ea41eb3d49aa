"""Proportional priorities of a fixed set of rows, sampled on their device (Schaul et al. 2016).

Two levels instead of a binary tree: rows lie in blocks of 1,024 whose sums are kept. Drawing N rows picks
blocks by a cumulative sum over them, then rows by one inside each block; writing N priorities sums their
blocks anew, so that no error accumulates. Both are a handful of batched operations.

Prioritized experience replay: arXiv 1511.05952. Legend: N batch, W rows; a leading axis S is seeds.
"""

import torch
from torch import Tensor

from rlsuite.blocks.noise import Source, uniform

BLOCK = 1_024  # rows of a block: near the root of a million


class Priorities:
    """Weights of W rows and draws in proportion to them.

    Args:
        rows: W.
        lead: () or (S,).
        device: where they live.
    """

    def __init__(self, rows: int, *, lead: tuple[int, ...] = (), device: torch.device | str = "cpu") -> None:
        if rows < 1:
            raise ValueError(f"rows = {rows}: there is nothing to draw from")
        self.rows = rows
        blocks = -(-rows // BLOCK)
        self.weight = torch.zeros(*lead, blocks, BLOCK, device=device)
        self.sums = torch.zeros(*lead, blocks, dtype=torch.float64, device=device)

    def fill(self, weight: Tensor | float) -> None:
        """Set the weights of all rows, `[*lead, W]` or one number."""
        flat = torch.zeros_like(self.weight).flatten(-2)
        flat[..., : self.rows] = weight
        self.weight.copy_(flat.unflatten(-1, (-1, BLOCK)))
        self.sums.copy_(self.weight.sum(-1, dtype=torch.float64))

    def all(self) -> Tensor:
        """Return all weights, `[*lead, W]`."""
        return self.weight.flatten(-2)[..., : self.rows]

    def write(self, index: Tensor, weight: Tensor) -> None:
        """Set the weights of rows `index`; `[*lead, N]` both. Of a row named twice one weight wins.

        A weight that is not finite, or not positive, is not written: such a row would never, or always, be
        drawn.
        """
        flat = self.weight.flatten(-2)  # a view
        sane = weight.isfinite() & (weight > 0)
        flat.scatter_(-1, index, torch.where(sane, weight.to(flat.dtype), flat.gather(-1, index)))
        block = index // BLOCK
        wide = block.unsqueeze(-1).expand(*block.shape, BLOCK)
        self.sums.scatter_(-1, block, self.weight.gather(-2, wide).sum(-1, dtype=torch.float64))

    def draw(self, count: int, generator: Source) -> tuple[Tensor, Tensor]:
        """Draw rows in proportion to their weights, with replacement.

        Returns:
            indices and probabilities, `[*lead, count]` each.
        """
        edges = self.sums.cumsum(-1)
        total = edges[..., -1:]
        place = torch.empty(*self.sums.shape[:-1], count, dtype=torch.float64, device=self.sums.device)
        place = uniform(place, generator) * total
        block = torch.searchsorted(edges, place, right=True).clamp(max=edges.shape[-1] - 1)
        inside = place - (edges.gather(-1, block) - self.sums.gather(-1, block))
        wide = block.unsqueeze(-1).expand(*block.shape, BLOCK)
        weights = self.weight.gather(-2, wide).double()
        row = torch.searchsorted(weights.cumsum(-1), inside.unsqueeze(-1), right=True).squeeze(-1)
        # Rounding may lead beyond a block's last row with a weight: that row is meant.
        last = BLOCK - 1 - (weights > 0).flip(-1).int().argmax(-1)
        row = torch.minimum(row, last)
        chosen = weights.gather(-1, row.unsqueeze(-1)).squeeze(-1)
        return block * BLOCK + row, chosen / total
