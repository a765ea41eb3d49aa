"""A PointMaze of MBRCSL's authors as a Gymnasium id, `gym:rlsuite.envs.mazes:PointMazeMBRCSL-v0`.

The map, start and goal of Zhou et al. 2023 (arXiv 2310.19308), on Gymnasium-Robotics' PointMaze with its
dense reward exp(-distance). Episodes last 200 steps whatever happens, as theirs do when they are recorded and
evaluated: the goal neither ends one nor moves. The observation is the ball's place and velocity alone; `info`
says whether the ball is within 0.45 of the goal. Start and goal are jittered within their cells.
"""

from typing import Any

import gymnasium
import numpy as np

ENV_ID = "PointMazeMBRCSL-v0"
MODULE = "rlsuite.envs.mazes"
START, GOAL = (1, 2), (2, 4)  # row, column
WALLS = ((1, 1, 1, 1, 1, 1), (1, 0, 0, 1, 1, 1), (1, 0, 0, 0, 0, 1), (1, 1, 1, 1, 1, 1))
MAX_EPISODE_STEPS = 200


class PlaceAndVelocity(gymnasium.ObservationWrapper[np.ndarray, np.ndarray, dict[str, np.ndarray]]):
    """PointMaze that shows the ball's place and velocity, `[4]`; `shown` is the dictionary as it was."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        assert isinstance(env.observation_space, gymnasium.spaces.Dict)
        self.observation_space = env.observation_space["observation"]
        self.shown: dict[str, np.ndarray] = {}

    def observation(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Keep the dictionary, and return the ball's part of it."""
        self.shown = observation
        return observation["observation"]


def make_maze(**options: Any) -> PlaceAndVelocity:
    """Make the maze; `options` are PointMaze's."""
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    cells: list[list[int | str]] = [list(row) for row in WALLS]
    cells[START[0]][START[1]], cells[GOAL[0]][GOAL[1]] = "r", "g"
    fixed = {"reward_type": "dense", "continuing_task": True, "reset_target": False}
    return PlaceAndVelocity(PointMazeEnv(maze_map=cells, **fixed, **options))


if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, f"{MODULE}:make_maze", max_episode_steps=MAX_EPISODE_STEPS)
