"""Which torch functions are layers: products of activations with a weight, and what each is called with."""

import string
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


class Product(NamedTuple):
    """A call of a layer: activations, weight, bias or None, and the axes of the weight, from the end."""

    x: Any
    weight: Any
    bias: Any
    out_axis: int
    in_axis: int
    groups: int = 1
    spatial: int = 0  # axes behind the units


def _linear(args: Args, kwargs: Kwargs) -> Product:
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | dict(kwargs)
    return Product(given["input"], given["weight"], given.get("bias"), -2, -1)


def _convolution(spatial: int, turned: bool, args: Args, kwargs: Kwargs) -> Product:
    x, weight, bias, *_ = _linear(args, kwargs)
    axes = (-1 - spatial, -2 - spatial) if turned else (-2 - spatial, -1 - spatial)
    return Product(x, weight, bias, *axes, kwargs.get("groups", args[6] if len(args) > 6 else 1), spatial)


def _plain(args: Args, kwargs: Kwargs) -> Product | None:
    return Product(args[0], args[1], None, -1, -2) if len(args) > 1 else None


def _biased(args: Args, kwargs: Kwargs) -> Product | None:
    return Product(args[1], args[2], args[0], -1, -2) if len(args) > 2 else None


def _einsum(args: Args, kwargs: Kwargs) -> Product | None:
    axes = einsum_axes(args)
    return None if axes is None else Product(args[1], args[2], None, *axes)


PRODUCTS: dict[str, Callable[[Args, Kwargs], Product | None]] = {
    "linear": _linear,
    **{f"conv{n}d": partial(_convolution, n, False) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": partial(_convolution, n, True) for n in (1, 2, 3)},
    **dict.fromkeys(("matmul", "bmm", "mm"), _plain),
    **dict.fromkeys(("addmm", "baddbmm"), _biased),
    "einsum": _einsum,
}
"""By canonical name: reads the arguments of a product; None where they are of another form."""


def product(name: str, args: Args, kwargs: Kwargs) -> Product | None:
    """Return what a function multiplies; None where it is no product, or one of another form."""
    reads = PRODUCTS.get(name)
    return None if reads is None else reads(args, kwargs)


def einsum_axes(args: Args) -> tuple[int, int] | None:
    """Return the out and in axis of the second operand of an `einsum` of (activation, weight), or None."""
    if not isinstance(args[0], str) or len(args) != 3 or "->" not in args[0]:
        return None
    inputs, output = args[0].replace(" ", "").split("->")
    left, right = inputs.split(",")
    letters = [c for c in right if c in string.ascii_letters]
    summed = [c for c in letters if c in left and c not in output]
    made = [c for c in letters if c not in left and c in output]
    if len(summed) != 1 or len(made) != 1 or left[-1] != summed[0] or output[-1] != made[0]:
        return None
    return letters.index(made[0]) - len(letters), letters.index(summed[0]) - len(letters)
