"""PointMaze data by Minari's procedure: a planner's way-points, a PD controller, noise on every action.

D4RL's maze2d data (Fu et al. 2020, arXiv 2004.07219) were re-made by Minari's authors in this way: value
iteration on the grid gives the way from cell to cell, a PD controller follows it, way-points are jittered and
actions noisy. The ball is never reset; a reached goal ends an episode (truncated) and a new one is drawn.

Three choices of ours. `reset_target=True` is given, without which Gymnasium-Robotics keeps one goal for ever.
The observation of the step that reaches a goal still shows the old goal, as in the environment, but the next
episode begins with the new one, where Minari's own sets begin with the old. And a goal in the ball's own cell
is approached directly.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from rlsuite.envs.flatten import FIRST_KEYS
from rlsuite.errors import ConfigError
from rlsuite.offline.names import maze_env_id
from rlsuite.offline.spaces import box_json, nested_json
from rlsuite.offline.write import Recorded, RecordedSpaces

PACKAGE = "gymnasium_robotics"

SWEEPS = 50  # of value iteration; longer than any way through these mazes
DISCOUNT = 0.99  # of the planner
GAIN_P, GAIN_D = 10.0, -1.0  # of the controller, per metre and per metre/second
WAYPOINT_RADIUS = 0.1  # metres; within it the next way-point is due
JITTER = 0.2  # metres; a way-point lies this much below its cell's centre, at most, along each axis
ACTION_NOISE = 0.5  # standard deviation, in units of force
MOVES = ((0, 1), (0, -1), (-1, 0), (1, 0))  # (row, column); at equal value the first wins
WALL = 1

REFERENCE_EPISODES = 100  # each, of the random policy and of the controller; as Minari does

Maze = tuple[tuple[int, ...], ...]
Cell = tuple[int, int]


@cache
def plan(maze: Maze, goal: Cell) -> dict[Cell, Cell]:
    """Return for every free cell the next one on a shortest way to `goal`, by value iteration.

    Args:
        maze: rows of 0 (free) and 1 (wall).
        goal: (row, column) of a free cell.
    """
    free = [
        (row, column) for row, line in enumerate(maze) for column, cell in enumerate(line) if cell != WALL
    ]
    reachable = {
        cell: [step for move in MOVES if (step := (cell[0] + move[0], cell[1] + move[1])) in free]
        for cell in free
    }
    value = dict.fromkeys(free, 0.0)

    def worth(cell: Cell) -> float:
        return float(cell == goal) + DISCOUNT * value[cell]

    for _ in range(SWEEPS):
        value = {cell: max(map(worth, steps), default=0.0) for cell, steps in reachable.items()}
    return {cell: max(steps, key=worth) for cell, steps in reachable.items() if steps}


class WaypointController:
    """Follows the plan to the goal in the observation.

    Args:
        maze: Gymnasium-Robotics' maze: its map, and what turns cells into coordinates.
        rng: jitters the way-points; None for the cells' centres.
    """

    def __init__(self, maze: Any, rng: np.random.Generator | None) -> None:
        self._maze, self._rng = maze, rng
        self._map: Maze = tuple(tuple(int(cell == WALL) for cell in row) for row in maze.maze_map)
        self._goal: np.ndarray | None = None
        self._goal_cell: Cell = (0, 0)
        self._target_cell: Cell = (0, 0)
        self._target = np.zeros(2)

    def act(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Return the controller's force, `[2]`, before noise and clipping."""
        position, goal = observation["achieved_goal"], observation["desired_goal"]
        if self._goal is None or not np.array_equal(self._goal, goal):
            self._goal, self._goal_cell = goal.copy(), self._cell(goal)
            self._head_for(self._next(self._cell(position)), jitter=False)
        elif (
            self._target_cell != self._goal_cell
            and np.linalg.norm(self._target - position) <= WAYPOINT_RADIUS
        ):
            self._head_for(self._next(self._target_cell), jitter=True)
        return GAIN_P * (self._target - position) + GAIN_D * observation["observation"][2:]

    def _head_for(self, cell: Cell, *, jitter: bool) -> None:
        assert self._goal is not None
        self._target_cell = cell
        if cell == self._goal_cell:
            self._target = self._goal
            return
        self._target = self._maze.cell_rowcol_to_xy(np.array(cell))
        if jitter and self._rng is not None:
            self._target = self._target - JITTER * self._rng.uniform(size=2)

    def _next(self, cell: Cell) -> Cell:
        # In the goal's own cell the plan's next cell would lead away from it.
        return cell if cell == self._goal_cell else plan(self._map, self._goal_cell)[cell]

    def _cell(self, position: np.ndarray) -> Cell:
        row, column = self._maze.cell_xy_to_rowcol(position)
        return int(row), int(column)


def make(maze: str, *, dense: bool, **options: Any) -> Any:
    """Make the environment; ConfigError where Gymnasium-Robotics is not installed."""
    import gymnasium

    try:
        return gymnasium.make(
            f"{PACKAGE}:{maze_env_id(maze, dense=dense)}", disable_env_checker=True, **options
        )
    except ModuleNotFoundError as error:
        raise ConfigError('PointMaze needs gymnasium-robotics: pip install "rlsuite[offline]"') from error


def record(maze: str, steps: int, *, dense: bool = False, seed: int = 0) -> Iterator[Recorded]:
    """Yield episodes of `steps` env steps together; the last one may be cut off.

    Args:
        maze: open, umaze, medium or large.
        steps: env steps, at least 1.
        dense: reward exp(-distance) instead of 1 within the goal's radius.
        seed: of the environment and of all noise.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    env = make(maze, dense=dense, continuing_task=True, reset_target=True, max_episode_steps=steps + 1)
    try:
        observation, _ = env.reset(seed=seed)
        controller = WaypointController(env.unwrapped.maze, rng)
        rows: list[tuple[np.ndarray, float]] = []
        seen = [observation]
        for step in range(steps):
            noise = rng.normal(scale=ACTION_NOISE, size=2)
            action = np.clip(controller.act(observation) + noise, -1, 1).astype(np.float32)
            observation, reward, _, _, info = env.step(action)
            rows.append((action, reward))
            seen.append(observation)
            if info["success"] or step == steps - 1:
                yield _episode(seen, rows, whole=bool(info["success"]))
                observation = {**observation, "desired_goal": env.unwrapped.goal.copy()}
                rows, seen = [], [observation]
    finally:
        env.close()


def _episode(
    seen: list[dict[str, np.ndarray]], rows: list[tuple[np.ndarray, float]], *, whole: bool
) -> Recorded:
    last = np.arange(len(rows)) == len(rows) - 1
    return Recorded(
        observations={key: np.stack([observation[key] for observation in seen]) for key in FIRST_KEYS},
        actions=np.stack([action for action, _ in rows]),
        rewards=np.array([reward for _, reward in rows], np.float64),
        terminations=np.zeros_like(last),
        truncations=last,
        whole=whole,
    )


def spaces(maze: str, *, dense: bool) -> RecordedSpaces:
    """Return the spaces of a maze and Gymnasium's specification of it."""
    env = make(maze, dense=dense, continuing_task=True, reset_target=True)
    env.close()
    parts: dict[tuple[str, ...], dict[str, Any]] = {
        (key,): box_json(str(part.dtype), part.low, part.high)
        for key, part in env.observation_space.spaces.items()
    }
    action = env.action_space
    return RecordedSpaces(
        observation=nested_json(parts),
        action=box_json(str(action.dtype), action.low, action.high),
        env_spec=env.spec.to_json(),
    )


def reference_returns(
    maze: str, *, dense: bool, episodes: int = REFERENCE_EPISODES, seed: int = 0
) -> tuple[float, float, float]:
    """Return mean returns of the random policy, of the controller without noise and of the one that records.

    Each over `episodes` in the registered environment, where a goal stays when it is reached and pays at
    every step: the one that `make_env` evaluates in. The first two score 0 and 100; the third is the
    behaviour policy's under that scoring, since the recording's own episodes end where a goal is reached.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    means = []
    for behaviour in ("random", "controller", "noisy controller"):
        jitter = rng if behaviour == "noisy controller" else None
        env, total = make(maze, dense=dense), 0.0
        for episode in range(episodes):
            observation, _ = env.reset(seed=seed + episode)
            controller = WaypointController(env.unwrapped.maze, jitter)
            over = False
            while not over:
                if behaviour == "random":
                    action = rng.uniform(-1, 1, 2)
                else:
                    noise = 0.0 if jitter is None else rng.normal(scale=ACTION_NOISE, size=2)
                    action = np.clip(controller.act(observation) + noise, -1, 1)
                observation, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                over = terminated or truncated
        env.close()
        means.append(total / episodes)
    return means[0], means[1], means[2]
