"""The lean step: plain arrays, the same numbers as TorchRL's step, and who owns them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from env_helpers import play, random_actions

from rlsuite.envs.base import StepResult
from rlsuite.envs.clock import EpisodeClock
from rlsuite.envs.mujoco import MujocoEnv
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.tasks.base import load_task
from rlsuite.errors import ConfigError, EnvironmentFailure

KINDS = (
    "HalfCheetah",
    "Hopper",
    "Ant",
    "InvertedPendulum",
    "RiskyPointMass",
    "RiskyGrid",
    "stock:RiskyGrid",
    "discrete:InvertedPendulum",
    "gym:Pendulum-v1",
    "dmc:fish-upright",
    "dmc:finger-turn_easy",
    "dmc:quadruped-walk",
)
OPTIONS = {"stock:RiskyGrid": {"stock_gamma": 1.0}, "discrete:InvertedPendulum": {"discrete_bins": 3}}


def go_on(env, actions, stop=()):
    """Step with arrays by the reset protocol; return all results and the observations that came next."""
    observation, seen = env.reset_arrays(), []
    for step, action in enumerate(actions):
        before = observation.copy()
        result = env.step_arrays(action)
        done = result.terminated | result.truncated
        if step in stop:
            done[0] = True
        observation = env.reset_arrays(done) if done.any() else result.observation
        seen.append((before, result, observation.copy()))
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("env_id", KINDS)
def test_arrays_and_tensors_are_torchrls_numbers(make, env_id, dtype):
    lean, plain, tensors = (
        make(env_id, 3, seed=2, dtype=dtype, max_episode_steps=9, options=OPTIONS.get(env_id))
        for _ in range(3)
    )
    actions = random_actions(lean, 25)
    rows, _ = play(plain, plain.reset(), actions)
    assert torch.equal(tensors.reset_tensors(), rows[0]["observation"])
    resets = 0
    for row, action, (before, result, after) in zip(rows, actions, go_on(lean, actions.numpy()), strict=True):
        other = tensors.step_tensors(action)
        expected = row["next"]
        np.testing.assert_array_equal(before, row["observation"])
        for name in StepResult._fields:
            value = getattr(result, name)
            assert value.dtype == expected[name].numpy().dtype
            np.testing.assert_array_equal(value, expected[name].numpy().reshape(value.shape), name)
            assert torch.equal(getattr(other, name), torch.from_numpy(value)), name
        done = expected["done"].flatten()
        if done.any():
            resets += 1
            np.testing.assert_array_equal(after, tensors.reset_tensors(done))
    assert resets


@pytest.mark.parametrize("env_id", ["HalfCheetah", "gym:Pendulum-v1", "RiskyPointMass"])
def test_results_are_the_callers(make, env_id):
    """Also where no cast separates them from what the simulation reads."""
    clean, dirty = (make(env_id, 2, seed=1, dtype=torch.float64, max_episode_steps=6) for _ in range(2))
    clean.reset_arrays()
    dirty.reset_arrays()[:] = 7.0
    for action in random_actions(clean, 20).numpy():
        given = action.copy()
        left, right = clean.step_arrays(action), dirty.step_arrays(given)
        np.testing.assert_array_equal(given, action)  # and the action is not written to
        for one, other in zip(left, right, strict=True):
            np.testing.assert_array_equal(one, other)
        done = left.terminated | left.truncated
        for values in right:
            values[...] = 1
        given[:] = 9.0
        if done.any():
            fresh = clean.reset_arrays(done), dirty.reset_arrays(done)
            np.testing.assert_array_equal(*fresh)
            fresh[1][:] = 7.0


def test_results_are_written_where_they_are_wanted(make):
    """Into columns of a packed float32 record, flags as 0 and 1."""
    env, other = (make("Hopper", 2, seed=3) for _ in range(2))
    env.reset_arrays(), other.reset_arrays()
    size = env.facts.observation_size
    record = torch.full((2, size + 4), 5.0).numpy()
    columns = StepResult(record[:, :size], *(record[:, size + i] for i in range(4)))
    for action in random_actions(env, 60).numpy():
        given, wanted = env.step_arrays(action, out=columns), other.step_arrays(action)
        assert given is columns
        np.testing.assert_array_equal(record[:, :size], wanted.observation)
        for i, values in enumerate(wanted[1:]):
            np.testing.assert_array_equal(record[:, size + i], values.astype(np.float32))
    assert wanted.terminated.any()


def test_an_outside_hand_ends_one_episode(make):
    env, other = make("HalfCheetah", 2, seed=0), make("HalfCheetah", 2, seed=0)
    actions = random_actions(env, 8).numpy()
    stopped, calm = go_on(env, actions, stop={3}), go_on(other, actions)
    for step in range(8):
        np.testing.assert_array_equal(stopped[step][1].observation[1], calm[step][1].observation[1])
    assert not np.array_equal(stopped[3][2][0], stopped[3][1].observation[0])
    np.testing.assert_array_equal(env.step_counts, [4, 8])


def test_bad_actions_are_refused(make):
    env = make("HalfCheetah", 2)
    env.reset_arrays()
    bad = np.zeros((2, 6), np.float32)
    bad[1, 2] = np.nan
    with pytest.raises(EnvironmentFailure, match=r"NaN in env\(s\) \[1\]"):
        env.step_arrays(bad)
    with pytest.raises(ConfigError, match=r"shape \[6\]; HalfCheetah-v5 takes \[2, 6\]"):
        env.step_arrays(np.zeros(6))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_do_not_fit_are_cut_off_without_a_warning(make, value):
    env = make("dmc:point_mass-easy", 2)
    env.reset_arrays()
    play_one = env._play

    def spoiled(action):
        outcome = play_one(action)
        outcome.observation[1, 0] = value
        return outcome

    env._play = spoiled
    result = env.step_arrays(np.zeros((2, 2)))
    assert result.valid.tolist() == [True, False] == (~result.truncated).tolist()
    assert (result.observation[1] == 0).all() and result.reward[1] == 0
    assert env.nan_resets == 1


@pytest.mark.parametrize("name", ["HalfCheetah", "Humanoid", "Reacher"])
def test_functions_that_know_tensors_only_give_the_same_numbers(name):
    """What packages wrote before the native engine took arrays."""
    task = load_task(name)
    options = EnvOptions(seed=1, dtype=torch.float64, threads=1, max_episode_steps=12)
    arrays, tensors = (MujocoEnv(replace(task, arrays=kind), 2, options) for kind in ("any", "torch"))
    actions = random_actions(arrays, 30).numpy()
    for left, right in zip(go_on(arrays, actions), go_on(tensors, actions), strict=True):
        np.testing.assert_array_equal(left[0], right[0])
        for one, other in zip(left[1], right[1], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-14, atol=1e-14)
    arrays.close(), tensors.close()


def test_a_clock_counts_each_episode():
    clock, counts = EpisodeClock(3, 5), np.zeros(3, np.int64)
    rng = np.random.default_rng(0)
    for step in range(200):
        if step == 77:
            clock.load(counts)
        counts += 1
        np.testing.assert_array_equal(clock.tick(), counts >= 5)
        np.testing.assert_array_equal(clock.counts(), counts)
        mask = (counts >= 5) & (rng.random(3) < 0.7) | (rng.random(3) < 0.1)
        counts[mask] = 0
        clock.restart(mask)
    assert not EpisodeClock(2, None).tick().any()
