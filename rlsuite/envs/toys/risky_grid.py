"""RiskyGrid: a 4 x 4 grid with a sure way that pays 5 and a lottery of 10 or -3, eight steps.

Discrete actions north, east, south, west. Its optimal values for every first stock are known exactly
(`rlsuite.returns.examples.risky_grid`, `rlsuite.returns.tabular`): with gamma 1 the return -3, -2, ..., 5 can
be had for sure, and 12 or -1 has the greatest mean. Our choice.
"""

from dataclasses import dataclass

from rlsuite.envs.options import EnvOptions
from rlsuite.envs.table import TableEnv, TableFacts
from rlsuite.returns.examples import GRID_HORIZON, SIDE, risky_grid
from rlsuite.returns.mdp import State

RETURNS = (-5.0, 14.0)  # of the grid, and a unit or two more on either side


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Constructor arguments."""

    horizon: int = GRID_HORIZON
    """Steps after which the episode ends, without a bootstrap; what is left of them is shown."""


def features(state: State, horizon: int) -> list[float]:
    """Return what is shown of a state: one of x, one of y, one of the steps left; zeros at the end."""
    shown = [0.0] * (2 * SIDE + horizon)
    if isinstance(state, tuple):
        x, y, left = state
        for place in (x, SIDE + y, 2 * SIDE + left - 1):
            shown[place] = 1.0
    return shown


class Env(TableEnv):
    """B grids; see `TableEnv`."""

    def __init__(self, env_id: str, arguments: Options, num_envs: int, options: EnvOptions) -> None:
        table = TableFacts(
            env_id=env_id,
            features=lambda state: features(state, arguments.horizon),
            horizon=arguments.horizon,
            return_range=RETURNS,
        )
        super().__init__(risky_grid(arguments.horizon), table, num_envs, options)
