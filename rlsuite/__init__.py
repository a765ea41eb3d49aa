"""rlsuite: deep-RL agents for control and offline RL, native to TorchRL, on vectorised MuJoCo."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from rlsuite.version import __version__

__all__ = [
    "Callback",
    "Evaluation",
    "Expert",
    "FilmEvery",
    "Intervention",
    "Run",
    "StopOnPlateau",
    "StopWhen",
    "__version__",
    "load",
    "resume",
    "train",
]

if TYPE_CHECKING:
    from rlsuite.api import Run, resume, train
    from rlsuite.training.callbacks import Callback, Evaluation
    from rlsuite.training.given import FilmEvery, StopOnPlateau, StopWhen
    from rlsuite.training.interventions import Expert, Intervention
    from rlsuite.training.loaded import load

_LIVE_IN = {
    "load": "rlsuite.training.loaded",
    **dict.fromkeys(("Run", "resume", "train"), "rlsuite.api"),
    **dict.fromkeys(("Callback", "Evaluation"), "rlsuite.training.callbacks"),
    **dict.fromkeys(("Expert", "Intervention"), "rlsuite.training.interventions"),
    **dict.fromkeys(("FilmEvery", "StopOnPlateau", "StopWhen"), "rlsuite.training.given"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: torch takes seconds, and the command line should answer at once."""
    if name in _LIVE_IN:
        return getattr(importlib.import_module(_LIVE_IN[name]), name)
    raise AttributeError(f"module rlsuite has no attribute {name!r}")


if "gymnasium" in sys.modules:
    import rlsuite.gym  # noqa: F401 - registers our environments with it
