"""Data of our own making: PointMaze's facts, rollouts, replays, mixtures, and what the recipe says."""

import itertools
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from offline_helpers import shared

from rlsuite.envs.flatten import FIRST_KEYS, FlatObservation
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline import pointmaze
from rlsuite.offline.collect import episodes_of_replay, noisy, record, spaces_of_env, uniform
from rlsuite.offline.make import mixture_source, pointmaze_source, replay_source, rollout_source, save
from rlsuite.offline.minari import read_minari
from rlsuite.offline.names import recipe
from rlsuite.offline.policyfile import PolicyFile
from rlsuite.replay.offline import split_where

RADIUS = 0.45  # metres, of success in Gymnasium-Robotics' PointMaze


@pytest.fixture(scope="module")
def maze_episodes():
    return list(pointmaze.record("umaze", 3_000, seed=1))


def test_pointmaze_changes_goals_and_ends_episodes_at_them(maze_episodes):
    successes = sum(int(episode.rewards.sum()) for episode in maze_episodes)
    assert sum(map(len, maze_episodes)) == 3_000
    assert len(maze_episodes) in (successes, successes + 1)
    assert successes > 20
    goals = {tuple(episode.observations["desired_goal"][-1]) for episode in maze_episodes}
    assert len(goals) == len(maze_episodes)
    for episode in maze_episodes:
        seen = episode.observations
        distance = np.linalg.norm(seen["achieved_goal"][1:] - seen["desired_goal"][1:], axis=-1)
        assert np.array_equal(episode.rewards == 1, distance <= RADIUS)
        assert (
            seen["desired_goal"] == seen["desired_goal"][0]
        ).all()  # the first row has the new goal already
        assert not episode.terminations.any()
        assert np.flatnonzero(episode.truncations).tolist() == [len(episode) - 1]
        assert np.abs(episode.actions).max() <= 1
        assert np.array_equal(seen["observation"][:, :2], seen["achieved_goal"])


def test_pointmaze_goes_on_where_it_was(maze_episodes):
    for one, following in itertools.pairwise(maze_episodes):
        assert np.array_equal(one.observations["observation"][-1], following.observations["observation"][0])


def test_pointmaze_repeats_with_its_seed(maze_episodes):
    again = next(pointmaze.record("umaze", 3_000, seed=1))
    other = next(pointmaze.record("umaze", 300, seed=2))
    assert np.array_equal(again.actions, maze_episodes[0].actions)
    assert not np.array_equal(other.actions[:5], again.actions[:5])


def test_dense_rewards_are_the_exponential_of_the_distance():
    episode = next(pointmaze.record("open", 200, dense=True, seed=0))
    seen = episode.observations
    distance = np.linalg.norm(seen["achieved_goal"][1:] - seen["desired_goal"][1:], axis=-1)
    assert episode.rewards == pytest.approx(np.exp(-distance))


CORRIDOR = ((1, 1, 1, 1, 1), (1, 0, 0, 0, 1), (1, 1, 1, 0, 1), (1, 0, 0, 0, 1), (1, 1, 1, 1, 1))


def test_the_plan_is_a_shortest_way():
    steps = pointmaze.plan(CORRIDOR, (3, 1))
    way, cell = [], (1, 1)
    while cell != (3, 1):
        cell = steps[cell]
        way.append(cell)
    assert way == [(1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]


def test_the_longest_way_of_the_largest_maze_is_within_the_sweeps():
    import gymnasium_robotics.envs.maze.maps as maps

    maze = tuple(tuple(row) for row in maps.LARGE_MAZE)
    free = [(r, c) for r, row in enumerate(maze) for c, cell in enumerate(row) if cell == 0]
    for goal in free:
        steps = pointmaze.plan(maze, goal)
        for start in free:
            cell, length = start, 0
            while cell != goal and length <= pointmaze.SWEEPS:
                cell, length = steps[cell], length + 1
            assert cell == goal, (start, goal)


def test_the_controller_does_better_than_chance():
    low, high, noisy = pointmaze.reference_returns("umaze", dense=False, episodes=3, seed=0)
    assert low < 100 < high <= 300
    assert low < noisy < 300 and noisy != high


def test_a_pointmaze_set_says_how_it_was_made(tmp_path, monkeypatch):
    source = pointmaze_source(recipe("pointmaze/umaze"), 400, 3, episodes=2)
    made = save(
        source, recipe("pointmaze/umaze"), tmp_path, layout="minari", command="rlsuite data make x", seed=3
    )
    data = read_minari(made.path)
    assert data.name == "rlsuite/pointmaze/umaze-v0"
    assert data.env == "gym:gymnasium_robotics:PointMaze_UMaze-v3"
    assert (data.recipe["command"], data.recipe["seed"]) == ("rlsuite data make x", 3)
    assert data.recipe["versions"]["gymnasium-robotics"]
    assert data.behaviour_return() == data.recipe["policy"]["return_when_evaluated"] > 0
    assert data.recipe["behaviour"]["return_mean"] == 1.0
    assert data.reference.low < data.reference.high
    goal = data.rows["observation"][:, data.columns("desired_goal")]
    assert torch.equal(split_where(data.episodes, goal), data.episodes)
    # The environment shows what the data hold, column by column.
    env = make_env(data.env, 1)
    assert env.observation_spec["observation"].shape[-1] == sum(part.width for part in data.parts)
    env.close()


def test_the_environment_shows_dictionaries_in_the_order_of_the_data():
    env = make_env("gym:gymnasium_robotics:PointMaze_UMaze-v3", 2, seed=0)
    some = make_env(
        "gym:gymnasium_robotics:PointMaze_UMaze-v3",
        2,
        seed=0,
        observation_keys=("desired_goal", "observation"),
    )
    everything, chosen = env.reset()["observation"], some.reset()["observation"]
    assert torch.equal(everything[:, :2], everything[:, 4:6])  # the state's position is the achieved goal
    assert torch.equal(chosen, torch.cat([everything[:, 6:], everything[:, :4]], -1))
    for wrong in (("goal",), ("observation/x",)):
        with pytest.raises(ConfigError, match="no part"):
            make_env("gym:gymnasium_robotics:PointMaze_UMaze-v3", observation_keys=wrong)
    with pytest.raises(ConfigError, match="no parts to choose from"):
        make_env("gym:Pendulum-v1", observation_keys=("observation",))
    with pytest.raises(ConfigError, match="observation_keys are for gym:"):
        make_env("Hopper", observation_keys=("observation",))
    env.close()
    some.close()


def test_nested_dictionaries_become_vectors():
    import gymnasium
    from gymnasium import spaces

    class Kitchen(gymnasium.Env):
        observation_space = spaces.Dict(
            {
                "observation": spaces.Box(0, 1, (2,)),
                "achieved_goal": spaces.Dict({"b": spaces.Box(0, 1, (1,)), "a": spaces.Box(0, 1, (1,))}),
            }
        )
        action_space = spaces.Box(-1, 1, (1,))

    seen = {"observation": np.float32([1, 2]), "achieved_goal": {"a": np.float32([3]), "b": np.float32([4])}}
    assert FlatObservation(Kitchen()).observation(seen).tolist() == [1, 2, 3, 4]
    assert FlatObservation(Kitchen(), ("achieved_goal/b", "observation")).observation(seen).tolist() == [
        4,
        1,
        2,
    ]
    assert FIRST_KEYS[0] == "observation"


# Rollouts and replays ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hopper():
    env = make_env("Hopper", 8, seed=0, threads=1)
    yield env
    env.close()


def play(env, steps=240, seed=5):
    return record(env, uniform(env, torch.Generator().manual_seed(seed)), steps, seed=seed)


def columns(replay):
    return dict(replay.stored.flatten_keys("/").items())


def test_a_recording_has_every_step_once_and_true_successors(hopper):
    replay = play(hopper, 235)
    episodes = list(episodes_of_replay(columns(replay), total=replay.total, env=hopper, num_envs=8))
    assert sum(map(len, episodes)) == 240  # rounded up to whole vector steps
    rewards = sorted(float(reward) for episode in episodes for reward in episode.rewards)
    assert rewards == sorted(replay.stored["next", "reward"].flatten().tolist())
    for episode in episodes:
        assert len(episode.observations) == len(episode) + 1
        ends = episode.terminations | episode.truncations
        assert np.flatnonzero(ends).tolist() == [len(episode) - 1]
        assert episode.whole == bool(episode.terminations[-1])
    assert 0 < sum(episode.whole for episode in episodes) < len(episodes)


def test_recordings_repeat_with_their_seed(hopper):
    assert torch.equal(play(hopper).stored["observation"], play(hopper).stored["observation"])
    assert not torch.equal(play(hopper).stored["action"], play(hopper, seed=6).stored["action"])


def test_episodes_of_a_ring_that_forgot_its_beginning():
    worlds, size, total = 2, 6, 10  # 5 vector steps into a ring of 3
    rows = {
        "observation": torch.zeros(size, 1),
        "action": torch.zeros(size, 1),
        "valid": torch.ones(size, 1, dtype=torch.bool),
        "next/observation": torch.zeros(size, 1),
        "next/reward": torch.zeros(size, 1),
        "next/terminated": torch.zeros(size, 1, dtype=torch.bool),
        "next/truncated": torch.zeros(size, 1, dtype=torch.bool),
    }
    for time in range(5):
        for world in range(worlds):
            row = (time * worlds + world) % size
            rows["observation"][row] = 10 * time + world
            rows["next/observation"][row] = 10 * (time + 1) + world
            rows["next/terminated"][row] = time == 3 and world == 0

    class Env:
        half_range, middle = (2.0,), (1.0,)

    found = list(episodes_of_replay(rows, total=total, env=Env(), num_envs=worlds))
    assert [episode.observations.flatten().tolist() for episode in found] == [
        [20, 30, 40],
        [40, 50],
        [21, 31, 41, 51],
    ]
    assert [episode.whole for episode in found] == [False, False, False]
    assert [bool(episode.truncations[-1]) for episode in found] == [False, True, True]
    assert found[0].actions.tolist() == [[1.0], [1.0]]
    rows["valid"][4] = False  # time 2, world 0
    found = list(episodes_of_replay(rows, total=total, env=Env(), num_envs=worlds))
    assert [episode.observations.flatten().tolist() for episode in found][:2] == [[30, 40], [40, 50]]
    with pytest.raises(DataError, match="6 rows, expected a multiple of its 4 worlds"):
        list(episodes_of_replay(rows, total=total, env=Env(), num_envs=4))
    del rows["valid"]
    with pytest.raises(DataError, match="no column valid"):
        list(episodes_of_replay(rows, total=total, env=Env(), num_envs=2))


def test_actions_are_kept_in_the_units_of_the_environment(tmp_path):
    env = make_env("InvertedPendulum", 4, seed=0, threads=1)  # forces up to 3
    source = rollout_source(env, None, 80, seed=0, policy={"name": "uniform"})
    made = save(source, recipe("invertedpendulum/random"), tmp_path, layout="minari", command="", seed=0)
    data = read_minari(made.path)
    replay = play(env, 80, seed=0)
    env.close()
    assert data.env == "InvertedPendulum-v5"
    assert json.loads(data.metadata["action_space"])["high"] == [3.0]
    assert sorted(data.rows["action"].flatten().tolist()) == pytest.approx(
        sorted(replay.stored["action"].flatten().tolist()), abs=1e-6
    )


def test_noise_has_its_deviation_and_stays_in_range():
    act = noisy(lambda seen: torch.zeros(len(seen), 2), 0.3, torch.Generator().manual_seed(0))
    drawn = act(torch.zeros(20_000, 1))
    assert drawn.std().item() == pytest.approx(0.3, abs=0.01)
    assert drawn.abs().max() <= 1


def test_a_mixture_has_equal_parts_and_names_them(hopper, tmp_path):
    parts = []
    for seed, kind in ((1, "random"), (2, "medium")):
        source = rollout_source(hopper, None, 160, seed=seed, policy={"name": kind})
        made = save(source, recipe(f"hopper/{kind}"), tmp_path, layout="minari", command="", seed=seed)
        parts.append(read_minari(made.path))
    chosen = recipe("hopper/medium-expert")
    made = save(mixture_source(parts, "Hopper", 100), chosen, tmp_path, layout="minari", command="", seed=0)
    mixed = read_minari(made.path)
    assert len(mixed.rows) == 100
    assert torch.equal(mixed.rows["action"][:50], parts[0].rows["action"][:50])
    assert torch.equal(mixed.rows["action"][50:], parts[1].rows["action"][:50])
    assert mixed.recipe["policy"]["parts"] == [part.name for part in parts]
    with pytest.raises(ConfigError, match="at least two"):
        mixture_source(parts[:1], "Hopper")
    with pytest.raises(ConfigError, match="160 steps, 500 were asked for"):
        mixture_source(parts, "Hopper", 1_000)
    maze = pointmaze_source(recipe("pointmaze/umaze"), 50, 0, episodes=1)
    other = read_minari(
        save(maze, recipe("pointmaze/umaze"), tmp_path, layout="minari", command="", seed=0).path
    )
    with pytest.raises(ConfigError, match="different shapes"):
        mixture_source([parts[0], other], "Hopper")


def test_a_replay_becomes_a_data_set(hopper, tmp_path):
    replay = play(hopper, 320)
    source = replay_source(
        columns(replay), total=replay.total, num_envs=8, env=hopper, policy={"name": "sac"}, steps=200
    )
    made = save(source, recipe("hopper/medium-replay"), tmp_path, layout="d4rl", command="", seed=0)
    assert made.path.name == "hopper-medium-replay-v0.hdf5"
    assert made.tally.steps == 200
    assert made.behaviour["d4rl_score"] == pytest.approx(1, abs=2)  # random actions score next to nothing


def test_spaces_name_gymnasiums_environment(hopper):
    spec = json.loads(spaces_of_env(hopper).env_spec)
    assert spec["id"] == "Hopper-v5"


# Policy files --------------------------------------------------------------------------------------------


def layers(observation=3, action=2, width=4):
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "latent_pi.0": (width, observation),
        "latent_pi.2": (width, width),
        "mu": (action, width),
        "log_std": (action, width),
    }
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator)
        tensors[f"{name}.bias"] = torch.zeros(shape[0])
    return tensors


def test_a_policy_file_acts_like_its_network(tmp_path):
    tensors = layers()
    safetensors.torch.save_file(tensors, tmp_path / "policy.safetensors")
    policy = PolicyFile(tmp_path / "policy.safetensors")
    seen = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    hidden = (seen @ tensors["latent_pi.0.weight"].T).relu()
    hidden = (hidden @ tensors["latent_pi.2.weight"].T).relu()
    assert torch.allclose(policy.mean(seen), (hidden @ tensors["mu.weight"].T).tanh(), atol=1e-6)
    draws = torch.stack([policy.sample(seen, torch.Generator().manual_seed(s)).atanh() for s in range(4_000)])
    assert torch.allclose(draws.mean(0).tanh(), policy.mean(seen), atol=0.2)
    assert (policy.observation, policy.action, len(policy.sha256)) == (3, 2, 64)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop("mu.bias"), "mu: missing"),
        (lambda t: t.update({"mu.weight": torch.zeros(2, 9)}), "do not fit each other"),
        (lambda t: t.update({"mu.weight": torch.zeros(2)}), "expected a matrix"),
        (
            lambda t: t.update({"log_std.weight": torch.zeros(3, 4), "log_std.bias": torch.zeros(3)}),
            "do not fit",
        ),
    ],
)
def test_policy_files_that_do_not_fit(tmp_path, change, expected):
    tensors = layers()
    change(tensors)
    safetensors.torch.save_file(tensors, tmp_path / "policy.safetensors")
    with pytest.raises(DataError, match=expected):
        PolicyFile(tmp_path / "policy.safetensors")


def test_a_file_that_is_no_policy(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(DataError, match="not a safetensors file"):
        PolicyFile(tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="cannot be read"):
        PolicyFile(tmp_path / "none.safetensors")


def test_a_published_policy_walks():
    policy = PolicyFile(shared("policies/Hopper-tqc.safetensors"))
    env = make_env("Hopper", 4, seed=0, threads=1)
    replay = record(env, policy.mean, 1_200, seed=0)
    env.close()
    # 300 steps upright in every world; random actions fall after about 20
    assert not replay.stored["next", "terminated"].any()
    assert replay.stored["next", "reward"].mean() > 2.5
