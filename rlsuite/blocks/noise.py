"""Random draws for networks whose first axis is independent seeds, each with a random stream of its own.

A `Source` is one generator, or one per seed: then row s of whatever is drawn comes from the s-th generator
alone, and what one seed draws is what it would draw if it were trained by itself.

A compiled function holds no generator. So losses ask a `Noise` for their draws: as it is, it draws when it is
asked; a `PlannedNoise` notes what was asked for and can draw all of it anew, in the same order, into the same
memory; a `GivenNoise` hands these tensors out inside the compiled function.
"""

from collections.abc import Callable, Sequence

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


LANES = 4  # 16-bit numbers in one 64-bit draw
LANE_VALUES = 2**16


class Noise:
    """The random numbers of one update, drawn from `source` when they are asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def normal(self, like: Tensor) -> Tensor:
        """Draw N(0, 1) of the shape, type and device of `like`."""
        return self._draw(like, lambda part, g: part.normal_(generator=g))

    def uniform(self, like: Tensor) -> Tensor:
        """Draw U[0, 1) of the shape, type and device of `like`."""
        return self._draw(like, lambda part, g: part.uniform_(generator=g))

    def kept(self, like: Tensor, rate: float) -> Tensor:
        """Draw a dropout mask of the shape, type and device of `like`: 0 at `rate`, else 1 / (1 - rate).

        One 64-bit draw decides four entries, 16 bits each: on one core 256 x 256 entries take 0.18 ms instead
        of the 0.34 ms with `bernoulli_`. The rate is rounded to a multiple of 2^-16. The mask is a float, as
        a comparison of 16-bit numbers inside a compiled function is not vectorised (7.7 against 13 ms for
        a whole update of STAC).
        """
        return DropoutMask(like, rate, self.source).draw()

    def _draw(self, like: Tensor, draw: Callable[[Tensor, torch.Generator | None], object]) -> Tensor:
        return fill(torch.empty_like(like), self.source, draw)


class DropoutMask:
    """A mask and the random bits behind it, to be drawn again and again into the same memory."""

    def __init__(self, like: Tensor, rate: float, source: Source) -> None:
        self.source = source
        seeds = len(source) if isinstance(source, tuple) else 1
        entries = like.numel() // seeds
        self.bits = torch.empty(seeds, -(-entries // LANES), dtype=torch.int64, device=like.device)
        self.mask = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        self.lanes = self.bits.view(torch.int16)[:, :entries]
        dropped = round(rate * LANE_VALUES)
        self.threshold = dropped + torch.iinfo(torch.int16).min  # lanes below it are dropped
        self.scale = 1 / (1 - dropped / LANE_VALUES)

    def draw(self) -> Tensor:
        """Draw the mask anew and return it."""
        fill(self.bits if isinstance(self.source, tuple) else self.bits[0], self.source, _any_int64)
        torch.ge(self.lanes, self.threshold, out=self.mask.view(self.lanes.shape))
        return self.mask.mul_(self.scale)


class PlannedNoise(Noise):
    """Draws as `Noise` does, and remembers all draws: `redraw` makes them again, in place and in order."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.tensors: list[Tensor] = []
        self._again: list[Callable[[], object]] = []

    def kept(self, like: Tensor, rate: float) -> Tensor:
        """Draw a dropout mask; see `Noise.kept`."""
        mask = DropoutMask(like, rate, self.source)
        return self._remember(mask.mask, mask.draw)

    def redraw(self) -> Sequence[Tensor]:
        """Draw everything anew and return the tensors, in the order in which they were first asked for."""
        for draw in self._again:
            draw()
        return self.tensors

    def _draw(self, like: Tensor, draw: Callable[[Tensor, torch.Generator | None], object]) -> Tensor:
        tensor = torch.empty_like(like)
        return self._remember(tensor, lambda: fill(tensor, self.source, draw))

    def _remember(self, tensor: Tensor, draw: Callable[[], object]) -> Tensor:
        draw()
        self.tensors.append(tensor)
        self._again.append(draw)
        return tensor


class GivenNoise(Noise):
    """Hands out tensors that were drawn before, in their order."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__(None)
        self.tensors, self.next = tensors, 0

    def normal(self, like: Tensor) -> Tensor:
        """Return the next tensor."""
        self.next += 1
        return self.tensors[self.next - 1]

    def uniform(self, like: Tensor) -> Tensor:
        """Return the next tensor."""
        return self.normal(like)

    def kept(self, like: Tensor, rate: float) -> Tensor:
        """Return the next tensor."""
        return self.normal(like)


def _any_int64(part: Tensor, generator: torch.Generator | None) -> None:
    """Fill with 64 random bits: by default the sign bit, and with it the last lane's, is never set."""
    part.random_(torch.iinfo(torch.int64).min, None, generator=generator)
