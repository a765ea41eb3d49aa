"""Goals of Gymnasium environments: their columns, their rewards, what `info` says of success."""

import gymnasium
import numpy as np
import pytest
import toys  # noqa: F401  # registers gym:ToyGoal-v0

from rlsuite.envs import robotics
from rlsuite.envs.goals import for_all


@pytest.mark.parametrize("options", [{}, {"scalar": True}, {"ends": True}])
def test_goals_stand_where_the_facts_say_and_are_worth_what_the_environment_says(make, options):
    env = make("gym:ToyGoal-v0", 3, options=options)
    goal = env.facts.goal
    assert (goal.achieved, goal.desired) == (slice(1, 3), slice(3, 5))
    pairs = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 20, 2))
    reward, ended = goal.rule(*pairs)
    near = np.linalg.norm(pairs[0] - pairs[1], axis=-1) <= 0.3
    assert 2 < near.sum() < 18
    assert reward.tolist() == [0.0 if here else -1.0 for here in near]
    assert ended.tolist() == (near.tolist() if options.get("ends") else [False] * 20)


def test_what_an_episode_pays_is_what_the_rule_says(make):
    env = make("gym:ToyGoal-v0", 2)
    env.reset_arrays()
    rng = np.random.default_rng(1)
    for _ in range(30):
        result = env.step_arrays(rng.uniform(-1, 1, (2, 2)))
        seen = result.observation.astype(np.float64)
        reward, _ = env.facts.goal.rule(seen[:, 1:3], seen[:, 3:5])
        assert result.reward.tolist() == reward.tolist()
        assert env.success.tolist() == [value == 0 for value in reward]
        if result.truncated.any():
            env.reset_arrays(result.truncated)


def test_the_order_of_keys_moves_the_goals_and_a_missing_one_leaves_none(make):
    keys = ("desired_goal", "observation", "achieved_goal")
    goal = make("gym:ToyGoal-v0", 1, observation_keys=keys).facts.goal
    assert (goal.achieved, goal.desired) == (slice(3, 5), slice(0, 2))
    assert make("gym:ToyGoal-v0", 1, observation_keys=("observation", "achieved_goal")).facts.goal is None
    assert make("gym:ToyReach-v0", 1).facts.goal is None
    assert make("gym:ToyReach-v0", 1).success is None


def test_a_function_that_mixes_pairs_is_asked_pair_by_pair():
    calls = []

    def mixing(achieved, desired, info):
        calls.append(np.shape(achieved))
        return np.linalg.norm(achieved - desired)

    one, two = np.arange(8.0).reshape(4, 2), np.zeros((4, 2))
    assert np.allclose(for_all(mixing, 2)(one, two), np.linalg.norm(one, axis=1))
    assert calls[-4:] == [(2,)] * 4
    calls.clear()

    def apart(achieved, desired, info):
        calls.append(np.shape(achieved))
        return np.abs(achieved - desired).sum(-1)

    ask = for_all(apart, 2)
    for _ in range(2):
        assert np.allclose(ask(one, two), one.sum(1))
    assert calls[-2:] == [(4, 2)] * 2


def test_fetch_is_known_by_its_plain_id_and_can_be_made(make):
    pytest.importorskip("gymnasium_robotics")
    env = make("gym:FetchReach-v4", 1)
    assert robotics.register() and "FetchReach-v4" in gymnasium.registry
    assert env.facts.goal.desired == slice(13, 16) and env.max_episode_steps == 50
    first = env.reset_arrays()
    result = env.step_arrays(np.full((1, 4), 0.5))
    assert env.success.shape == (1,) and result.reward[0] in (0, -1)
    assert (first[:, 13:] == result.observation[:, 13:]).all()
