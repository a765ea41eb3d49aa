"""Gymnasium-Robotics: its ids are known once it is imported, and its Fetch and hand need a hand of ours.

Its release 1.4.2 asks whether a joint's type, an integer of numpy, is in a tuple of MuJoCo's enums. With
MuJoCo 3.17 an enum equals Python's integers and not numpy's, so FetchReach and its kin fail an assertion when
they are made. Where that is so, the module that asks is shown MuJoCo with plain integers as joint types.
"""

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import mujoco
import numpy as np

PACKAGE = "gymnasium_robotics"
JOINTS = ("mjJNT_FREE", "mjJNT_BALL", "mjJNT_SLIDE", "mjJNT_HINGE")


class PlainJoints(ModuleType):
    """MuJoCo, whose `mjtJoint` has plain integers."""

    mjtJoint = SimpleNamespace(**{name: int(getattr(mujoco.mjtJoint, name)) for name in JOINTS})

    def __getattr__(self, name: str) -> Any:
        return getattr(mujoco, name)


def register() -> bool:
    """Import Gymnasium-Robotics, which registers its ids; return whether it is installed."""
    try:
        importlib.import_module(PACKAGE)
        utilities: Any = importlib.import_module(f"{PACKAGE}.utils.mujoco_utils")
    except ImportError:
        return False
    slide = mujoco.mjtJoint.mjJNT_SLIDE
    if slide != np.int32(int(slide)) and utilities.mujoco is mujoco:
        utilities.mujoco = PlainJoints("mujoco")
    return True
