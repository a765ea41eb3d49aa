"""Bounds of a configuration's fields, written where the field is: `gamma: Annotated[float, Bounds(0, 1)]`."""

import math
import types
import typing
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any

from rlsuite.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which numbers a field may hold: `low` to `high`, both included unless `open_low` or `open_high`."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Return whether `value` is in the range; nan is in none."""
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def demand(self, value: float) -> str:
        """Return what a refused value must be: of a count the end that it misses, else the interval."""
        if isinstance(value, int) and value > self.high:
            return f"be at most {self.high:,}"
        if isinstance(value, int) or self.high == math.inf:
            if self.low == 0 and not self.open_low:
                return "not be negative"
            return f"be {'above' if self.open_low else 'at least'} {self.low:,}"
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"be in {left}{self.low:.12g}, {self.high:.12g}{right}"


AtLeastOne = Annotated[int, Bounds(1)]
"""A count of which there must be one."""

NotNegative = Annotated[int, Bounds(0)]
"""A count that may be 0."""

Positive = Annotated[float, Bounds(0, open_low=True)]
"""A learning rate, a scale, a limit."""

UnitInterval = Annotated[float, Bounds(0, 1)]
"""A discount, a share, a probability."""

PolyakRate = Annotated[float, Bounds(0, 1, open_low=True)]
"""The share of the online network that a target takes at a step; 1 copies it."""

DropoutRate = Annotated[float, Bounds(0, 1, open_high=True)]
"""The probability that an entry is dropped."""


EnvCount = Annotated[int, Bounds(1, 2**20)]
"""Envs, or episodes that are played at once. This and the limits below: our choice, far above any use."""

SeedCount = Annotated[int, Bounds(1, 4_096)]
"""Agents that are trained together."""

ThreadCount = Annotated[int, Bounds(0, 4_096)]
"""Threads of the CPU; 0 mostly means all cores."""

BatchSize = Annotated[int, Bounds(1, 2**26)]
"""Transitions of an update."""

Widths = Annotated[tuple[int, ...], Bounds(1, 2**16)]
"""Widths of hidden layers."""

COUNTED = Bounds(-(2**63), 2**63 - 1)
"""What a signed number of 64 bits can be."""


def check_bounds(config: Any) -> None:
    """Raise ConfigError for the first field of a dataclass whose number is out of its `Bounds`.

    None is in every range, and of a tuple every item is looked at. Call it in `__post_init__`.
    """
    check_numbers(config)
    for name, allowed in bounds_of(type(config)):  # type: ignore[arg-type]
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not allowed.holds(number):
                raise ConfigError(f"{name} = {value}: must {allowed.demand(number)}")


def check_numbers(config: Any, prefix: str = "") -> None:
    """Raise ConfigError for numbers in a dataclass, or in those inside it, that nothing can use.

    Refused are nan; infinities, unless the field's default is one or the number is an end of a range; and
    whole numbers of more than 64 bits.
    """
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if is_dataclass(value) and not isinstance(value, type):
            check_numbers(value, "" if field.name in ("train", "agent") else f"{name}.")
            continue
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, float) and not math.isfinite(item):
                default = field.default
                infinite = isinstance(value, tuple) or (isinstance(default, float) and math.isinf(default))
                if math.isnan(item) or not infinite:
                    raise ConfigError(f"{name} = {item}: must be a finite number")
            if type(item) is int and not COUNTED.holds(item):
                shown = str(item) if abs(item) < 10**30 else "a number of more than 30 digits"
                raise ConfigError(f"{name} = {shown}: must be a whole number of 64 bits")


@cache
def bounds_of(config: type) -> tuple[tuple[str, Bounds], ...]:
    """Return the fields of a dataclass that have a `Bounds`, those of its bases included."""
    hints = typing.get_type_hints(config, include_extras=True)
    return tuple((field.name, mark) for field in fields(config) for mark in _marks(hints[field.name]))


def _marks(hint: Any) -> list[Bounds]:
    """Return the `Bounds` of a type, also where it is one of several: `Widths | None`."""
    marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Bounds)]
    if marks or typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return marks
    return [mark for member in typing.get_args(hint) for mark in _marks(member)]
