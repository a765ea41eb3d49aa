"""Windows of recorded episodes and their priorities."""

import pytest
import torch
from tensordict import TensorDict

from rlsuite.replay.offline import split_where
from rlsuite.replay.priority import BLOCK, Priorities
from rlsuite.replay.windows import WindowReplay

LENGTHS = (7, 3, 12)


def recorded(goal=None):
    """Episodes whose observation counts the rows; the second one terminates."""
    count = sum(LENGTHS)
    number = torch.arange(count, dtype=torch.float32).unsqueeze(-1)
    edges = torch.tensor([0, *LENGTHS]).cumsum(0)
    terminated = torch.zeros(count, 1, dtype=torch.bool)
    terminated[int(edges[2]) - 1] = True
    following = {"observation": number + 1, "reward": torch.ones(count, 1), "terminated": terminated}
    rows = {"observation": number, "action": -number, "next": TensorDict(following, [count])}
    return TensorDict(rows, [count]), torch.stack((edges[:-1], edges[1:]), -1)


def replay(horizon=4, **fields):
    rows, episodes = recorded()
    g = torch.Generator().manual_seed(0)
    return WindowReplay(rows, episodes, horizon=horizon, batch_size=8, **{"generator": g, **fields})


def test_windows_stay_inside_their_segment():
    data = replay()
    assert len(data) == sum(LENGTHS)  # every row begins one
    assert data.lengths.tolist() == [4, 4, 4, 4, 3, 2, 1, 3, 2, 1, *[4] * 9, 3, 2, 1]
    whole = replay(short=False)
    assert whole.starts.tolist() == [0, 1, 2, 3, *range(10, 19)]
    assert (whole.lengths == 4).all()
    assert replay(stride=5).starts.tolist() == [0, 5, 7, 10, 15, 20]
    with pytest.raises(ValueError, match="13 rows"):
        replay(horizon=13, short=False)


def test_windows_stop_where_the_goal_changes():
    rows, episodes = recorded()
    goal = torch.zeros(len(rows), 2)
    goal[3:7, 1] = 1.0
    segments = split_where(episodes, goal)
    data = WindowReplay(rows, episodes, segments=segments, horizon=4, batch_size=8)
    assert data.lengths[:7].tolist() == [3, 2, 1, 4, 3, 2, 1]
    steps = data.steps(torch.arange(len(data)))
    ends = data.starts + data.lengths
    of = torch.searchsorted(segments[:, 0].contiguous(), data.starts, right=True) - 1
    assert (ends <= segments[of, 1]).all()
    assert torch.equal(steps["next", "observation"].squeeze(-1), ends.float())


def test_a_window_has_one_state_more_than_actions():
    data = replay()
    found = data.steps(torch.tensor([0, 5]))
    assert found["observation"].squeeze(-1).tolist() == [[0, 1, 2, 3], [5, 6, 6, 6]]
    assert found["mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert found["next", "observation"].flatten().tolist() == [4, 7]  # s_(t + H), not the last inside
    assert torch.equal(found["action"], -found["observation"])
    ends = data.ends(torch.tensor([0, 5]))
    assert ends["observation"].flatten().tolist() == [0, 5]
    assert ends["next", "observation"].flatten().tolist() == [4, 7]


@pytest.mark.parametrize(("horizon", "expected"), [(10, 9.777974), (20, 19.077904), (30, 27.923162)])
def test_returns_of_ones(horizon, expected):
    count = 40
    number = torch.zeros(count, 1)
    following = {"observation": number, "reward": number + 1, "terminated": number.bool()}
    rows = TensorDict(
        {"observation": number, "action": number, "next": TensorDict(following, [count])}, [count]
    )
    data = WindowReplay(rows, torch.tensor([[0, count]]), horizon=horizon, batch_size=1)
    assert data.returns(0.995)[0].item() == pytest.approx(expected, abs=5e-6)
    assert data.returns(1.0)[-1].item() == 1.0  # the last window has one row


def test_ends_of_windows():
    data = replay()
    assert data.terminated().nonzero().flatten().tolist() == [7, 8, 9]  # of the episode that terminates
    data.rows["next", "reward"].zero_()
    data.rows["next", "reward"][11] = -1.0
    assert data.rewarded().nonzero().flatten().tolist() == [10, 11]


def test_range_of_returns():
    data = replay()
    data.rows["next", "reward"][-1] = 3.0
    low, high = data.return_range(0.5, cuts_end=True)
    assert low == 1.0 and high == 3.0
    low, high = data.return_range(0.5, cuts_end=False)
    # The best episode's mean reward is 14 / 12: cut, it would go on with 14 / 12 / (1 - 0.5).
    assert high == pytest.approx(3.0 + 0.5 * 14 / 12 * 2)
    assert low == 1.0  # the terminated episode's last row


def test_samples_bring_their_columns():
    data = replay()
    data.show("ends", {"twice": 2 * torch.arange(len(data))})
    batch = data.sample()
    assert batch.batch_size == (8,)
    assert torch.equal(batch["twice"], 2 * batch["index"])
    assert "probability" not in batch.keys()  # noqa: SIM118
    with pytest.raises(ValueError, match="wrong"):
        data.show("ends", {"wrong": torch.zeros(3)})


def test_seeds_draw_by_their_own_streams():
    def streams():
        return tuple(torch.Generator().manual_seed(s) for s in (1, 2))

    both = replay(generator=streams())
    both.show("ends", {"own": torch.stack((torch.zeros(len(both)), torch.ones(len(both))))})
    batch = both.sample()
    assert batch.batch_size == (2, 8) and (batch["own"][1] == 1).all() and (batch["own"][0] == 0).all()
    for index, generator in enumerate(streams()):
        assert torch.equal(batch["index"][index], replay(generator=generator).sample()["index"])
    both.start_priorities()
    assert both.sample()["probability"].shape == (2, 8)


def test_priorities_are_what_a_checkpoint_holds():
    data, other = replay(), replay()
    assert not list(data.chunks())
    data.start_priorities()
    batch = data.sample()
    data.reprioritise(batch["index"], 1.0 + torch.arange(8.0))
    other.load(data.state_dict(), (chunk.rows for chunk in data.chunks()))
    other.generator.set_state(data.generator.get_state())
    assert torch.equal(other.priorities.all(), data.priorities.all())
    assert torch.equal(other.sample()["index"], data.sample()["index"])
    assert other.state_dict() == data.state_dict()
    with pytest.raises(ValueError, match="horizon"):
        replay(horizon=3).load(data.state_dict(), iter(()))


@pytest.mark.parametrize(
    ("exponent", "expected"), [(0.6, [0.20777, 0.31491, 0.47732]), (0.7, [0.18999, 0.30863, 0.50138])]
)
def test_rows_are_drawn_in_proportion(exponent, expected):
    found = Priorities(3)
    found.fill(torch.tensor([1.0, 2.0, 4.0]) ** exponent)
    index, probability = found.draw(8_000, torch.Generator().manual_seed(0))
    assert probability[(index == 2).nonzero()[0, 0]].item() == pytest.approx(expected[2], abs=5e-6)
    share = index.bincount(minlength=3) / 8_000
    torch.testing.assert_close(share, torch.tensor(expected), rtol=0, atol=0.02)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_two_levels_draw_what_one_would(lead):
    """Over several blocks, after many writes: only rows with a weight, in proportion to it."""
    rows = 3 * BLOCK + 17
    g = torch.Generator().manual_seed(0)
    found = Priorities(rows, lead=lead)
    found.fill(1.0)
    for _ in range(20):
        index = torch.randint(rows, (*lead, 64), generator=g)
        found.write(index, torch.rand(index.shape, generator=g) * 50)
    torch.testing.assert_close(found.sums, found.weight.sum(-1, dtype=torch.float64))
    generators = tuple(torch.Generator().manual_seed(i) for i in range(2)) if lead else g
    draws = [found.draw(1_000, generators) for _ in range(12)]
    index, probability = (torch.cat(parts, -1) for parts in zip(*draws, strict=True))
    weights = found.all().double()
    torch.testing.assert_close(probability, (weights / weights.sum(-1, keepdim=True)).gather(-1, index))
    heavy = weights > 5
    hits = torch.zeros_like(weights).scatter_add_(-1, index, torch.ones_like(index, dtype=torch.float64))
    expected = 12_000 * weights / weights.sum(-1, keepdim=True)
    assert ((hits - expected).abs()[heavy] < 6 * expected[heavy].sqrt()).all()


def test_what_is_no_weight_is_not_written():
    found = Priorities(4)
    found.fill(1.0)
    found.write(torch.tensor([0, 1, 2]), torch.tensor([torch.nan, torch.inf, -1.0]))
    assert found.all().tolist() == [1.0] * 4
    with pytest.raises(ValueError, match="rows"):
        Priorities(0)
