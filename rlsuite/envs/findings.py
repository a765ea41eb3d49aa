"""Findings of `rlsuite check env`: which function breaks the contract, and how, in one line each."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from rlsuite.envs.base import on_host
from rlsuite.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
LIBRARIES = "site-packages"
ALIKE = 1e-9  # relative; what one env says alone and among others may differ in rounding


class Finding(NamedTuple):
    """One breach of the contract.

    Attributes:
        function: at fault, `module.function`.
        message: what it does, and what it should.
    """

    function: str
    message: str

    def __str__(self) -> str:
        return f"{self.function}: {self.message}"


class Report:
    """What was found, of every function the first thing alone: later ones mostly follow from it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def blames(self, function: str) -> bool:
        """Return whether something was found of a function."""
        return any(finding.function == function for finding in self.findings)

    def blame(self, function: str, message: str) -> None:
        """Note a breach, unless the function has one already."""
        if not self.blames(function):
            self.findings.append(Finding(function, " ".join(message.split())))

    def expect(self, holds: Any, function: str, message: str) -> bool:
        """Note a breach unless `holds`; return whether it does."""
        if not holds:
            self.blame(function, message)
        return bool(holds)

    @contextmanager
    def calling(self, function: str) -> Iterator[None]:
        """Turn what is raised inside into a finding, of the innermost function that is the user's own.

        Raises:
            ConfigError: raised inside: it says itself what is wrong with the line.
        """
        try:
            yield
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - other people's code may raise anything
            self.blame(own_frame(error) or function, f"raised {type(error).__name__}: {error}")


def own_frame(error: BaseException) -> str | None:
    """Return the innermost function on the way to an error that no library defines, or None."""
    while error.__cause__ is not None:
        error = error.__cause__
    for frame in reversed(list(traceback.walk_tb(error.__traceback__))):
        code = frame[0].f_code
        path = Path(code.co_filename)
        library = LIBRARIES in path.parts or PACKAGE in path.parents or not path.is_file()
        if not library and "lib/python" not in path.as_posix():
            return f"{frame[0].f_globals.get('__name__', path.stem)}.{plain(code.co_qualname)}"
    return None


def plain(name: str) -> str:
    """Return a qualified name without the marks of nested functions."""
    return name.replace("<locals>.", "")


def name_of(function: Callable[..., Any]) -> str:
    """Return `module.function` of a function, a method, or what a `partial` holds."""
    while hasattr(function, "func"):
        function = function.func
    module = getattr(function, "__module__", None) or type(function).__module__
    return f"{module}.{plain(getattr(function, '__qualname__', type(function).__qualname__))}"


def array_of(values: Any) -> np.ndarray:
    """Return a tensor or an array as an array, without a copy."""
    return on_host(values.detach()) if isinstance(values, Tensor) else np.asarray(values)


def same(first: Any, second: Any, *, close: bool = False) -> bool:
    """Return whether two arrays have the same numbers, nan included; to rounding where `close`."""
    left, right = array_of(first), array_of(second)
    if left.shape != right.shape:
        return False
    if close and left.dtype.kind == "f":
        return np.allclose(left, right, rtol=ALIKE, atol=ALIKE, equal_nan=True)
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
