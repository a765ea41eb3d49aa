"""Axis of an activation's units after a function that is no layer, or none.

Only functions that are named here keep units: elementwise ones and norms, by what they are; reductions and
pooling, where they leave the units' axis alone; and those that move numbers about without changing them,
which are called once more on the units' numbers instead of their values, so that the result says itself what
went where. Everything else loses them.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from rlsuite.plugins.neurons.labels import NORMS

Place = tuple[int, int]
"""(axis of the units from the end, neighbouring positions that each takes)."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ADDING = _words("add sub subtract rsub lerp where copy maximum minimum fmax fmin addcdiv logaddexp hypot")
SCALING = _words("mul multiply")
# Number i of the result is made of number i of every operand, or of all numbers of the axis alike (softmax).
ELEMENTWISE = (
    ADDING
    | SCALING
    | set(NORMS)
    | _words(
        """
        abs absolute acos acosh addcmul alpha_dropout arccos arccosh arcsin arcsinh arctan arctan2
        arctanh asin asinh atan atan2 atanh bernoulli bfloat16 bitwise_and bitwise_not bitwise_or
        bitwise_xor and ceil celu clamp clamp_max clamp_min clip clone contiguous copysign cos cosh
        cpu cuda deg2rad detach div divide double dropout dropout1d dropout2d dropout3d elu
        empty_like eq erf erfc erfinv exp exp2 expm1 feature_alpha_dropout feature_dropout fill fix
        float float_power floor floor_divide floordiv fmod frac full_like ge gelu greater
        greater_equal gt half hardshrink hardsigmoid hardswish hardtanh heaviside invert isclose
        isfinite isinf isnan ldexp le leaky_relu less less_equal local_response_norm log log10 log1p
        log2 log_sigmoid log_softmax logical_and logical_not logical_or logical_xor logit logsigmoid
        lt masked_fill mish mod nan_to_num ne neg negative normalize not_equal ones_like or pos
        positive pow prelu rad2deg rand_like randn_like reciprocal relu relu6 remainder
        requires_grad round rrelu rsqrt selu sgn sigmoid sign silu sin sinc sinh softmax softmin
        softplus softshrink softsign special_entr special_erf special_erfc special_erfcx
        special_erfinv special_exp2 special_expit special_expm1 special_gammaln special_i0
        special_i0e special_i1 special_i1e special_log1p special_log_ndtr special_log_softmax
        special_logit special_ndtr special_ndtri special_round special_sinc special_softmax sqrt
        square tan tanh tanhshrink threshold to true_divide truediv trunc type type_as xor zero
        zeros_like
        """
    )
)
CONSTANT = _words("new_empty new_full new_ones new_tensor new_zeros")  # take dtype and device, no value
# Position of the dimension among the arguments.
REDUCING = dict.fromkeys(_words("all amax amin any logsumexp max mean median min mode nanmean nansum"), 1)
REDUCING |= dict.fromkeys(_words("nanmedian prod std std_mean sum var var_mean"), 1)
REDUCING |= {"norm": 2, "linalg_vector_norm": 2, "quantile": 2, "nanquantile": 2}
POOLING = re.compile(r"(?:adaptive_)?(?:avg|max|lp)_pool([123])d(?:_with_indices)?")
MOVING = _words(
    """
    H T __getitem__ adjoint atleast_2d atleast_3d broadcast_to channel_shuffle chunk column_stack
    dsplit dstack expand expand_as flatten flip fliplr flipud gather hsplit hstack index_select mH
    mT moveaxis movedim narrow narrow_copy permute pixel_shuffle pixel_unshuffle ravel repeat
    repeat_interleave reshape reshape_as roll rot90 select split split_with_sizes squeeze stack
    swapaxes swapdims t take_along_dim tensor_split tile transpose unbind unflatten unsafe_chunk
    unsafe_split unsqueeze view view_as vsplit vstack
    """
)
_SIDES = _words("add sub mul div truediv floordiv mod pow matmul and or xor")


def canonical(name: str) -> tuple[str, bool]:
    """Return a function's name without the marks of an operator or method, and whether it writes in place."""
    if name.startswith("__") and name.endswith("__"):
        core = name[2:-2]
        if core == "rsub":
            return core, False
        if core[:1] in ("r", "i") and core[1:] in _SIDES:
            return core[1:], core[0] == "i"
        return (core, False) if core in _SIDES | ELEMENTWISE else (name, name == "__setitem__")
    return (name[:-1], True) if name.endswith("_") and not name.startswith("_") else (name, False)


def places(
    func: Callable[..., Any],
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    axes: Mapping[int, int],
    x: Tensor,
    outputs: Sequence[Tensor],
) -> list[Place | None]:
    """Say for every output where the units lie; None where they are lost.

    Args:
        func: the function that was called.
        name: its canonical name; that of no function where it moved numbers in place.
        args: its arguments.
        kwargs: its arguments by name.
        axes: by identity of an operand: the axis of the units, from the end.
        x: one of these operands.
        outputs: what the function returned.
    """
    axis = axes[id(x)]
    if name in MOVING:
        return _tagged(func, args, kwargs, axes, outputs)
    other = args[1] if len(args) > 1 else kwargs.get("other")
    if name in ELEMENTWISE or (name in ("max", "min") and isinstance(other, Tensor)):
        return [_aligned(x, axis, output) for output in outputs]
    if name in REDUCING:
        return [_reduced(name, args, kwargs, x, axis, output) for output in outputs]
    if pooled := POOLING.fullmatch(name):
        return [_aligned(x, axis, output) if axis < -int(pooled[1]) else None for output in outputs]
    if name in ("interpolate", "upsample"):  # channels lie on axis 1
        return [_aligned(x, axis, output) if axis == 1 - x.dim() else None for output in outputs]
    if name == "pad":
        widths = args[1] if len(args) > 1 else kwargs["pad"]
        return [_aligned(x, axis, output) if len(widths) // 2 < -axis else None for output in outputs]
    return [None] * len(outputs)


def _aligned(x: Tensor, axis: int, output: Tensor) -> Place | None:
    same = output.dim() >= -axis and output.shape[axis] == x.shape[axis]
    return (axis, 1) if same else None


def _reduced(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], x: Tensor, axis: int, output: Tensor
) -> Place | None:
    at = REDUCING[name]
    dims = kwargs.get("dim", kwargs.get("axis", args[at] if len(args) > at else None))
    if dims is None or isinstance(dims, bool) or not isinstance(dims, int | tuple | list):
        return None
    gone = {d % x.dim() - x.dim() for d in ([dims] if isinstance(dims, int) else dims)}
    if not gone or axis in gone:
        return None
    return (axis if output.dim() == x.dim() else axis + sum(d > axis for d in gone)), 1


def _tagged(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    axes: Mapping[int, int],
    outputs: Sequence[Tensor],
) -> list[Place | None]:
    """Call `func` on the numbers of the units instead of their values, and on no numbers elsewhere."""
    sizes = set()

    def tag(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in axes:
            axis = axes[id(leaf)]
            sizes.add((axis, leaf.shape[axis], math.prod(leaf.shape[axis:])))
            order = torch.arange(leaf.shape[axis], dtype=torch.float64)
            return order.view(-1, *[1] * (-axis - 1)).expand(leaf.shape).contiguous()
        if leaf.is_floating_point():
            return torch.full(leaf.shape, math.nan, dtype=torch.float64)
        return leaf.cpu()  # an index

    try:
        result = func(*tree_map(tag, args), **tree_map(tag, dict(kwargs)))
    except (RuntimeError, TypeError, NotImplementedError):
        return [None] * len(outputs)  # such as a view as another dtype
    tags = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    if len(sizes) != 1 or len(tags) != len(outputs):
        return [None] * len(outputs)
    ((axis, size, trailing),) = sizes
    return [_place(each, size) if size > 1 else _lone(each, axis, trailing) for each in tags]


def _place(tags: Tensor, size: int) -> Place | None:
    """Find the axis along which `tags` count the units, each on neighbouring positions."""
    for axis in range(-tags.dim(), 0):
        repeat, left = divmod(tags.shape[axis], size)
        if not left and repeat:
            order = torch.arange(size, dtype=tags.dtype).repeat_interleave(repeat)
            if bool((tags == order.view(-1, *[1] * (-axis - 1))).all()):
                return axis, repeat
    return None


def _lone(tags: Tensor, axis: int, trailing: int) -> Place | None:
    """Find the axis of a single unit: the same one, or the last with all that it fills."""
    if not tags.dim() or bool(tags.isnan().any()):
        return None
    if tags.dim() >= -axis and tags.shape[axis] == 1:
        return axis, 1
    return (-1, trailing) if tags.shape[-1] == trailing else None
