"""Adroit by D4RL's rules: rewards by hand and from recorded states, ends, and random policies at score 0."""

import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from rlsuite.envs import adroit
from rlsuite.errors import ConfigError
from rlsuite.offline.scores import d4rl_reference

DATA = Path(os.environ.get("RLSUITE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
STILL = np.zeros(30)


def at(*place):
    return np.array(place, dtype=float)


def test_door_by_hand():
    """0.5 m from the handle, the velocity cost of a speed of 3 and 4, and 2, 8 and 10 for opening."""
    speed = np.zeros(30)
    speed[:2] = 3, 4
    assert adroit.door_reward(at(0, 0, 0), at(0.3, 0.4, 0), 0.0, speed) == pytest.approx(
        -0.05 - 0.1 * 1.57**2 - 25e-5
    )
    for hinge, bonus in ((0.2, 0), (0.3, 2), (1.1, 10), (1.36, 20)):
        found = adroit.door_reward(at(0, 0, 0), at(0, 0, 0), hinge, STILL)
        assert found == pytest.approx(bonus - 0.1 * (hinge - 1.57) ** 2)


def test_hammer_by_hand():
    palm, hammer, head, nail = at(0, 0, 0), at(0, 0, 1), at(0, 3, 1), at(0, 3, 3)
    far = adroit.hammer_reward(palm, hammer, head, nail, at(0, 3, 2.5), np.array([3.0, 4.0]))
    assert far == pytest.approx(-0.1 - 2 - 5 - 0.05 + 2)
    lying = adroit.hammer_reward(palm, at(0, 0, 0.03), head, nail, at(0, 3, 2.5), np.array([3.0, 4.0]))
    assert lying == pytest.approx(-0.003 - 2 - 5 - 0.05)
    for depth, bonus in ((0.015, 25), (0.005, 100)):
        found = adroit.hammer_reward(palm, palm, head, head, head + at(0, 0, depth), STILL)
        assert found == pytest.approx(bonus - 10 * depth)


def test_relocate_by_hand():
    palm, ball = at(0, 0, 0), at(0, 0, 1)
    assert adroit.relocate_reward(palm, at(0, 0.5, 0.03), at(0, 0.5, 2)) == pytest.approx(
        -0.1 * np.hypot(0.5, 0.03)
    )
    assert adroit.relocate_reward(palm, ball, at(0, 0, 3)) == pytest.approx(-0.1 + 1 - 1.5 - 1)
    for off, bonus in ((0.08, 10), (0.04, 30)):
        found = adroit.relocate_reward(palm, ball, at(0, 0, 1 + off))
        assert found == pytest.approx(-0.1 + 1 - 0.5 * (1 + off) - 0.5 * off + bonus)


def test_pen_by_hand():
    up, tilted = at(0, 0, 1), at(0, np.sqrt(1 - 0.92**2), 0.92)
    assert adroit.pen_reward(at(0, 0, 0.2), at(0, 0, 0.5), up, at(0, 1, 0)) == pytest.approx((-0.3, 0))
    assert adroit.pen_reward(at(0, 0, 0.2), at(0, 0, 0.2), up, tilted) == pytest.approx((0.92 + 10, 0))
    assert adroit.pen_reward(at(0, 0, 0.2), at(0, 0, 0.2), up, up) == pytest.approx((1 + 60, 0))
    dropped = adroit.pen_reward(at(0, 0, 0.07), at(0, 0, 0.5), up, up)
    assert dropped == (pytest.approx(1 - 0.43 - 5), True)


def test_the_door_of_the_recorded_demonstrations():
    """Every reward is the positions' part less a velocity cost, which joint angles 10 ms apart nearly tell.

    The file has no joint velocities. They are taken from the angles before and after, weighted towards the
    interval that the reward belongs to; the palm's slide is not among the angles.
    """
    h5py = pytest.importorskip("h5py")
    path = DATA / "d4rl" / "door-human-v1.hdf5"
    if not path.exists():
        pytest.skip(f"{path} is not here (set RLSUITE_TEST_DATA)")
    with h5py.File(path) as file:
        observation = file["observations"][:].astype(float)
        reward, ended = file["rewards"][:].astype(float), file["timeouts"][:]
    rows = np.flatnonzero(~(ended | np.roll(ended, 1) | np.roll(ended, -1)))[:-2]
    angles, after = observation[:, :29], observation[rows + 1]
    speed = (0.6 * (angles[rows + 1] - angles[rows]) + 0.4 * (angles[rows + 2] - angles[rows + 1])) / 0.01
    still = np.array([adroit.door_reward(row[29:32], row[32:35], row[28], STILL) for row in after])
    assert len(rows) > 6_000
    assert (reward[rows] <= still).all() and (reward[rows] >= still - 0.025).all()
    off = np.abs(reward[rows] - (still - 1e-5 * (speed**2).sum(1)))
    assert np.median(off) < 5e-5 and np.quantile(off, 0.9) < 1.5e-4
    other_sign = still + 0.2 * np.linalg.norm(after[:, 35:38], axis=1)  # Gymnasium-Robotics' from 1.2.1 on
    assert np.median(other_sign - reward[rows]) > 5e-3


def random_returns(task, episodes):
    env = gymnasium.make(adroit.gym_id(task))
    rng = np.random.default_rng(0)
    returns, lengths, dropped = [], [], []
    for episode in range(episodes):
        env.reset(seed=episode)
        over, total, length = False, 0.0, 0
        while not over:
            _, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_space.shape))
            over, total, length = terminated or truncated, total + reward, length + 1
        returns.append(total)
        lengths.append(length)
        dropped.append(terminated)
    env.close()
    score = d4rl_reference(task.removeprefix("AdroitHand").lower()).score(np.mean(returns))
    return score, np.array(lengths), np.array(dropped)


def check_random(task, episodes):
    score, lengths, dropped = random_returns(task, episodes)
    assert abs(score) <= (3 if task == "AdroitHandPen" else 0.5)
    if task == "AdroitHandPen":
        assert dropped.any() and not dropped.all()
        assert (lengths[~dropped] == 100).all() and (lengths[dropped] <= 100).all()
    else:
        assert not dropped.any() and (lengths == 200).all()


@pytest.mark.parametrize(("task", "episodes"), [(t, 30 if "Pen" in t else 3) for t in adroit.TASKS])
def test_random_actions_score_nothing(task, episodes):
    pytest.importorskip("gymnasium_robotics")
    check_random(task, episodes)


@pytest.mark.long
@pytest.mark.parametrize("task", adroit.TASKS)
def test_random_actions_score_nothing_over_fifty_episodes(task):
    check_random(task, 50)


def test_an_environment_of_the_suite(make):
    pytest.importorskip("gymnasium_robotics")
    env = make("d4rl:AdroitHandPen", 2, seed=3)
    assert env.max_episode_steps == 100
    row = env.reset()
    generator = torch.Generator().manual_seed(0)
    ended = torch.zeros(2, dtype=torch.bool)
    for _ in range(100):
        row["action"] = torch.rand(2, 24, generator=generator) * 2 - 1
        step = env.step(row)
        ended |= step["next", "terminated"].squeeze(-1)
        row = env.maybe_reset(env.step_mdp(step))
    assert ended.any()


def test_another_name_is_refused_with_the_nearest(make):
    with pytest.raises(ConfigError, match="d4rl:AdroitHandDoor"):
        make("d4rl:AdroitHandDor")
