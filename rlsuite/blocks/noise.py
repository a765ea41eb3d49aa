"""Random draws for networks whose first axis is independent seeds, each with a random stream of its own.

A `Source` is one generator, or one per seed: then row s of whatever is drawn comes from the s-th generator
alone, and what one seed draws is what it would draw if it were trained by itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Source = torch.Generator | tuple[torch.Generator, ...] | None
"""Where random numbers come from; None is torch's global stream."""


def fill(tensor: Tensor, source: Source, draw: Callable[[Tensor, torch.Generator | None], object]) -> Tensor:
    """Fill `tensor` in place by `draw(part, generator)`, one part per generator; return it.

    Raises:
        ValueError: the first axis is not one row per generator.
    """
    if not isinstance(source, tuple):
        draw(tensor, source)
        return tensor
    if not tensor.dim() or len(tensor) != len(source):
        raise ValueError(f"{len(source)} random streams cannot fill a tensor of shape {list(tensor.shape)}")
    for row, generator in zip(tensor, source, strict=True):
        draw(row, generator)
    return tensor


def normal(like: Tensor, source: Source) -> Tensor:
    """Draw N(0, 1) of the shape, type and device of `like`."""
    return fill(torch.empty_like(like), source, lambda part, g: part.normal_(generator=g))


def uniform(like: Tensor, source: Source, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Draw U[low, high) of the shape, type and device of `like`."""
    return fill(torch.empty_like(like), source, lambda part, g: part.uniform_(low, high, generator=g))


def generators_of(source: Source) -> tuple[torch.Generator, ...]:
    """Return the generators of a source, none for torch's global stream."""
    if source is None:
        return ()
    return source if isinstance(source, tuple) else (source,)
