"""Finite decision processes to try objectives on: a grid, homeostasis in the plane."""

from fractions import Fraction
from itertools import product
from typing import Any

from rlsuite.returns.mdp import MDP, State, build

SIDE = 4  # cells
GRID_HORIZON = 8  # steps
COMPASS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # north, east, south, west
BONUS, MALUS = (1, 1), (2, 2)  # cells that pay 1 and cost 1, at every entrance
GOAL, LOTTERY = (3, 3), (0, 3)  # cells that end the episode: 3 for sure, and 10 or -3

PLANE_MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
PLANE_HORIZON = 6


def risky_grid(horizon: int = GRID_HORIZON) -> MDP:
    """Return the 4 x 4 grid of `rlsuite.envs.toys.risky_grid`: states (x, y, steps left).

    From (0, 0); bumping stays put for nothing. Entering (1, 1) pays 1 each time, (2, 2) costs 1; (3, 3)
    pays 3 and (0, 3) pays 10 or costs 3, each with probability 1/2; both end the episode. The greatest
    mean is 5.5 (12 or -1); every integer return from -3 to 5 can be had for sure. Our choice.
    """
    table: dict[State, list[Any]] = {}
    for left in range(horizon, 0, -1):
        for cell in product(range(SIDE), range(SIDE)):
            if cell not in (GOAL, LOTTERY):
                table[(*cell, left)] = [_entered(cell, move, left - 1) for move in COMPASS]
    return build(table, start=(0, 0, horizon))


def _entered(cell: tuple[int, int], move: tuple[int, int], left: int) -> list[Any]:
    x, y = cell[0] + move[0], cell[1] + move[1]
    if not (0 <= x < SIDE and 0 <= y < SIDE):
        x, y, reward = *cell, 0
    elif (x, y) == LOTTERY:
        return [(Fraction(1, 2), 10, "end"), (Fraction(1, 2), -3, "end")]
    elif (x, y) == GOAL:
        return [(1, 3, "end")]
    else:
        reward = 1 if (x, y) == BONUS else -1 if (x, y) == MALUS else 0
    return [(1, reward, (x, y, left) if left else "end")]


def homeostasis(horizon: int = PLANE_HORIZON) -> MDP:
    """Return moves in the plane as vector rewards: nothing, or one step along an axis; states are steps left.

    The stock is where one is; with `Norm` the aim is to be at (0, 0) when the steps are used up.
    """
    return build(
        {
            left: [(move, left - 1 if left > 1 else "end") for move in PLANE_MOVES]
            for left in range(horizon, 0, -1)
        }
    )
