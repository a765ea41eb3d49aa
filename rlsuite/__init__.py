"""rlsuite: deep-RL agents for control and offline RL, native to TorchRL, on vectorised MuJoCo."""

import sys
from typing import TYPE_CHECKING, Any

from rlsuite.version import __version__

__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from rlsuite.training.loaded import load


def __getattr__(name: str) -> Any:
    """Import `load` when it is asked for: torch takes seconds, and the command line should answer at once."""
    if name == "load":
        from rlsuite.training.loaded import load

        return load
    raise AttributeError(f"module rlsuite has no attribute {name!r}")


if "gymnasium" in sys.modules:
    import rlsuite.gym  # noqa: F401 - registers our environments with it
