"""Bounds of a configuration's fields, written where the field is: `gamma: Annotated[float, Bounds(0, 1)]`."""

import math
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
        """Whether `value` is in the range; nan is in none."""
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        """Return what a value must be, to follow the word "must"."""
        if self.high == math.inf:
            if self.low == 0:
                return "be above 0" if self.open_low else "not be negative"
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


MOST_COUNTED = 2**63 - 1
LIMITS = {  # by the name of a field; our choice: far above what anybody trains with
    "seed": Bounds(0),
    "seed_index": Bounds(0),
    "threads": Bounds(0, 4_096),
    "num_envs": Bounds(1, 2**20),
    "eval_episodes": Bounds(1, 2**20),
    "episodes": Bounds(1, 2**20),
    "video_envs": Bounds(1, 1_024),
    "seeds": Bounds(1, 4_096),
    "batch_size": Bounds(1, 2**26),
    "hidden": Bounds(1, 2**16),
}


def check_bounds(config: Any) -> None:
    """Raise ConfigError for the first field of a dataclass whose number is out of its `Bounds`.

    None is in every range, and of a tuple every item is looked at. Call it in `__post_init__`.
    """
    for name, allowed in bounds_of(type(config)):  # type: ignore[arg-type]
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and math.isnan(number):
                raise ConfigError(f"{name} = {value}: must be a finite number")
            if number is not None and not allowed.holds(number):
                raise ConfigError(f"{name} = {value}: must {allowed}")
    check_numbers(config)


def check_numbers(config: Any, prefix: str = "") -> None:
    """Raise ConfigError for numbers in a dataclass, or in those inside it, that nothing can use.

    Refused are nan; infinities, unless the field's default is one; whole numbers that no machine counts to;
    and sizes outside `LIMITS`, by the name of their field.
    """
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if is_dataclass(value) and not isinstance(value, type):
            check_numbers(value, "" if field.name in ("train", "agent") else f"{name}.")
            continue
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, float) and not math.isfinite(item):
                infinite = isinstance(field.default, float) and math.isinf(field.default)
                if math.isnan(item) or not infinite:
                    raise ConfigError(f"{name} = {item}: must be a finite number")
            if isinstance(item, int) and not isinstance(item, bool):
                allowed = LIMITS.get(field.name, Bounds(-MOST_COUNTED, MOST_COUNTED))
                if not allowed.holds(item):
                    shown = str(item) if abs(item) < 10**30 else "a number of more than 30 digits"
                    raise ConfigError(f"{name} = {shown}: must {allowed}")


@cache
def bounds_of(config: type) -> tuple[tuple[str, Bounds], ...]:
    """Return the fields of a dataclass that have a `Bounds`, those of its bases included."""
    hints = typing.get_type_hints(config, include_extras=True)
    marks = ((field.name, getattr(hints[field.name], "__metadata__", ())) for field in fields(config))
    return tuple((name, mark) for name, extras in marks for mark in extras if isinstance(mark, Bounds))
