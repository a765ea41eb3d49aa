"""What is done to data before learning: pure functions with known answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from offline_helpers import episodes_of, flat_columns, write_flat, write_minari

from rlsuite.blocks.normalizer import Standardise, identity
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline import transforms
from rlsuite.offline.d4rl import read_d4rl
from rlsuite.offline.load import summary
from rlsuite.offline.minari import read_minari
from rlsuite.offline.transforms import DataOptions, moments, transformed
from rlsuite.replay.offline import OfflineReplay


def test_actions_stay_off_the_bounds():
    clipped = transforms.clip_actions(torch.tensor([-1.37, -1.0, 0.5, 1.0]))
    assert clipped.tolist() == pytest.approx([-0.99999, -0.99999, 0.5, 0.99999], abs=1e-7)
    assert torch.atanh(clipped).isfinite().all()


def test_actions_in_other_units_are_not_clipped_without_a_word(tmp_path, caplog):
    columns = flat_columns(10, timeouts=[4, 9])
    columns["actions"] = np.linspace(-5, 5, 20, dtype=np.float32).reshape(10, 2)  # all but four beyond
    data = read_d4rl(write_flat(tmp_path / "own.hdf5", **columns))
    kept = transformed(data, DataOptions(action_limit=None))
    assert "kept as they are" in caplog.text and kept.rows["action"].abs().max() > 4
    caplog.clear()
    clipped = transformed(data, DataOptions())
    share = transforms.share_beyond(data.rows["action"])
    assert 0.7 < share < 0.9
    assert f"{100 * share:.2g} % of the recorded action numbers are outside [-1, 1]" in caplog.text
    assert "own.hdf5" in caplog.text and "clipped to 0.99999" in caplog.text
    assert clipped.rows["action"].abs().max() < 1
    assert summary(data)["action_beyond_1"] == share


def test_actions_on_the_bounds_are_no_reason_to_warn(tmp_path, caplog):
    columns = flat_columns(10, timeouts=[4, 9])
    columns["actions"] = np.ones((10, 2), np.float32)
    transformed(read_d4rl(write_flat(tmp_path / "own.hdf5", **columns)), DataOptions())
    assert not caplog.text


def test_rewards_of_antmaze_are_0_at_the_goal():
    assert transforms.antmaze_reward(torch.tensor([0.0, 1.0])).tolist() == [-1.0, 0.0]


@pytest.mark.parametrize(("name", "rewards"), [("antmaze10", [-5.0, 5.0]), ("antmaze100", [0.0, 100.0])])
def test_rewards_of_antmaze_for_cql_and_rebrac(tmp_path, name, rewards):
    columns = flat_columns(10, timeouts=[9])
    columns["rewards"] = np.array([0, 1] * 5, np.float32)
    data = transformed(read_d4rl(write_flat(tmp_path / "own.hdf5", **columns)), DataOptions(reward=name))
    assert data.rows["next", "reward"][:2].flatten().tolist() == rewards


def test_returns_of_10_and_60_scale_rewards_by_20():
    reward = torch.tensor([[3.0], [7.0], [60.0]])
    scaled = transforms.locomotion_reward(reward, torch.tensor([10.0, 60.0]))
    assert torch.equal(scaled, 20 * reward)
    with pytest.raises(ValueError, match="2 episodes with returns that span 0"):
        transforms.locomotion_reward(reward, torch.tensor([5.0, 5.0]))


def test_the_data_keep_their_own_rows(tmp_path):
    data = read_minari(write_minari(tmp_path, episodes_of([3, 4])))
    before = data.rows.clone()
    changed = transformed(data, DataOptions(reward="locomotion", action_limit=0.5))
    assert (data.rows == before).all()
    assert changed.rows["action"].abs().max() <= 0.5
    assert changed.rows["observation"].data_ptr() == data.rows["observation"].data_ptr()
    spread = changed.returns()
    assert float(spread.max() - spread.min()) == pytest.approx(1000.0, rel=1e-5)
    assert (transformed(data, DataOptions(action_limit=None)).rows == before).all()


def test_one_episode_gives_no_scale(tmp_path):
    data = read_minari(write_minari(tmp_path, episodes_of([3])))
    with pytest.raises(DataError, match="use another reward transform"):
        transformed(data, DataOptions(reward="locomotion"))


@pytest.mark.parametrize("limit", [0.0, 1.5])
def test_limits_outside_the_range_are_refused(limit):
    with pytest.raises(ConfigError, match="action_limit"):
        DataOptions(action_limit=limit)


def test_standardised_observations_have_mean_0_and_deviation_1():
    rows = (
        torch.randn(1_000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.0]) + 7
    )
    standardise = Standardise(*moments(rows))
    out = standardise(rows)
    assert out.mean(0).tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert out.std(0, correction=0).tolist() == pytest.approx([1, 1, 0], abs=2e-3)
    other = identity(3)
    assert torch.equal(other(rows), rows)
    other.load_state_dict(standardise.state_dict())
    assert torch.equal(other(rows), out)
    with pytest.raises(ValueError, match="positive"):
        Standardise(torch.zeros(2), torch.zeros(2))


def small_data(tmp_path, lengths, *, terminals=(), complete=True, name="data.hdf5"):
    """Episodes with rewards 0, 1, 2, ... and actions 0.01, 0.02, ... by row; cut where not terminated."""
    rows = sum(lengths)
    ends = np.cumsum(lengths) - 1
    columns = flat_columns(rows, terminals=ends[list(terminals)], timeouts=np.delete(ends, list(terminals)))
    columns["actions"] = np.arange(1, rows + 1, dtype=np.float32).repeat(2).reshape(-1, 2) / 100
    if complete:
        columns["next_observations"] = columns["observations"] + 1
    return read_d4rl(write_flat(tmp_path / name, **columns))


def test_next_actions_are_recorded_ones_of_the_same_episode(tmp_path):
    """Rows 0 to 2 terminate, 3 to 6 are cut, 7 alone is cut: rows 6 and 7 have no next action and go."""
    data = small_data(tmp_path, [3, 4, 1], terminals=[0])
    before = data.rows.clone()
    found = transformed(data, DataOptions(next_action=True))
    action, next_action = found.rows["action"][:, 0], found.rows["next", "action"][:, 0]
    assert action.tolist() == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert next_action.tolist() == pytest.approx([0.02, 0.03, 0.0, 0.05, 0.06, 0.07])
    assert found.episodes.tolist() == [[0, 3], [3, 6]]
    assert found.rows["next", "terminated"].flatten().nonzero().flatten().tolist() == [2]
    assert found.rows["next", "truncated"].flatten().nonzero().flatten().tolist() == [5]
    assert found.rows["next", "done"].flatten().nonzero().flatten().tolist() == [2, 5]
    assert (data.rows == before).all() and ("next", "action") not in data.rows.keys(True)
    OfflineReplay(found.rows, found.episodes, batch_size=2)


def test_data_without_any_next_action_are_refused(tmp_path):
    with pytest.raises(DataError, match="no transition is left"):
        transforms.with_next_actions(small_data(tmp_path, [1, 1]))


def test_returns_to_go_by_hand(tmp_path):
    data = small_data(tmp_path, [3, 2], terminals=[0])
    found = transformed(data, DataOptions(return_gamma=0.5, next_action=True))
    # rewards 0 1 2 | 3 4; the return of row 3 keeps the reward of row 4, which has no next action
    assert found.rows["return"].flatten().tolist() == [1.0, 2.0, 2.0, 5.0]
    shifted = transformed(data, DataOptions(return_gamma=1.0, reward="antmaze"))
    assert shifted.rows["return"].flatten().tolist() == [0.0, 1.0, 1.0, 5.0, 3.0]
    assert "return" not in list(transformed(data, DataOptions()).rows.keys())


def test_returns_of_failed_episodes_go_on_for_ever():
    """Rewards -5 and, at the goal, 5: the second episode fails and is worth -5 / (1 - 0.99) everywhere."""
    reward = torch.tensor([-5.0, 5.0, -5.0, -5.0]).unsqueeze(-1)
    episodes = torch.tensor([[0, 2], [2, 4]])
    found = transforms.returns_to_go(reward, episodes, 0.99, failure_reward=-5.0)
    assert found.flatten().tolist() == pytest.approx([-5 + 0.99 * 5, 5, -500, -500])
    with pytest.raises(ConfigError, match="failure_reward"):
        DataOptions(failure_reward=-5.0)


def corl_rows(reward, done, fraction, gamma, limit):
    """The rows that CORL's 10%BC keeps: trajectories end at a terminal or at the limit, best first."""
    paths, returns, rows = [], [], []
    for row in range(len(reward)):
        rows.append(row)
        if done[row] or len(rows) == limit:
            paths.append(rows)
            returns.append(sum(gamma**k * reward[r] for k, r in enumerate(rows)))
            rows = []
    best = np.argsort(returns)[::-1][: max(1, int(fraction * len(returns)))]
    return sorted(row for index in best for row in paths[index])


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 1.0])
def test_the_best_episodes_are_those_of_corl(tmp_path, fraction):
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 12, 40)
    ends = np.cumsum(lengths) - 1
    columns = flat_columns(int(ends[-1]) + 1, terminals=ends)
    columns["rewards"] = rng.normal(size=ends[-1] + 1).astype(np.float32)
    columns["next_observations"] = columns["observations"] + 1
    data = read_d4rl(write_flat(tmp_path / "best.hdf5", **columns))
    found = transforms.best_episodes(data, fraction)
    wanted = corl_rows(columns["rewards"].astype(float), columns["terminals"], fraction, 0.99, 1000)
    assert (found.rows["observation"][:, 0] - 1).int().tolist() == wanted
    assert len(found.episodes) == max(1, int(fraction * 40))
    assert int(found.lengths().sum()) == len(wanted)
    OfflineReplay(found.rows, found.episodes, batch_size=2)


def test_a_cut_episode_is_ranked_and_kept_whole(tmp_path):
    found = transforms.best_episodes(small_data(tmp_path, [5, 3, 4]), 0.4)
    assert found.rows["next", "reward"].flatten().tolist() == [8.0, 9.0, 10.0, 11.0]
    assert found.rows["next", "truncated"].flatten().tolist() == [False] * 3 + [True]


def test_demonstrations_of_another_task_are_refused(tmp_path):
    data = read_d4rl(write_flat(tmp_path / "data.hdf5", **flat_columns(20, timeouts=[9, 19])))
    hopper, other = replace(data, env="d4rl:Hopper"), replace(data, env="Hopper-v5")
    assert len(transforms.with_demonstrations(hopper, other).rows) == 2 * len(data.rows)
    assert len(transforms.with_demonstrations(hopper, data).rows) == 2 * len(data.rows)  # it does not say
    with pytest.raises(ConfigError, match=r"is of PointMaze_UMaze-v3, .* of d4rl:Hopper"):
        transforms.with_demonstrations(hopper, replace(data, env="PointMaze_UMaze-v3"))
