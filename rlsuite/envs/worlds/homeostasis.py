"""Homeostasis: moves in the plane as vector rewards, to bring a stock of two numbers to zero in six steps.

Discrete actions: stay, or one step along an axis. The observation is the time alone: where one is says the
stock (`stock:Homeostasis`), and the optimal value is minus what is left of its 1-norm. Our choice.
"""

from dataclasses import dataclass
from typing import Any

from rlsuite.envs.table import TableWorld
from rlsuite.returns.examples import PLANE_HORIZON, homeostasis


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Constructor arguments."""

    horizon: int = PLANE_HORIZON
    """Moves until the episode ends."""


class World(TableWorld):
    """B planes; see `TableWorld`."""

    def __init__(self, env_id: str, options: Options, num_envs: int = 1, **common: Any) -> None:
        # The horizon ends the return, and is seen: the limit never cuts.
        common["max_episode_steps"] = common.get("max_episode_steps") or options.horizon + 1
        horizon = options.horizon
        super().__init__(
            env_id,
            homeostasis(horizon),
            lambda left: [float(left == steps) for steps in range(1, horizon + 1)],
            num_envs,
            return_range=(-float(horizon), float(horizon)),
            **common,
        )
