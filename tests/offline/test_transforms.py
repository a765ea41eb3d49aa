"""What is done to data before learning: pure functions with known answers."""

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
