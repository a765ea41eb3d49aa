"""Our environments under Stable-Baselines3: its DummyVecEnv number by number, its checker, training."""

import importlib
import sys

import gymnasium
import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import rlsuite.gym
from rlsuite.envs.sb3 import SB3VecEnv
from rlsuite.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date")


@pytest.mark.parametrize(("name", "ways"), [("Hopper-v5", {True, False}), ("Humanoid-v4", {False})])
def test_ours_is_sb3s_vector_of_the_original(name, ways):
    """Episodes that fall, and one cut off by the limit."""
    theirs = DummyVecEnv([lambda: gymnasium.make(name, max_episode_steps=30)] * 3)
    ours = SB3VecEnv(name, 3, dtype="float64", infos=True, max_episode_steps=30, threads=1)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert list(ours.seed(7)) == list(theirs.seed(7))
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    rng, low, high = np.random.default_rng(0), ours.action_space.low, ours.action_space.high
    ends = set()  # whether by the time limit
    for _ in range(90):
        action = rng.uniform(low, high, (3, len(low))).astype(np.float32)
        left, right = ours.step(action), theirs.step(action.copy())
        for one, other in zip(left[:3], right[:3], strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        for one, other in zip(left[3], right[3], strict=True):
            assert one.keys() == other.keys()
            np.testing.assert_array_equal(
                one.pop("terminal_observation", None), other.pop("terminal_observation", None)
            )
            np.testing.assert_equal(
                {
                    k: v for k, v in one.items() if k != "distance_from_origin"
                },  # a norm, see test_gymnasium_view
                {k: v for k, v in other.items() if k != "distance_from_origin"},
            )
        for index in np.flatnonzero(left[2]):
            ends.add(bool(left[3][index]["TimeLimit.truncated"]))
    assert ends == ways
    ours.close(), theirs.close()


def test_seeds_of_the_next_reset_are_used_once():
    env = SB3VecEnv("HalfCheetah", 2, threads=1)
    env.seed(3)
    first, second = env.reset(), env.reset()
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    assert not np.array_equal(first, second)
    assert first.dtype == np.float32
    env.close()


def test_attributes_are_of_all_envs_or_kept_for_each():
    env = SB3VecEnv("HalfCheetah", 3, threads=1)
    assert env.get_attr("render_mode") == [None] * 3
    assert env.get_attr("max_episode_steps", indices=[0, 2]) == [1_000] * 2
    env.set_attr("difficulty", 4, indices=1)
    assert env.get_attr("difficulty") == [None, 4, None]
    assert env.has_attr("difficulty") and not env.has_attr("nobody_has_this")
    assert env.env_method("has_wrapper_attr", "max_episode_steps", indices=0) == [True]
    assert env.env_method("get_wrapper_attr", "difficulty") == [None, 4, None]
    assert env.env_is_wrapped(gymnasium.Wrapper, indices=[1]) == [False]
    with pytest.raises(ConfigError, match=r"max_episode_steps belongs to all envs"):
        env.set_attr("max_episode_steps", 5)
    with pytest.raises(ConfigError, match=r'"set_difficulty".*stepped together'):
        env.env_method("set_difficulty", 4)
    assert env.get_images() == [None] * 3
    env.close()


def test_ppo_learns_on_it_for_a_moment():
    env = VecMonitor(SB3VecEnv("InvertedPendulum", 4, threads=1))
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, seed=0, device="cpu")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(512)
    assert model.num_timesteps == 512
    assert len(model.ep_info_buffer) > 10
    assert 3 < np.mean([episode["l"] for episode in model.ep_info_buffer]) < 60
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    env.close()


@pytest.mark.filterwarnings(
    "ignore"
)  # of SB3's about float64 and unbounded actions, which the original gets, too
def test_sb3s_checker_is_content_with_a_single_one():
    rlsuite.gym.register()
    check_env(gymnasium.make("rlsuite/Pusher-v5"), skip_render_check=True)


def test_without_sb3_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.vec_env.base_vec_env", None)
    monkeypatch.delitem(sys.modules, "rlsuite.envs.sb3")
    with pytest.raises(ConfigError, match="pip install stable-baselines3"):
        importlib.import_module("rlsuite.envs.sb3")
