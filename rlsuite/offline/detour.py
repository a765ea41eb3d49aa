"""Data of MBRCSL's maze: way-points of recorded episodes, none of which goes straight from start to goal.

A quarter of the episodes each: to the cell below the start, where the ball stays; the same; a tour over the
left cells to the goal; that tour, and random actions from there. The short way begins as the first half does
and ends as the second does (Zhou et al. 2023, arXiv 2310.19308, and their code). The controller is
PointMaze's (pointmaze.py), without noise on its actions, as theirs.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlsuite.envs import mazes
from rlsuite.errors import ConfigError
from rlsuite.offline.collect import first_steps
from rlsuite.offline.pointmaze import Cell, WaypointController
from rlsuite.offline.spaces import box_json
from rlsuite.offline.write import Recorded, RecordedSpaces

TOUR: tuple[Cell, ...] = ((1, 1), (2, 1), (2, 4))
ROUTES: tuple[tuple[tuple[Cell, ...], bool], ...] = (
    (((2, 2),), False),
    (((2, 2),), False),
    (TOUR, False),
    (TOUR, True),
)
"""Cells to be reached one after the other, and whether random actions follow the last one."""
STRAIGHT: tuple[Cell, ...] = ((2, 4),)  # which nobody recorded
JITTER = 0.25  # of a way-point inside its cell, along each axis; authors' code
NEAR, SLOW = 0.5, 0.5  # distance and speed at which a way-point is reached; authors' code
STEPS = 200_000  # a thousand episodes, as many as the authors'
REFERENCE_EPISODES = 100


def make() -> Any:
    """Make the maze; ConfigError where Gymnasium-Robotics is not installed."""
    import gymnasium

    try:
        return gymnasium.make(f"{mazes.MODULE}:{mazes.ENV_ID}", disable_env_checker=True)
    except ModuleNotFoundError as error:
        raise ConfigError('PointMaze needs gymnasium-robotics: pip install "rlsuite[offline]"') from error


def play(env: Any, cells: tuple[Cell, ...], wanders: bool, seed: int, rng: np.random.Generator) -> Recorded:
    """Play one episode over `cells` and, where it `wanders`, with random actions behind the last one."""
    seen = [env.reset(seed=seed)[0]]
    dictionary = env.get_wrapper_attr("shown")
    maze = env.unwrapped.maze
    controller = WaypointController(maze, rng)
    goals = [maze.cell_rowcol_to_xy(np.array(cell)) + rng.uniform(-JITTER, JITTER, 2) for cell in cells]
    reached, acted, rewards, over = 0, [], [], False
    while not over:
        last = reached >= len(goals) - 1
        if reached < len(goals):
            near = np.linalg.norm(seen[-1][:2] - goals[reached]) <= NEAR
            slow = bool((np.abs(seen[-1][2:]) <= SLOW).all()) or (last and wanders)
            reached += int(near and slow)
        if reached == len(goals) and wanders:
            action = rng.uniform(-1, 1, 2)
        else:
            goal = goals[min(reached, len(goals) - 1)]
            action = np.clip(controller.act({**dictionary, "desired_goal": goal}), -1, 1)
        observation, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
        dictionary, over = env.get_wrapper_attr("shown"), terminated or truncated
        seen.append(observation)
        acted.append(action)
        rewards.append(float(reward))
    ends = np.arange(len(acted)) == len(acted) - 1
    return Recorded(
        observations=np.stack(seen),
        actions=np.stack(acted).astype(np.float32),
        rewards=np.array(rewards),
        terminations=np.zeros_like(ends),
        truncations=ends,
    )


def record(steps: int, *, seed: int = 0) -> Iterator[Recorded]:
    """Yield episodes of all routes in turn, of `steps` env steps together; the last may be cut off.

    Args:
        steps: env steps, at least 1.
        seed: of the environment and of all noise.
    """
    return first_steps(_episodes(seed), steps)


def _episodes(seed: int) -> Iterator[Recorded]:
    rng, env = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,))), make()
    try:
        while True:
            for cells, wanders in ROUTES:
                yield play(env, cells, wanders, int(rng.integers(2**31)), rng)
    finally:
        env.close()


def reference_returns(seed: int = 0) -> tuple[float, float, float]:
    """Return mean returns of random actions, of the straight way, and of what is recorded."""
    rng, env = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(5,))), make()
    try:
        routes = (((), True), (STRAIGHT, False), *ROUTES)
        counts = (REFERENCE_EPISODES, REFERENCE_EPISODES, *(REFERENCE_EPISODES // 4,) * 4)
        means = [
            np.mean([play(env, *route, seed + episode, rng).rewards.sum() for episode in range(count)])
            for route, count in zip(routes, counts, strict=True)
        ]
    finally:
        env.close()
    return float(means[0]), float(means[1]), float(np.mean(means[2:]))


def spaces() -> RecordedSpaces:
    """Return the maze's spaces."""
    env = make()
    env.close()
    boxes = [box_json(str(box.dtype), box.low, box.high) for box in (env.observation_space, env.action_space)]
    return RecordedSpaces(observation=boxes[0], action=boxes[1], env_spec=None)
