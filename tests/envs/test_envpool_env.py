"""`envpool:ID` on a stand-in with EnvPool's interface; without EnvPool one line says what is missing."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from rlsuite.errors import ConfigError

LIMIT = 5


class Pool:
    """Walks on a line that answer in an order of their own, and restart at the step after their end."""

    observation_space = spaces.Box(-9, 9, (1,), np.float64)
    action_space = spaces.Box(-2, 2, (1,), np.float32)

    def __init__(self, num_envs, seed, max_episode_steps=LIMIT, **more):
        self.spec = SimpleNamespace(config=SimpleNamespace(max_episode_steps=max_episode_steps))
        self.limit, self.more = max_episode_steps, more
        self.generators = [np.random.default_rng(seed + index) for index in range(num_envs)]
        self.place, self.time = np.zeros(num_envs), np.full(num_envs, max_episode_steps)
        self.open = True

    def reset(self, ids):
        for index in ids:
            self.place[index], self.time[index] = self.generators[index].uniform(), 0
        order = ids[::-1]
        return self.place[order, None].copy(), {"env_id": order}

    def step(self, action):
        assert action.dtype == np.float32 and action.shape == (len(self.place), 1)
        over = self.time >= self.limit
        if over.any():
            self.reset(np.flatnonzero(over))
        old = self.place.copy()
        self.place[~over] += action[~over, 0]
        self.time[~over] += 1
        order = np.roll(np.arange(len(self.place)), 1)
        ends = self.place > 8, self.time >= self.limit
        parts = (self.place[:, None], self.place - old, *ends)
        return (*(part[order].copy() for part in parts), {"env_id": order})

    def close(self):
        self.open = False


@pytest.fixture
def pools(monkeypatch):
    made = []

    def make(task_id, env_type, **arguments):
        assert (task_id, env_type) == ("Walk-v1", "gymnasium")
        made.append(Pool(**arguments))
        return made[-1]

    fake = SimpleNamespace(make=make, list_all_envs=lambda: ["Walk-v1"], __version__="0")
    monkeypatch.setitem(sys.modules, "envpool", fake)
    monkeypatch.setattr("rlsuite.envs.base.package_versions", lambda packages: {})
    return made


def test_envs_step_in_their_order_and_end_with_their_own_observation(make, pools):
    env = make("envpool:Walk-v1", 3, seed=4)
    place = env.reset_arrays()[:, 0].astype(np.float64)
    assert env.max_episode_steps == LIMIT and env.half_range == (2.0,)
    action = np.array([[0.1], [0.2], [-0.3]])
    for step in range(1, 13):
        result = env.step_arrays(action)
        place = place + 2 * action[:, 0]
        assert np.allclose(result.observation[:, 0], place, atol=1e-5)
        assert np.allclose(result.reward, 2 * action[:, 0], atol=1e-6)
        assert result.truncated.all() == (step % LIMIT == 0)
        if result.truncated.any():
            place = env.reset_arrays(result.truncated)[:, 0].astype(np.float64)
            assert (place < 1).all()
    assert [pool.open for pool in pools] == [False, True]
    env.close()
    assert not pools[-1].open


def test_a_seed_gives_its_episodes_and_options_reach_the_pool(make, pools):
    options = {"frame_skip": 2}
    one, two, other = (
        make("envpool:Walk-v1", 2, seed=seed, options=options, threads=1, max_episode_steps=7)
        for seed in (3, 3, 4)
    )
    first = one.reset_arrays()
    assert np.array_equal(first, two.reset_arrays())
    assert not np.array_equal(first, other.reset_arrays())
    assert pools[-1].more == {"frame_skip": 2, "num_threads": 1} and pools[-1].limit == 7
    one.seed_envs([3, 9])
    assert not np.array_equal(first, one.reset_arrays())


def test_a_loaded_state_begins_new_episodes(make, pools):
    env = make("envpool:Walk-v1", 2, seed=4)
    env.reset_arrays()
    env.step_arrays(np.zeros((2, 1)))
    twin = make("envpool:Walk-v1", 2, seed=4)
    twin.load_state_dict(env.state_dict())
    first = twin.step_arrays(np.zeros((2, 1)))
    assert first.truncated.all() and not first.valid.any() and twin.nan_resets == 0
    twin.reset_arrays(first.truncated)
    assert twin.step_arrays(np.zeros((2, 1))).valid.all()


def test_what_is_not_there_is_one_line(make, pools, monkeypatch):
    with pytest.raises(ConfigError, match='Did you mean "envpool:Walk-v1"'):
        make("envpool:Walk-v2", 1)
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ConfigError, match="pip install envpool") as error:
        make("envpool:Walk-v1", 1)
    assert "\n" not in str(error.value)
