"""Inputs for one pass through an unknown network, and a pass that leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rlsuite.errors import ConfigError

IMAGE_SIDES = (84, 64, 96, 32, 28, 16, 8)  # tried for a network that begins with a convolution
GUESSES = 8  # weights whose width is tried as the input's


def guessed(module: nn.Module) -> tuple[Tensor, ...]:
    """Make up the input of a network of one flat or image input, from its first weights."""
    weights = [p for p in module.parameters() if p.dim() > 1]
    hint = "give its arguments, e.g. attach(..., example=(observation, action))"
    if not weights:
        raise ConfigError(f"{type(module).__name__} has no weights with two axes: nothing can be reset")
    first = weights[0]
    widths = dict.fromkeys(weight.shape[-1] for weight in weights[:GUESSES])
    flat = [first.new_zeros(2, width) for width in widths]
    images = [first.new_zeros(2, first.shape[1], *[side] * (first.dim() - 2)) for side in IMAGE_SIDES]
    for guess in [*flat, *(images if first.dim() > 2 else [])]:
        try:
            with undisturbed(module):
                module(guess)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            continue  # another shape may fit
        return (guess,)
    raise ConfigError(f"the input of {type(module).__name__} cannot be made up: {hint}")


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Run without gradient, in evaluation mode, and put modes, buffers and torch's random streams back."""
    modes = [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.no_grad(), torch.random.fork_rng():
        module.eval()
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training
            for buffer, before in buffers:
                buffer.copy_(before)
