"""Bounds of configurations, written at the field."""

import math
from dataclasses import dataclass
from typing import Annotated

import pytest

from rlsuite.bounds import AtLeastOne, Bounds, NotNegative, bounds_of, check_bounds
from rlsuite.errors import ConfigError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Base:
    count: AtLeastOne = 1
    tau: Annotated[float, Bounds(0, 1, open_low=True)] = 0.5

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Base):
    threads: NotNegative = 0
    lr: Annotated[float, Bounds(0, open_low=True)] = 1.0
    dropout: Annotated[float, Bounds(0, 1, open_high=True)] = 0.0
    limit: Annotated[float | None, Bounds(0, 1)] = None
    hidden: Annotated[tuple[int, ...], Bounds(1)] = (8, 8)
    other: Annotated[tuple[int, ...], Bounds(1)] | None = None
    name: str = ""


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"count": 0}, "count = 0: must be at least 1"),
        ({"tau": 0.0}, r"tau = 0.0: must be in \(0, 1\]"),
        ({"tau": math.nan}, "tau = nan"),
        ({"threads": -1}, "threads = -1: must not be negative"),
        ({"lr": 0.0}, "lr = 0.0: must be above 0"),
        ({"dropout": 1.0}, r"dropout = 1.0: must be in \[0, 1\)"),
        ({"limit": 2.0}, "limit = 2.0"),
        ({"hidden": (8, 0)}, r"hidden = \(8, 0\): must be at least 1"),
        ({"other": (0,)}, r"other = \(0,\): must be at least 1"),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_its_name(fields, says):
    with pytest.raises(ConfigError, match=says):
        Config(**fields)


def test_ends_that_belong_to_a_range_none_and_empty_tuples_are_taken():
    Config(count=1, tau=1.0, threads=0, lr=1e9, dropout=0.0, limit=None, hidden=())
    assert Config(limit=0.0).limit == 0.0
    assert [name for name, _ in bounds_of(Config)] == [
        "count",
        "tau",
        "threads",
        "lr",
        "dropout",
        "limit",
        "hidden",
        "other",
    ]


def test_dashes_make_no_flag_like_another():
    flags = ["--legacy-margin", "--eval-every"]
    assert "Did you mean" not in str(unknown_name("a flag", "--dry-run", flags, "help"))
    assert 'Did you mean "--eval-every"?' in str(unknown_name("a flag", "--eval-evry", flags, "help"))
