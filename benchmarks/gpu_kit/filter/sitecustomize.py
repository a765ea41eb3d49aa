"""On PYTHONPATH, hides the top-level modules that RLSUITE_BLOCKED names (commas) from imports.

`kit.py --dry` and a test run under it without what the GPU machine will not have.
"""

import os
import sys
from importlib.machinery import ModuleSpec
from typing import Any

BLOCKED = frozenset(filter(None, os.environ.get("RLSUITE_BLOCKED", "").split(",")))


class Hiding:
    """A finder that does not find blocked modules, and is another finder else."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(self, name: str, *where: Any) -> ModuleSpec | None:
        """Return None for a blocked module."""
        return None if name.partition(".")[0] in BLOCKED else self._finder.find_spec(name, *where)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


if BLOCKED:
    sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
