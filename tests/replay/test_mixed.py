"""Batches of recorded and new transitions."""

import pytest
import torch
from tensordict import TensorDict

from rlsuite.replay.mixed import MixedReplay, interleaved, recorded_of
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
