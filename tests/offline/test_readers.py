"""Both layouts become the same rows: what is kept, what follows what, where episodes end."""

import json

import h5py
import numpy as np
import pytest
import torch
from offline_helpers import box, episodes_of, flat_columns, shared, write_flat, write_minari

from rlsuite.errors import ConfigError, DataError
from rlsuite.offline import d4rl, data, minari
from rlsuite.offline.d4rl import count_timeouts, read_d4rl
from rlsuite.offline.minari import read_minari

FLAGS = ("terminated", "truncated", "done")


def where(column) -> list[int]:
    return column.squeeze(-1).nonzero().squeeze(-1).tolist()


@pytest.fixture(params=[2, 16_384])
def chunks(request, monkeypatch):
    """Read in pieces of two rows, so that every seam is crossed, and in one."""
    for module in (d4rl, minari, data):
        monkeypatch.setattr(module, "CHUNK_ROWS", request.param)


def test_q_learning_view_of_a_flat_file(tmp_path, chunks):
    columns = flat_columns(7, terminals=[2], timeouts=[5])
    found = read_d4rl(write_flat(tmp_path / "flat.hdf5", **columns))
    observation, following = found.rows["observation"], found.rows["next", "observation"]
    assert observation[:, 0].tolist() == [1, 2, 3, 4, 5]  # row 5 timed out, row 6 is the last
    assert following[:, 0].tolist() == [2, 3, 3, 5, 6]  # row 2's successor belongs to another episode
    assert where(found.rows["next", "terminated"]) == [2]
    assert where(found.rows["next", "done"]) == [2, 4]
    assert found.episodes.tolist() == [[0, 3], [3, 5]]
    assert found.rows["next", "reward"].squeeze(-1).tolist() == [0, 1, 2, 3, 4]
    assert found.standins == 1
    assert all(value.dtype in (torch.float32, torch.bool) for value in found.rows.values(True, True))


def test_a_flat_file_with_successors_loses_no_row(tmp_path, chunks):
    columns = flat_columns(7, terminals=[2], timeouts=[5])
    columns["next_observations"] = columns["observations"] + 0.5
    found = read_d4rl(write_flat(tmp_path / "flat.hdf5", **columns))
    assert torch.equal(found.rows["next", "observation"], found.rows["observation"] + 0.5)
    assert found.episodes.tolist() == [[0, 3], [3, 6], [6, 7]]
    assert where(found.rows["next", "truncated"]) == [5, 6]
    assert found.standins == 0


def test_goals_of_a_flat_file_can_be_part_of_the_observation(tmp_path, chunks):
    goal = np.arange(14, dtype=np.float32).reshape(7, 2)
    path = write_flat(
        tmp_path / "flat.hdf5", **flat_columns(7, terminals=[2], timeouts=[5]), infos__goal=goal
    )
    found = read_d4rl(path, keys=("observations", "infos/goal"))
    columns = found.columns("infos/goal")
    assert found.rows["observation"][:, columns].tolist() == goal[:5].tolist()
    assert found.rows["next", "observation"][:, columns].tolist() == goal[[1, 2, 2, 4, 5]].tolist()
    with pytest.raises(DataError, match="only observations, infos/goal"):
        found.columns("goal")


def test_old_files_without_timeouts_need_the_limit(tmp_path):
    columns = flat_columns(9, terminals=[3])
    columns.pop("timeouts")
    path = write_flat(tmp_path / "old.hdf5", **columns)
    with pytest.raises(DataError, match=r"timeouts: missing.*max_episode_steps"):
        read_d4rl(path)
    found = read_d4rl(path, max_episode_steps=3)
    # a step counter: 0 1 2* 0(terminal) 0 1 2* 0 1(last)
    assert found.rows["observation"][:, 0].tolist() == [1, 2, 4, 5, 6, 8]
    assert found.episodes.tolist() == [[0, 2], [2, 3], [3, 5], [5, 6]]


def test_counted_timeouts_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    for limit in (1, 2, 5):
        terminated = rng.random(40) < 0.2
        expected, count = [], 0
        for ends in terminated:
            expected.append(count == limit - 1)
            count = 0 if ends or expected[-1] else count + 1
        assert count_timeouts(terminated, limit).tolist() == expected


def test_rewards_may_be_a_column_and_flags_numbers(tmp_path):
    columns = flat_columns(5, timeouts=[2])
    columns["rewards"] = columns["rewards"][:, None].astype(np.float64)
    columns["terminals"] = columns["terminals"].astype(np.float32)
    found = read_d4rl(write_flat(tmp_path / "flat.hdf5", **columns))
    assert found.rows["next", "reward"].squeeze(-1).tolist() == [0, 1, 3]


def test_an_episode_of_minari_loses_no_step(tmp_path, chunks):
    episodes = episodes_of([5])
    found = read_minari(write_minari(tmp_path, episodes))
    assert len(found.rows) == 5
    expected = torch.from_numpy(episodes[0]["observations"]).float()
    assert torch.equal(found.rows["observation"], expected[:5])
    assert torch.equal(found.rows["next", "observation"], expected[1:])


def test_episodes_of_minari_are_in_the_order_of_their_numbers(tmp_path, chunks):
    lengths = [4, 6, 1, 2, 1, 1, 3, 1, 1, 2, 1, 5]  # HDF5 lists episode_10 before episode_2
    episodes = episodes_of(lengths)
    found = read_minari(write_minari(tmp_path, episodes))
    assert found.lengths().tolist() == lengths
    sums = [episode["rewards"].sum() for episode in episodes]
    assert found.returns().tolist() == pytest.approx(sums, abs=1e-6)
    actions = np.concatenate([episode["actions"] for episode in episodes])
    assert torch.equal(found.rows["action"], torch.from_numpy(actions))
    assert found.rows["observation"].abs().sum() > 0
    ends = found.rows["next"]
    assert int(ends["truncated"].sum()) == len(lengths) - int(ends["terminated"].sum())
    assert where(ends["done"]) == (found.episodes[:, 1] - 1).tolist()


def test_a_recording_that_stops_is_truncated(tmp_path):
    episodes = episodes_of([3, 2])
    for episode in episodes:
        episode["terminations"][:] = episode["truncations"][:] = False
    found = read_minari(write_minari(tmp_path, episodes))
    assert where(found.rows["next", "truncated"]) == [2, 4]
    assert not found.rows["next", "terminated"].any()


def test_dictionaries_become_columns_state_first(tmp_path):
    keys = ("desired_goal", "zebra", "achieved_goal", "observation", "apple")
    episodes = episodes_of([3, 2], keys=keys, width=2)
    folder = write_minari(tmp_path, episodes)
    found = read_minari(folder)
    order = ["observation", "achieved_goal", "desired_goal", "apple", "zebra"]
    assert [part.key for part in found.parts] == order
    expected = np.concatenate([episodes[0]["observations"][key] for key in order], -1).astype(np.float32)
    assert torch.equal(found.rows["observation"][:3], torch.from_numpy(expected[:3]))
    some = read_minari(folder, keys=("desired_goal", "observation"))
    assert [part.key for part in some.parts] == ["desired_goal", "observation"]
    assert torch.equal(some.rows["observation"][:, 2:], found.rows["observation"][:, :2])
    with pytest.raises(ConfigError, match='no part "goal"; allowed are observation, achieved_goal'):
        read_minari(folder, keys=("goal",))


def test_nested_dictionaries_are_chosen_by_subtree(tmp_path):
    episodes = episodes_of([3], keys=("observation",))
    inner = {"type": "Dict", "subspaces": {"kettle": episodes_box(2), "microwave": episodes_box(1)}}
    space = {"type": "Dict", "subspaces": {"achieved_goal": inner, "observation": episodes_box(3)}}
    kettle, microwave = np.ones((4, 2)), np.full((4, 1), 2.0)
    folder = write_minari(tmp_path, episodes, observation_space=json.dumps(space))
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_0/observations/achieved_goal/kettle"] = kettle
        file["episode_0/observations/achieved_goal/microwave"] = microwave
    found = read_minari(folder)
    assert [part.key for part in found.parts] == [
        "observation",
        "achieved_goal/kettle",
        "achieved_goal/microwave",
    ]
    goal = read_minari(folder, keys=("achieved_goal",))
    assert goal.rows["observation"][0].tolist() == [1, 1, 2]


def episodes_box(width):
    return {"type": "Box", "dtype": "float64", "shape": [width], "low": [-1] * width, "high": [1] * width}


def test_actions_of_other_ranges_are_scaled(tmp_path):
    episodes = episodes_of([4], action=2)
    space = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-0.4, 0.0], "high": [0.4, 2.0]}
    expected = episodes[0]["actions"].copy()
    episodes[0]["actions"] = (expected * np.float32([0.4, 1.0]) + np.float32([0.0, 1.0])).astype(np.float32)
    found = read_minari(write_minari(tmp_path, episodes, action_space=json.dumps(space)))
    assert np.allclose(found.rows["action"].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "env"),
    [
        (
            {"id": "HalfCheetah-v5", "entry_point": "gymnasium.envs.mujoco.half_cheetah_v5:X"},
            "HalfCheetah-v5",
        ),
        (
            {"id": "PointMaze_UMaze-v3", "entry_point": "gymnasium_robotics.envs.maze.point_maze:X"},
            "gym:gymnasium_robotics:PointMaze_UMaze-v3",
        ),
        ({}, None),
    ],
)
def test_the_environment_of_a_data_set(tmp_path, spec, env):
    found = read_minari(write_minari(tmp_path, episodes_of([2]), env_spec=json.dumps(spec)))
    assert found.env == env


def test_human_demonstrations_of_the_door_task():
    found = read_d4rl(shared("d4rl/door-human-v1.hdf5"))
    assert found.rows["observation"].shape == (6_729 - 25, 39)  # each of 25 episodes times out
    assert found.rows["action"].shape[1] == 28
    assert found.rows["action"].abs().max() > 1
    assert len(found.episodes) == 25
    assert not found.rows["next", "terminated"].any()
    assert int(found.rows["next", "truncated"].sum()) == 25
    with h5py.File(found.source) as file:
        rewards, ends = file["rewards"][:], np.flatnonzero(file["timeouts"][:])
    returns = [part.sum() for part in np.split(rewards.astype(np.float64), ends + 1)[:25]]
    assert (round(min(returns)), round(max(returns))) == (230, 1496)
    assert found.returns().tolist() == pytest.approx((returns - rewards[ends]).tolist(), abs=1e-2)


def test_a_picture_that_keys_leave_out_is_no_obstacle(tmp_path):
    picture = {"type": "Box", "dtype": "uint8", "shape": [4, 4, 3], "low": 0, "high": 255}
    space = {"type": "Dict", "subspaces": {"image": picture, "state": box(3), "words": {"type": "Text"}}}
    episodes = episodes_of([3, 4], keys=("state",))
    folder = write_minari(tmp_path, episodes, observation_space=json.dumps(space))
    data = read_minari(folder, keys=["state"])
    assert [(part.key, part.width) for part in data.parts] == [("state", 3)]
    with pytest.raises(DataError, match=r"image has shape \[4, 4, 3\]"):
        read_minari(folder)
    with pytest.raises(DataError, match="words is of type 'Text'"):
        read_minari(folder, keys=["words"])
    with pytest.raises(ConfigError, match="allowed are state"):
        read_minari(folder, keys=["stat"])


def test_an_episode_without_steps_is_named(tmp_path):
    folder = write_minari(tmp_path, episodes_of([3, 0]))
    with pytest.raises(DataError, match="episode_1/actions: found an episode of no steps"):
        read_minari(folder)
