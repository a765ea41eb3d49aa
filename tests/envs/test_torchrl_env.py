"""`torchrl:MODULE:CLASS`: batch sizes [] and [N], keys, ends, seeds, state, and what is refused."""

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from rlsuite.envs.check import check_env
from rlsuite.envs.options import EnvOptions
from rlsuite.errors import ConfigError, EnvironmentFailure

SINGLE, MANY = "torchrl:torchrl_toys:Single", "torchrl:torchrl_toys:Many"


@pytest.mark.parametrize("env_id", [SINGLE, MANY])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_both_batch_sizes_keep_the_contract(make, env_id, num_envs):
    env = make(env_id, num_envs)
    check_env_specs(env, seed=0)
    assert env.batch_size == (num_envs,)
    assert env.observation_spec["observation"].shape == (num_envs, 4)
    assert env.middle == (1.0, 1.0) and env.half_range == (3.0, 3.0)


@pytest.mark.parametrize("env_id", [SINGLE, MANY])
def test_steps_are_those_of_the_original(make, env_id):
    env = make(env_id, 2)
    place = env.reset_arrays()[:, 2:].astype(np.float64)  # keys are in alphabetical order: pace, place
    pace, rng = np.zeros((2, 2)), np.random.default_rng(0)
    for time in range(1, 20):
        action = rng.uniform(-1, 1, (2, 2))
        pace = 0.5 * pace + 0.1 * (1 + 3 * action)
        place = place + pace
        result = env.step_arrays(action)
        assert np.allclose(result.observation, np.concatenate((pace, place), -1), atol=1e-5)
        assert np.allclose(result.reward, pace[:, 0], atol=1e-6)
        assert result.terminated.tolist() == (place[:, 0] > 3).tolist()
        assert result.truncated.tolist() == (env.step_counts >= 6).tolist()
        done = result.terminated | result.truncated
        if time == 3:
            done[0] = True  # one env alone
        if done.any():
            fresh = env.reset_arrays(done)
            assert np.array_equal(fresh[~done], result.observation[~done])
            pace, place = fresh[:, :2].astype(np.float64), fresh[:, 2:].astype(np.float64)


def test_copies_keep_everything_that_is_checked(make):
    assert check_env(SINGLE) == [] and check_env(MANY) == []
    env = make("torchrl:torchrl_toys:Single", 2, options={"truncates": False})
    env.reset_arrays()
    for _ in range(6):
        result = env.step_arrays(np.full((2, 2), -0.3))
    assert (not result.terminated.any() and not result.truncated.any()) or result.truncated.all()


def test_a_saved_batch_begins_new_episodes_and_nothing_is_learnt_between_them(make):
    env, rng = make(MANY, 3, seed=1), np.random.default_rng(0)
    env.reset_arrays()
    for _ in range(4):
        env.step_arrays(rng.uniform(-0.5, 0.5, (3, 2)))
    saved = env.state_dict()
    runs = []
    for seed in (1, 8):
        twin = make(MANY, 3, seed=seed)
        twin.reset_arrays()
        twin.load_state_dict(saved)
        first = twin.step_arrays(np.zeros((3, 2)))
        assert first.truncated.all() and not first.valid.any() and not first.terminated.any()
        assert twin.nan_resets == 0
        begun = twin.reset_arrays(first.truncated)
        second = twin.step_arrays(np.zeros((3, 2)))
        assert second.valid.all() and not second.truncated.any()
        runs.append((begun, second.observation))
    assert np.array_equal(runs[0][0], runs[1][0]) and np.array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][0], make(MANY, 3, seed=1).reset_arrays())


def test_keys_are_chosen_or_the_main_one_is_shown(make):
    assert make("torchrl:torchrl_toys:Shown", 2).facts.observation_size == 2
    env = make("torchrl:torchrl_toys:Shown", 2, observation_keys=("more", "observation"))
    fresh = env.reset_arrays()
    assert (fresh[:, :2] == 0).all() and (fresh[:, 2:] > 0).all()


def test_seeds_follow_the_envs(make):
    three, other = make(SINGLE, 3, seed=5), make(SINGLE, 1, seed=6)
    assert np.array_equal(three.reset_arrays()[1:2], other.reset_arrays())
    assert not np.array_equal(make(MANY, 2, seed=1).reset_arrays(), make(MANY, 2, seed=2).reset_arrays())


@pytest.mark.parametrize(
    ("env_id", "changes", "message"),
    [
        ("torchrl:torchrl_toys", {}, "write torchrl:MODULE:CLASS"),
        ("torchrl:no_such_module:Env", {}, "cannot be imported"),
        ("torchrl:torchrl_toys:Missing", {}, "no TorchRL environment Missing"),
        ("torchrl:torchrl_toys:LENGTH", {}, "no TorchRL environment LENGTH"),
        ("torchrl:torchrl_toys:Fixed", {}, r"batch \[3\] where \[2\]"),
        (MANY, {"options": {"unbounded": True}}, "torchrl_bound=1.0"),
        (MANY, {"options": {"speed": 3}}, "does not take speed"),
        (MANY, {"options": {"torchrl_size": 3}}, "torchrl_"),
        (MANY, {"workers": 2}, "workers are for gym"),
        (MANY, {"observation_keys": ("colour",)}, "no part"),
    ],
)
def test_mistakes_are_one_line(make, env_id, changes, message):
    with pytest.raises((ConfigError, EnvironmentFailure), match=message) as error:
        make(env_id, 2, **changes)
    assert "\n" not in str(error.value)


def test_torchrls_own_pendulum_is_shown_by_its_angle_and_ends_at_a_limit(make):
    options = {"max_episode_steps": 4}
    env = make("torchrl:torchrl.envs:PendulumEnv", 2, options=options, observation_keys=("th", "thdot"))
    first = env.reset_arrays()
    assert first.shape == (2, 2) and env.max_episode_steps == 4
    for step in range(1, 5):
        result = env.step_arrays(np.array([[0.5], [-0.5]]))
        angle = (result.observation[:, 0] - first[:, 0] + np.pi) % (2 * np.pi) - np.pi
        assert np.allclose(angle, 0.05 * result.observation[:, 1], atol=1e-4)
        assert result.truncated.all() == (step == 4)
        first = result.observation


def test_unbounded_actions_can_be_bounded(make):
    env = make(MANY, 2, options={"unbounded": True, "torchrl_bound": 0.5})
    assert env.half_range == (0.5, 0.5)
    assert EnvOptions().step_timeout == 600 and torch.get_default_dtype() == torch.float32
