"""Environments as skrl's and rsl_rl's programs call them; neither library is needed."""

import numpy as np
import pytest
import torch
from env_helpers import random_actions

from rlsuite.envs.tensors import RslRlView, TensorView
from rlsuite.errors import ConfigError


def reference(env, actions):
    """Play by the reset protocol; yield the step's result and the observation that is acted on next."""
    observation = env.reset_tensors()
    yield None, observation
    for action in actions:
        result = env.step_tensors(action)
        done = result.terminated | result.truncated
        yield result, env.reset_tensors(done) if done.any() else result.observation


def test_skrls_view_has_columns_and_resets_by_itself(make):
    inner, plain = (make("Hopper", 3, seed=4, max_episode_steps=20) for _ in range(2))
    view, actions = TensorView(inner), random_actions(inner, 50)
    assert (view.num_envs, view.num_agents, view.state_space) == (3, 1, None)
    assert view.observation_space.shape == (11,) and view.action_space.shape == (3,)
    assert view.unwrapped is view and view.device == torch.device("cpu")
    expected = reference(plain, actions)
    observation, infos = view.reset()
    assert torch.equal(observation, next(expected)[1]) and infos == {}
    ends = 0
    for action, (result, after) in zip(actions, expected, strict=True):
        observation, reward, terminated, truncated, infos = view.step(action)
        assert torch.equal(observation, after) and observation.dtype == torch.float32
        assert torch.equal(infos["final_obs"], result.observation) and infos["valid"].all()
        for column, values in (
            (reward, result.reward),
            (terminated, result.terminated),
            (truncated, result.truncated),
        ):
            assert column.shape == (3, 1)
            assert torch.equal(column.squeeze(-1), values)
        ends += int((terminated | truncated).sum())
    assert ends > 6


def test_a_reset_leaves_alone_what_has_just_begun(make):
    """skrl's trainer resets a single env after its episode, and this view has done so already."""
    view = TensorView(make("Hopper", 1, seed=0, max_episode_steps=2))
    view.reset()
    view.step(torch.zeros(1, 3))
    fresh, _, _, truncated, _ = view.step(torch.zeros(1, 3))
    assert truncated.all()
    assert torch.equal(view.reset()[0], fresh)
    moved = view.step(torch.zeros(1, 3))[0]
    assert not torch.equal(view.reset()[0], moved)


def test_discrete_actions_are_indices(make):
    view = TensorView(make("RiskyGrid", 2, seed=0))
    assert view.action_space.n == 4
    view.reset()
    columns = view.step(torch.tensor([[0], [3]]))
    other = TensorView(make("RiskyGrid", 2, seed=0))
    other.reset()
    assert torch.equal(columns[0], other.step(torch.tensor([0, 3]))[0])
    with pytest.raises(ConfigError, match="continuous actions"):
        RslRlView(make("RiskyGrid", 2))


def test_rsl_rls_runner_finds_what_it_asks_for(make):
    inner, plain = (make("Walker2d", 4, seed=1, max_episode_steps=15) for _ in range(2))
    view, actions = RslRlView(inner), random_actions(inner, 40)
    assert (view.num_envs, view.num_actions, view.max_episode_length) == (4, 6, 15)
    assert view.cfg["env_id"] == "Walker2d-v5"
    expected = reference(plain, actions)
    assert torch.equal(view.get_observations()["policy"], next(expected)[1])
    timed_out = 0
    for action, (result, after) in zip(actions, expected, strict=True):
        observation, reward, done, extras = view.step(action)
        assert observation.batch_size == (4,)
        assert torch.equal(observation["policy"], after)
        assert torch.equal(view.get_observations()["policy"], after)
        assert torch.equal(reward, result.reward) and reward.shape == (4,)
        assert torch.equal(done, (result.terminated | result.truncated).long())
        assert torch.equal(extras["time_outs"], result.truncated & ~result.terminated)
        assert torch.equal(extras["final_obs"]["policy"], result.observation)
        timed_out += int(extras["time_outs"].sum())
    assert timed_out


def test_episodes_may_be_spread_over_their_time_limits(make):
    """What the runner does at the start, so that not all envs end in the same step."""
    view = RslRlView(make("HalfCheetah", 3, max_episode_steps=10))
    view.get_observations()
    view.episode_length_buf = torch.tensor([0, 7, 9])
    ends = torch.stack([view.step(torch.zeros(3, 6))[2] for _ in range(10)])
    assert ends.argmax(0).tolist() == [9, 2, 0]
    np.testing.assert_array_equal(view.episode_length_buf, [0, 7, 9])  # ten steps later: a cycle each
