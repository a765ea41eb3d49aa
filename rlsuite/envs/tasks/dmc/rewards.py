"""The reward function of dm_control's suite, `tolerance`, for batches of envs.

Source: Tassa et al. 2018, "DeepMind Control Suite", arXiv:1801.00690, section 2, and
`dm_control.utils.rewards` (Apache-2.0), whose numbers these are.
"""

import math

import numpy as np

from rlsuite.envs.arrays import Array, namespace, number
from rlsuite.errors import ConfigError, unknown_name

VALUE_AT_MARGIN = 0.1  # dm_control's default
ZERO_ALLOWED = ("cosine", "linear", "quadratic")  # these reach zero at a finite distance


def _gaussian(x: Array, value: float) -> Array:
    scale = math.sqrt(-2 * math.log(value))
    return namespace(x).exp(-0.5 * (x * scale) ** 2)


def _hyperbolic(x: Array, value: float) -> Array:
    return 1 / namespace(x).cosh(x * math.acosh(1 / value))


def _long_tail(x: Array, value: float) -> Array:
    return 1 / ((x * math.sqrt(1 / value - 1)) ** 2 + 1)


def _reciprocal(x: Array, value: float) -> Array:
    return 1 / (x * (1 / value - 1) + 1)


def _cosine(x: Array, value: float) -> Array:
    scaled = x * (math.acos(2 * value - 1) / math.pi)
    return namespace(x).where(scaled < 1, (1 + namespace(x).cos(math.pi * scaled)) / 2, 0.0)


def _linear(x: Array, value: float) -> Array:
    scaled = x * (1 - value)
    return namespace(x).where(scaled < 1, 1 - scaled, 0.0)


def _quadratic(x: Array, value: float) -> Array:
    scaled = x * math.sqrt(1 - value)
    return namespace(x).where(scaled < 1, 1 - scaled**2, 0.0)


def _tanh_squared(x: Array, value: float) -> Array:
    return 1 - namespace(x).tanh(x * math.atanh(math.sqrt(1 - value))) ** 2


SIGMOIDS = {
    "gaussian": _gaussian,
    "hyperbolic": _hyperbolic,
    "long_tail": _long_tail,
    "reciprocal": _reciprocal,
    "cosine": _cosine,
    "linear": _linear,
    "quadratic": _quadratic,
    "tanh_squared": _tanh_squared,
}
"""Each falls from 1 at x = 0 to `value` at x = 1; x is never negative."""


def tolerance(
    x: Array,
    bounds: tuple[float, float] = (0.0, 0.0),
    *,
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = VALUE_AT_MARGIN,
) -> Array:
    """Return 1 where x lies within the bounds, less the farther it lies outside; same shape, in [0, 1].

    Args:
        x: any shape, any unit.
        bounds: lower and upper end, both included, in units of x; infinite for an open end.
        margin: distance from the bounds, in units of x, at which the value is `value_at_margin`; with 0
            everything outside is worth 0.
        sigmoid: shape of the fall, a key of `SIGMOIDS`.
        value_at_margin: above 0 (0 itself for the shapes that reach it) and below 1.

    Raises:
        ConfigError: bounds in the wrong order, a negative margin, an unknown shape, a value out of range.
    """
    lower, upper = bounds
    if not lower <= upper:
        raise ConfigError(f"bounds = {bounds}: the lower one must not be above the upper one")
    if not margin >= 0:
        raise ConfigError(f"margin = {margin}: must not be negative")
    if margin == 0:
        return number((lower <= x) & (x <= upper), x)
    if sigmoid not in SIGMOIDS:
        raise unknown_name("a sigmoid", sigmoid, SIGMOIDS, "rlsuite.envs.tasks.dmc.rewards.SIGMOIDS")
    if not (0 < value_at_margin < 1 or (value_at_margin == 0 and sigmoid in ZERO_ALLOWED)):
        least = "0 or more" if sigmoid in ZERO_ALLOWED else "above 0"
        raise ConfigError(f"value_at_margin = {value_at_margin}: must be {least} and below 1 for {sigmoid}")
    outside = namespace(x).zeros_like(x)
    if lower > -math.inf:
        outside = outside + _positive(lower - x)
    if upper < math.inf:
        outside = outside + _positive(x - upper)
    return SIGMOIDS[sigmoid](outside / margin, value_at_margin)


def _positive(x: Array) -> Array:
    """Return max(x, 0); nan stays nan."""
    return np.maximum(x, 0.0) if isinstance(x, np.ndarray) else x.clamp(min=0)
