"""MBRCSL's maze and its data: which way recorded episodes take, and what the environment shows and pays."""

import numpy as np
import pytest
import torch

from rlsuite.envs import mazes
from rlsuite.envs.make import make_env
from rlsuite.offline import detour
from rlsuite.offline.names import DETOUR_ENV, recipe

pytest.importorskip("gymnasium_robotics")


@pytest.fixture(scope="module")
def episodes():
    return list(detour.record(4 * 2 * mazes.MAX_EPISODE_STEPS, seed=3))


def cells(episode):
    """Cells (row, column) of an episode, each once in its order."""
    env = detour.make()
    maze = env.unwrapped.maze
    way = [tuple(int(x) for x in maze.cell_xy_to_rowcol(place)) for place in episode.observations[:, :2]]
    env.close()
    return [cell for k, cell in enumerate(way) if k == 0 or cell != way[k - 1]]


def test_nobody_goes_straight_and_every_part_of_the_way_is_there(episodes):
    ways = [cells(episode) for episode in episodes]
    assert all(way[0] == mazes.START for way in ways)
    for number, way in enumerate(ways):
        if number % 4 < 2:
            assert way == [(1, 2), (2, 2)]
        else:
            assert way[1] == (1, 1)
            assert mazes.GOAL in way
            assert way.index((2, 1)) < way.index(mazes.GOAL)
    wandering = [episode.actions[-20:].std(0).min() for episode in episodes]
    assert min(wandering[3::4]) > 0.3 > max(wandering[2::4])


def test_episodes_are_whole_and_pay_by_distance(episodes):
    for episode in episodes:
        assert len(episode) == mazes.MAX_EPISODE_STEPS
        assert episode.whole and episode.truncations[-1] and not episode.terminations.any()
        assert episode.observations.shape == (201, 4)
    assert np.array_equal(episodes[0].rewards, next(detour.record(200, seed=3)).rewards)
    assert not np.array_equal(episodes[0].rewards, next(detour.record(200, seed=4)).rewards)


def test_the_straight_way_brings_more_than_anything_recorded(episodes):
    env, rng = detour.make(), np.random.default_rng(0)
    straight = [detour.play(env, detour.STRAIGHT, False, seed, rng).rewards.sum() for seed in range(3)]
    env.close()
    assert min(straight) > max(episode.rewards.sum() for episode in episodes)


def test_the_environment_of_the_recipe_never_ends_at_its_goal():
    assert recipe("pointmaze/mbrcsl").env == DETOUR_ENV == f"gym:{mazes.MODULE}:{mazes.ENV_ID}"
    env = make_env(DETOUR_ENV, 1, seed=0)
    td = env.reset()
    assert td["observation"].shape == (1, 4)
    assert env.max_episode_steps == 200
    goal = np.array([1.5, -0.5])
    for _ in range(200):
        place, speed = td["observation"][0, :2].double().numpy(), td["observation"][0, 2:].double().numpy()
        target = goal if place[1] < -0.2 else np.array([-0.5, -0.5])
        action = np.clip(10 * (target - place) - speed, -1, 1)
        td["action"] = torch.from_numpy(action).to(td["observation"])[None]
        step = env.step(td)
        assert not step["next", "terminated"].any()
        td = env.step_mdp(step)
    assert step["next", "truncated"].all()
    assert env.success.all()
    assert 0.5 < step["next", "reward"].item() <= 1
    env.close()
