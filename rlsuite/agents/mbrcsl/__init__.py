"""MBRCSL: a return-conditioned clone of roll-outs imagined by a model, above all that was recorded."""

from rlsuite.agents.mbrcsl.agent import MBRCSL
from rlsuite.agents.mbrcsl.config import MBRCSLConfig

__all__ = ["MBRCSL", "MBRCSLConfig"]
