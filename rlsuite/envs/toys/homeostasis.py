"""Homeostasis: moves in the plane as vector rewards, to bring a stock of two numbers to zero in six steps.

Discrete actions: stay, or one step along an axis. The observation is the time alone: where one is says the
stock (`stock:Homeostasis`), and the optimal value is minus what is left of its 1-norm. Our choice.
"""

from dataclasses import dataclass

from rlsuite.envs.options import EnvOptions
from rlsuite.envs.table import TableEnv, TableFacts
from rlsuite.returns.examples import PLANE_HORIZON, homeostasis


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Constructor arguments."""

    horizon: int = PLANE_HORIZON
    """Moves until the episode ends."""


class Env(TableEnv):
    """B planes; see `TableEnv`."""

    def __init__(self, env_id: str, arguments: Options, num_envs: int, options: EnvOptions) -> None:
        horizon = arguments.horizon
        table = TableFacts(
            env_id=env_id,
            features=lambda left: [float(left == steps) for steps in range(1, horizon + 1)],
            horizon=horizon,
            return_range=(-float(horizon), float(horizon)),
        )
        super().__init__(homeostasis(horizon), table, num_envs, options)
