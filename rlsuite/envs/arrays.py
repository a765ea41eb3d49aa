"""Functions that numpy and torch spell differently, for code that takes arrays of either.

The native engine hands numpy arrays to a task's functions, engine `warp` tensors on its device. Indexing,
arithmetic, comparisons, `sum(-1)`, `all(-1)`, `mean(-1)`, `cumsum(-1)` and `reshape` are the same in both.

Legend: B envs, N numbers of one env.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

DOT_SIZE = 8192  # numbers

Array = Any
"""A `numpy.ndarray` or a `torch.Tensor`: they have no common type; what comes in is what goes out."""


def namespace(array: Array) -> Any:
    """Return `numpy` or `torch`; their functions of one argument, `where` and `stack(..., axis=)` agree."""
    return np if isinstance(array, np.ndarray) else torch


def join(*parts: Array) -> Array:
    """Join parts along the last axis."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, -1)
    return torch.cat(parts, -1)


def flat(array: Array) -> Array:
    """Flatten all axes after the first, `[B, N]`."""
    return array.reshape(len(array), -1)


def copied(array: Array) -> Array:
    """Return a copy."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def clip(array: Array, low: float, high: float) -> Array:
    """Clip to [low, high]; nan stays nan."""
    if isinstance(array, np.ndarray):
        return np.minimum(np.maximum(array, low), high)  # three times as fast as numpy's clip
    return array.clamp(low, high)


def magnitude(values: np.ndarray) -> float:
    """Return the sum of squares of a numpy array of any shape: an upper bound of each, nan if one is nan."""
    flattened = values if values.ndim == 1 else values.reshape(-1)
    # Of more numbers, BLAS may make a dot product on threads of its own.
    return flattened.dot(flattened) if flattened.size < DOT_SIZE else np.einsum("i,i->", flattened, flattened)


def number(flags: Array, like: Array) -> Array:
    """Return flags as 0 and 1 in the dtype of `like`."""
    return flags.astype(like.dtype) if isinstance(flags, np.ndarray) else flags.to(like.dtype)


def doubled(array: Array) -> Array:
    """Return a numpy array in double precision; tensors keep theirs."""
    return array.astype(np.float64) if isinstance(array, np.ndarray) else array


def all_finite(array: Array) -> Array:
    """Say of `[B, N]` where all N are finite, `[B]` bool."""
    return namespace(array).isfinite(array).all(-1)


def sum_of_squares(values: Array) -> Array:
    """Sum the squares of `[B, N]` to `[B]`; in numpy in the order in which Gymnasium sums."""
    if isinstance(values, np.ndarray):
        return np.add.reduce(values * values, -1)
    return torch.linalg.vecdot(values, values)


def norm(vectors: Array) -> Array:
    """Return the Euclidean norm over the last axis."""
    if isinstance(vectors, np.ndarray):
        return np.sqrt(np.add.reduce(vectors * vectors, -1))
    return torch.linalg.vector_norm(vectors, dim=-1)


def circle(angles: Array) -> tuple[Array, Array]:
    """Return cosines and sines.

    On a CPU torch's `polar` calls the C library's, as numpy does; torch's own are a last digit off at times.
    """
    if isinstance(angles, np.ndarray):
        return np.cos(angles), np.sin(angles)
    points = torch.polar(torch.ones_like(angles), angles)
    return points.real, points.imag


def constant(values: np.ndarray) -> Callable[[Array], Array]:
    """Return a function that gives `values` as the kind of array it gets, copied to a device once."""

    @cache
    def on(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, device=device, dtype=dtype)

    return lambda like: values if isinstance(like, np.ndarray) else on(like.device, like.dtype)
