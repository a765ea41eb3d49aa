"""Batches of recorded and new transitions."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlsuite.replay.mixed import MixedReplay, interleaved, recorded_of, returns_to_go
from rlsuite.replay.offline import OfflineReplay
from rlsuite.replay.uniform import UniformReplay


def rows(first, count, done=None):
    """Transitions whose every number says which they are."""
    number = torch.arange(first, first + count, dtype=torch.float32)
    flag = torch.zeros(count, 1, dtype=torch.bool)
    end = flag.clone()
    end[-1] = True
    after = {"observation": number.unsqueeze(-1) + 0.5, "reward": number.unsqueeze(-1), "terminated": flag}
    after |= {"truncated": end, "done": end}
    table = {"observation": number.unsqueeze(-1), "action": number.unsqueeze(-1).expand(-1, 2)}
    return TensorDict({**table, "next": TensorDict(after, [count])}, [count])


def source(seeds=1, seed=0):
    streams = tuple(torch.Generator().manual_seed(seed + i) for i in range(seeds))
    return streams if seeds > 1 else streams[0]


def mixed(share=0.5, batch=8, seeds=1, data=20, first=0, **more):
    generator = source(seeds)
    old = OfflineReplay(
        rows(first, data),
        torch.tensor([[0, data]]),
        batch_size=recorded_of(share, batch),
        gamma=0.99,
        generator=generator,
    )
    ring = {"num_envs": 2 * seeds, "batch_size": batch, "generator": generator, **more}
    return MixedReplay(40 * seeds, recorded=old, **ring)


def test_rows_are_interleaved():
    """Numeric test 6 of the specification: slices of a batch are mixed, stacked ones would not be."""
    stacked = torch.tensor([0, 1, 2, 3, 100, 101, 102, 103])
    first, second = stacked[interleaved(4, 8)].chunk(2)
    assert (first.tolist(), second.tolist()) == ([0, 100, 1, 101], [2, 102, 3, 103])
    assert stacked.chunk(2)[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("recorded", "batch"), [(0, 5), (1, 5), (2, 5), (3, 8), (5, 8), (8, 8), (77, 256)])
def test_any_stretch_has_its_share(recorded, batch):
    order = interleaved(recorded, batch)
    assert order.sort().values.tolist() == list(range(batch))  # every row once
    old = (order < recorded).double().cumsum(0)
    even = torch.arange(1, batch + 1) * recorded / batch
    assert bool(((old - even).abs() < 1).all())
    assert order[order < recorded].tolist() == list(range(recorded))  # each source in its own order


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_batch_has_its_share_of_both(seeds):
    replay = mixed(seeds=seeds)
    replay.extend(rows(100, 6 * seeds))
    lead = () if seeds == 1 else (seeds,)
    for batch in (replay.batch(), *replay.batches(3)):
        assert batch.observation.shape == (*lead, 8, 1) and batch.reward.shape == (*lead, 8)
        old = batch.observation.squeeze(-1) < 100
        assert old.reshape(-1, 8).tolist() == [[True, False] * 4] * seeds
        assert torch.equal(batch.reward, batch.observation.squeeze(-1))
        assert torch.equal(batch.next_observation, batch.observation + 0.5)
    table = replay.sample()
    assert table.shape == (*lead, 8) and torch.equal(table["next", "reward"], table["observation"])
    assert replay.new_share == 0.5 and len(replay) == 6 * seeds
    if seeds == 2:  # envs come in groups, one per seed: seed 0 has rows 0, 1, 4, 5, 8, 9 of the ring
        new = replay.batch().observation.squeeze(-1)[:, 1::2] - 100
        assert set(new[0].tolist()) <= {0, 1, 4, 5, 8, 9} and set(new[1].tolist()) <= {2, 3, 6, 7, 10, 11}


def test_without_recorded_rows_it_is_the_ring_alone():
    replay, ring = mixed(share=0.0), UniformReplay(40, num_envs=2, batch_size=8, generator=source())
    for each in (replay, ring):
        each.extend(rows(100, 6))
    for _ in range(3):
        assert torch.equal(replay.batch().observation, ring.batch().observation)


def test_the_ring_is_saved_and_the_data_are_recognised():
    replay = mixed()
    replay.extend(rows(100, 6))
    state, chunks = replay.state_dict(), [dict(chunk.rows) for chunk in replay.chunks()]
    assert sum(len(chunk["packed"]) for chunk in chunks) == 6  # recorded rows are in no checkpoint
    again = mixed()
    again.load(state, iter(chunks))
    again.generator.set_state(replay.generator.get_state())
    assert torch.equal(again.batch().observation, replay.batch().observation)
    with pytest.raises(ValueError, match="the run began with other data"):
        mixed(first=1).load(state, iter(chunks))


def test_shares_that_leave_no_row_are_refused():
    with pytest.raises(ValueError, match="rounds to 0 recorded rows"):
        recorded_of(0.01, 8)
    with pytest.raises(ValueError, match="rounds to 8 recorded rows"):
        recorded_of(0.99, 8)
    assert (recorded_of(0.0, 8), recorded_of(1.0, 8), recorded_of(0.25, 8)) == (0, 8, 2)
    with pytest.raises(ValueError, match="use n_step = 1"):
        mixed(n_step=3)


def test_transitions_of_other_sizes_are_refused():
    replay = mixed()
    other = rows(0, 4).exclude("action").set("action", torch.zeros(4, 3))
    with pytest.raises(ValueError, match="do not fit new ones"):
        replay.extend(other)


def test_a_single_replay_says_how_much_of_it_is_new():
    ring = UniformReplay(8, num_envs=2, batch_size=4)
    assert ring.new_share is None
    ring.preload(rows(0, 6))
    assert ring.new_share == 0
    shares = []
    for first in range(100, 110, 2):
        ring.extend(rows(first, 2))
        shares.append(ring.new_share)
    assert shares == [0.25, 0.5, 0.75, 1.0, 1.0]


# Returns


def with_returns(gamma=0.5, failure_reward=None, seeds=1):
    """A mixed replay of two envs a seed whose data have returns, 7 for all."""
    generator = source(seeds)
    table = rows(0, 20)
    table["return"] = torch.full((20, 1), 7.0)
    old = OfflineReplay(table, torch.tensor([[0, 20]]), batch_size=4, gamma=gamma, generator=generator)
    ring = {"num_envs": 2 * seeds, "batch_size": 8, "gamma": gamma, "generator": generator}
    return MixedReplay(12 * seeds, recorded=old, failure_reward=failure_reward, **ring)


def step(replay, *rewards, ends=()):
    """One vector step; observations are the rewards."""
    reward = torch.tensor(rewards).unsqueeze(-1)
    done = torch.tensor([env in ends for env in range(len(rewards))])
    none = torch.zeros_like(done)
    replay.extend_arrays(reward, reward.expand(-1, 2), reward, reward, none, done, done)


def known(replay):
    """Returns by reward, of a batch large enough to have all; infinite ones are left out."""
    pairs = {}
    for batch in replay.batches(50):
        for reward, to_go in zip(batch.reward[1::2].tolist(), batch.returns[1::2].tolist(), strict=True):
            pairs[reward] = to_go
        assert batch.returns[::2].tolist() == [7.0] * 4
    return {reward: to_go for reward, to_go in pairs.items() if to_go > -float("inf")}


def test_returns_are_known_when_an_episode_ends():
    replay = with_returns()
    step(replay, 1.0, 100.0)
    step(replay, 2.0, 200.0)
    assert known(replay) == {}
    step(replay, 4.0, 400.0, ends=(0,))
    assert known(replay) == {4.0: 4.0, 2.0: 4.0, 1.0: 3.0}
    step(replay, 8.0, 800.0, ends=(0, 1))
    wanted = {4.0: 4.0, 2.0: 4.0, 1.0: 3.0, 8.0: 8.0, 800.0: 800.0, 400.0: 800.0, 200.0: 600.0, 100.0: 400.0}
    assert known(replay) == wanted
    again = with_returns()
    again.load(replay.state_dict(), iter([dict(chunk.rows) for chunk in replay.chunks()]))
    assert known(again) == wanted
    for number in range(5):  # the ring of six vector steps goes round
        step(replay, 16.0 + number, 1600.0 + number, ends=(0,) if number == 4 else ())
    last = known(replay)
    assert last == {20.0: 20.0, 19.0: 29.0, 18.0: 32.5, 17.0: 33.25, 16.0: 32.625, 8.0: 8.0, 800.0: 800.0}
    loaded = with_returns()
    loaded.load(replay.state_dict(), iter([dict(chunk.rows) for chunk in replay.chunks()]))
    assert known(loaded) == last


def test_failed_episodes_are_worth_their_failure_for_ever():
    """Numeric test 10 of the specification, with rewards of 10 r - 5."""
    assert returns_to_go(np.array([-5.0, -5.0, 5.0]), 0.99).tolist() == pytest.approx([-5.0495, -0.05, 5.0])
    assert returns_to_go(np.array([-5.0, -5.0]), 0.99, -5.0).tolist() == pytest.approx([-500.0, -500.0])
    assert returns_to_go(np.array([-5.0, 5.0]), 0.99, -5.0).tolist() == pytest.approx([-0.05, 5.0])
    replay = with_returns(0.99, -5.0)
    step(replay, -5.0, 5.0, ends=(0, 1))
    assert known(replay) == {-5.0: pytest.approx(-500.0), 5.0: 5.0}
