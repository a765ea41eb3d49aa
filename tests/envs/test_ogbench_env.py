"""OGBench's environments: names taken apart, episodes from their seed alone, goals, what they refuse."""

import numpy as np
import pytest

from rlsuite.envs import ogbench
from rlsuite.envs.ogbench_names import ENVS, Name, find_recordings, parse
from rlsuite.errors import ConfigError
from rlsuite.presets import load_preset


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pointmaze-medium-navigate-singletask-task1-v0", Name("pointmaze-medium", "navigate", 1)),
        ("cube-single-singletask-v0", Name("cube-single", "", 0)),
        ("puzzle-4x4-noisy-v0", Name("puzzle-4x4", "noisy", None)),
        ("scene", Name("scene", "", None)),
    ],
)
def test_names_are_taken_apart_and_put_together(text, name):
    assert parse(text) == name
    assert parse(name.gym_id)._replace(dataset_type=name.dataset_type) == name
    if name.dataset_type:
        assert find_recordings(name.dataset) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cube-singel-v0", 'Did you mean "ogbench:cube-single-v0"'),
        ("cube-single-singletask-task6-v0", "tasks are 1 to 5"),
        ("visual-cube-single-v0", "shows pictures: agents here need vectors"),
        ("cube-single-v1", "is not an environment"),
    ],
)
def test_names_that_are_none_are_refused(make, text, message):
    with pytest.raises(ConfigError, match=message):
        make(f"ogbench:{text}")


def test_every_name_is_one_of_ogbenchs_own():
    import gymnasium

    ogbench.load()
    for env in ENVS:
        for task in (None, 0, 5):
            own, ours = (gymnasium.spec(f"{head}{Name(env, task=task).gym_id}") for head in ("", "ogbench/"))
            assert own.max_episode_steps == ours.max_episode_steps


@pytest.mark.parametrize("env_id", ["pointmaze-teleport-v0", "cube-single-singletask-v0"])
def test_an_episode_depends_on_its_seed_alone(make, env_id):
    """Though numpy's global generator moved, and another copy was played in between; to the bit."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, 1, 5 if "cube" in env_id else 2))

    def played(before: int) -> np.ndarray:
        env = make(f"ogbench:{env_id}", 1, seed=7)
        np.random.seed(before)
        np.random.random(before)
        seen = [env.reset_arrays()]
        seen += [env.step_arrays(action).observation for action in actions]
        env.close()
        return np.concatenate(seen)

    first = played(1)
    assert np.array_equal(first, played(5))
    assert len(np.unique(first, axis=0)) == len(first)


def test_the_global_generator_is_left_as_it_was(make):
    np.random.seed(3)
    expected = np.random.RandomState(3).random(4)
    env = make("ogbench:pointmaze-medium-v0", 2, seed=0)
    env.reset_arrays()
    env.step_arrays(np.zeros((2, 2)))
    assert np.array_equal(np.random.random(4), expected)


def test_a_single_task_pays_minus_one_until_solved_and_ends_there(make):
    """The reward is of the state before the action, as OGBench's rewards of recorded data are."""
    env = make("ogbench:pointmaze-medium-singletask-task3-v0", 1, seed=0)
    env.reset_arrays()
    maze = env._copies.envs[0].unwrapped
    result = env.step_arrays(np.zeros((1, 2)))
    assert (result.reward.item(), env.success.item(), result.terminated.item()) == (-1.0, False, False)
    maze.set_xy(np.array(maze.cur_goal_xy))
    result = env.step_arrays(np.zeros((1, 2)))
    assert (result.reward.item(), env.success.item(), result.terminated.item()) == (0.0, True, True)


def test_a_goal_conditioned_environment_shows_the_goal_and_draws_tasks(make):
    env = make("ogbench:pointmaze-medium-navigate-v0", 40, seed=0)
    seen = env.reset_arrays()
    mazes = [copy.unwrapped for copy in env._copies.envs]
    goals = np.array([maze.cur_goal_xy for maze in mazes], np.float32)
    assert np.allclose(seen[:, 2:], goals)
    assert {maze.cur_task_id for maze in mazes} == {1, 2, 3, 4, 5}
    fixed = make("ogbench:pointmaze-medium-v0", 3, seed=0, options={"task_id": 4})
    fixed.reset_arrays()
    assert {copy.unwrapped.cur_task_id for copy in fixed._copies.envs} == {4}
    with pytest.raises(ConfigError, match="task_id = 6: 1 to 5"):
        make("ogbench:pointmaze-medium-v0", options={"task_id": 6})


def test_presets_of_d4rls_antmaze_are_not_ogbenchs():
    d4rl, _ = load_preset("iql", "default", "", "antmaze-large-play-v2")
    ours, agent = load_preset("iql", "default", "", "ogbench/antmaze-large-navigate-v0")
    assert d4rl["reward"] == "antmaze"
    assert "reward" not in ours
    assert agent["expectile"] == 0.9
    assert load_preset("iql", "default", "", "/data/antmaze-large-navigate-v0.npz") == (ours, agent)
