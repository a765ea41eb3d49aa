"""Data of StitchMaze that must be joined: routes from corner to corner, none from the start to the goal.

From home past the passage to the top left; from there through the passage to the bottom right; from there
past the passage to the goal. At both ends of the passage the wrong way is recorded more often, so that a
policy that copies takes it; one that values places joins parts of all three. Our choice, after the stitching
mazes of D4RL (Fu et al. 2020).

Legend: B envs, T steps.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from rlsuite.envs.base import VectorEnv
from rlsuite.envs.make import make_env
from rlsuite.offline.collect import first_steps, spaces_of_env
from rlsuite.offline.write import Recorded, RecordedSpaces

ENV = "StitchMaze"
ROUTES = {
    "home": ((-0.8, 0.8),),
    "top_left": ((-0.8, 0.0), (0.8, 0.0), (0.8, -0.8)),
    "bottom_right": ((0.8, 0.8),),
}
"""Where a route begins, and its way-points in the numbers of an observation."""
SHORTCUT = ((-0.8, 0.0), (0.8, 0.0), (0.8, 0.8))  # way-points from home to the goal, which nobody recorded
GAIN = 10.0  # of the controller, per unit of the observation
RADIUS = 0.12  # of a way-point, in the same unit
NOISE = 0.5  # std of the noise on recorded actions
SHARES = {"home": 12, "top_left": 4, "bottom_right": 2}  # episodes of each route in a round
REFERENCE_EPISODES = 100


class Waypoints:
    """Leads B points along way-points; `done` `[B]` says who has passed the last one."""

    def __init__(self, points: Sequence[tuple[float, float]], envs: int) -> None:
        self.points = np.array([*points, points[-1]])
        self.passed = np.zeros(envs, np.int64)

    @property
    def done(self) -> np.ndarray:
        """Who has passed the last way-point, `[B]` bool."""
        return self.passed == len(self.points) - 1

    def act(self, place: np.ndarray) -> np.ndarray:
        """Return actions `[B, 2]` at places `[B, 2]`, before noise."""
        near = np.linalg.norm(self.points[self.passed] - place, axis=-1) < RADIUS
        self.passed = np.where(near & ~self.done, self.passed + 1, self.passed)
        return np.clip(GAIN * (self.points[self.passed] - place), -1, 1)


def record(steps: int, *, seed: int = 0) -> Iterator[Recorded]:
    """Yield episodes of the three routes, of `steps` env steps together; the last may be cut off.

    An episode ends, truncated, where its route does; the last route's terminates at the goal.

    Args:
        steps: env steps, at least 1.
        seed: of the environments and of all noise.
    """
    return first_steps(_routes(seed), steps)


def _routes(seed: int) -> Iterator[Recorded]:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    for turn in itertools.count():
        played = [
            episode
            for start, count in SHARES.items()
            for episode in play(start, count, seed + turn * 100, rng)
        ]
        yield from (played[index] for index in rng.permutation(len(played)))


def play(start: str, count: int, seed: int, rng: np.random.Generator) -> list[Recorded]:
    """Play a route `count` times, each until its end or the environment's."""
    env = make_env(ENV, count, seed=seed, options={"start": start})
    try:
        return [
            Recorded(
                observations=seen.astype(np.float32),
                actions=actions.astype(np.float32),
                rewards=-np.ones(len(actions)),
                terminations=ends & terminated,
                truncations=ends & (not terminated),
            )
            for seen, actions, terminated in walk(env, Waypoints(ROUTES[start], count), NOISE, rng)
            for ends in (np.arange(len(actions)) == len(actions) - 1,)
        ]
    finally:
        env.close()


def walk(
    env: VectorEnv, way: Waypoints, noise: float, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, bool]]:
    """Play an episode in every env; return observations `[T + 1, 2]`, actions `[T, 2]`, if it terminated.

    Args:
        env: B envs.
        way: who acts; an episode ends where it does.
        noise: std of the noise on actions.
        rng: of the noise.
    """
    td = env.reset()
    envs = env.num_envs
    seen, acted = [td["observation"].double().numpy()], []
    length, terminated = np.zeros(envs, np.int64), np.zeros(envs, bool)
    while (length == 0).any():
        action = np.clip(way.act(seen[-1]) + noise * rng.normal(size=(envs, 2)), -1, 1)
        td["action"] = torch.from_numpy(action).to(td["observation"].dtype)
        step = env.step(td)
        acted.append(action)
        seen.append(step["next", "observation"].double().numpy())
        at_goal = step["next", "terminated"].squeeze(-1).numpy()
        way.act(seen[-1])  # whether the last way-point is passed
        over = (length == 0) & (at_goal | step["next", "truncated"].squeeze(-1).numpy() | way.done)
        terminated |= over & at_goal
        length[over] = len(acted)
        td = env.step_mdp(step)
    places, actions = np.stack(seen, 1), np.stack(acted, 1)
    return [(places[b, : n + 1], actions[b, :n], bool(terminated[b])) for b, n in enumerate(length)]


def reference_returns(seed: int = 0) -> tuple[float, float]:
    """Return what never arriving brings, and the mean return of the unrecorded way, without noise."""
    env = make_env(ENV, REFERENCE_EPISODES, seed=seed)
    try:
        walked = walk(env, Waypoints(SHORTCUT, REFERENCE_EPISODES), 0.0, np.random.default_rng(0))
        return -float(env.max_episode_steps or 0), -float(np.mean([len(actions) for _, actions, _ in walked]))
    finally:
        env.close()


def spaces() -> RecordedSpaces:
    """Return the maze's spaces."""
    env = make_env(ENV, 1)
    try:
        return spaces_of_env(env)
    finally:
        env.close()
