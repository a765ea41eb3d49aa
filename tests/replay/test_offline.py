"""Uniform samples of recorded rows, one or many seeds at once, and windows inside episodes."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from rlsuite.replay.batch import columns_of, unpack
from rlsuite.replay.offline import DemonstrationReplay, OfflineReplay, split_where, window_starts


def table(rows):
    steps = torch.arange(rows, dtype=torch.float32)[:, None]
    no = torch.zeros(rows, 1, dtype=torch.bool)
    following = {
        "observation": steps + 1,
        "reward": steps,
        **dict.fromkeys(("terminated", "truncated", "done"), no),
    }
    return TensorDict({"observation": steps, "action": steps, "next": TensorDict(following, [rows])}, [rows])


def replay(rows=10, episodes=((0, 4), (4, 10)), **options):
    return OfflineReplay(table(rows), torch.tensor(episodes), **{"batch_size": 64, **options})


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_samples_are_rows_drawn_with_replacement():
    batch = replay(generator=seeded(0)).sample()
    assert batch.batch_size == (64,)
    assert torch.equal(batch["next", "observation"], batch["observation"] + 1)
    assert set(batch["observation"].squeeze(-1).int().tolist()) == set(range(10))


def test_every_row_is_as_likely_as_any_other():
    counts = torch.bincount(
        replay(batch_size=50_000, generator=seeded(0)).sample()["observation"].int().squeeze(-1)
    )
    assert (counts - 5_000).abs().max() < 5 * (50_000 * 0.1 * 0.9) ** 0.5


def test_seeds_side_by_side_draw_what_each_draws_alone():
    together = replay(generator=(seeded(1), seeded(2)))
    alone = [replay(generator=seeded(seed)) for seed in (1, 2)]
    for _ in range(3):
        batch = together.sample()
        assert batch.batch_size == (2, 64)
        for row, single in zip(batch, alone, strict=True):
            assert torch.equal(row["observation"], single.sample()["observation"])


@pytest.mark.parametrize("column", [("next", "reward"), "action"])
def test_other_data_are_noticed_when_a_run_goes_on(column):
    state = replay().state_dict()
    replay().load(state, iter(()))
    other = replay()
    other.rows[column][3] += 1
    with pytest.raises(ValueError, match="other data"):
        other.load(state, iter(()))


@pytest.mark.parametrize("seeds", [1, 3])
def test_further_columns_come_with_every_batch(seeds):
    plain = table(10)
    rows = table(10)
    rows["next", "action"] = 100 + rows["action"]
    rows["return"] = 200 + rows["action"]
    rows["expert"] = rows["action"] > 4
    generators = [tuple(seeded(seed) for seed in range(seeds)) for _ in range(3)]
    make = functools.partial(OfflineReplay, episodes=torch.tensor([[0, 10]]), batch_size=8, gamma=0.9)
    with_columns, again, without = (
        make(each, generator=streams if seeds > 1 else streams[0])
        for each, streams in zip((rows, rows, plain), generators, strict=True)
    )
    for one, other, sampled in zip(
        with_columns.batches(2), without.batches(2), (again.sample(), again.sample()), strict=True
    ):
        assert torch.equal(one.action, other.action) and other[6:] == (None, None, None)
        assert torch.equal(one.next_action, 100 + one.action)
        assert torch.equal(one.returns, 200 + one.action.squeeze(-1))
        assert torch.equal(one.expert, (one.action.squeeze(-1) > 4).float())
        if seeds == 1:
            assert torch.equal(unpack(sampled, 0.9).returns, one.returns)
            assert torch.equal(unpack(sampled, 0.9).next_action, one.next_action)
            assert torch.equal(unpack(sampled, 0.9).expert, one.expert)
        named = columns_of(one)
        assert torch.equal(named["return"].squeeze(-1), one.returns)
        assert torch.equal(named["next.action"], one.next_action) and "expert" in named


@pytest.mark.parametrize("batch_size", [64, 7])
def test_half_of_a_batch_are_demonstrations(batch_size):
    rows = table(10)
    rows["expert"] = torch.arange(10).unsqueeze(-1) >= 7
    episodes = torch.tensor([[0, 4], [4, 7], [7, 10]])
    make = functools.partial(DemonstrationReplay, rows, episodes, batch_size=batch_size, gamma=0.9)
    half = batch_size // 2
    replays = [make(generator=seeded(0)) for _ in "ab"]
    for one, other in zip([replays[0].batch() for _ in range(20)], replays[1].batches(20), strict=True):
        assert one.expert.tolist() == [0.0] * half + [1.0] * (batch_size - half)
        assert (one.action[:half] < 7).all() and (one.action[half:] >= 7).all()
        assert torch.equal(one.action, other.action)
    together = make(generator=(seeded(1), seeded(2))).batch()
    for seed in (1, 2):
        assert torch.equal(make(generator=seeded(seed)).batch().action, together.action[seed - 1])
    counts = torch.bincount(
        torch.cat([replays[0].batch().action.flatten() for _ in range(2000 // batch_size)]).int()
    )
    assert (counts > 0).all()


def test_a_batch_without_demonstrations_or_without_others_is_refused():
    for marks in ([0] * 10, [1] * 10, [1] * 5 + [0] * 5):
        rows = table(10)
        rows["expert"] = torch.tensor(marks).bool().unsqueeze(-1)
        with pytest.raises(ValueError, match="must be followed by demonstrations"):
            DemonstrationReplay(rows, torch.tensor([[0, 10]]), batch_size=4)


@pytest.mark.parametrize("episodes", [[[0, 4], [5, 10]], [[0, 4], [4, 9]], [[1, 10]]])
def test_episodes_must_cover_the_rows(episodes):
    with pytest.raises(ValueError, match="do not cover 10 rows"):
        replay(episodes=episodes)


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def spans(parts):
    ends = torch.tensor(parts).cumsum(0)
    return torch.stack([ends - torch.tensor(parts), ends], -1)


@settings(max_examples=60, deadline=None)
@given(parts=lengths, horizon=st.integers(1, 5), stride=st.integers(1, 3))
def test_windows_stay_inside_their_episode(parts, horizon, stride):
    expected = [
        start for first, last in spans(parts).tolist() for start in range(first, last - horizon + 1, stride)
    ]
    assert window_starts(spans(parts), horizon, stride).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(data=st.data(), parts=lengths)
def test_goal_changes_split_episodes(data, parts):
    rows = sum(parts)
    goals = data.draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    expected = []
    for first, last in spans(parts).tolist():
        start = first
        for row in range(first + 1, last + 1):
            if row == last or goals[row] != goals[row - 1]:
                expected.append([start, row])
                start = row
    column = torch.tensor(goals)[:, None].float()
    assert split_where(spans(parts), column).tolist() == expected
