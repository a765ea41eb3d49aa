"""Hindsight replay: which goals are taken, what they are worth, the ring's end, seeds, saved state."""

import numpy as np
import pytest
import torch

from rlsuite.replay.batch import columns_of
from rlsuite.replay.her import Goals, HerReplay, distance_rule
from rlsuite.replay.uniform import UniformReplay

ENVS, LENGTH = 2, 5  # episodes of env 0 have 5 steps, those of env 1 have 7


def rule(achieved, desired):
    """Reward and end say which pair was asked."""
    return achieved[:, 0] * 1000 + desired[:, 0], achieved[:, 0] == desired[:, 0]


GOALS = Goals(achieved=slice(1, 2), desired=slice(2, 3), rule=rule)


def made(capacity=60, *, k=4, seeds=1, goals=GOALS, **more):
    generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    source = generators[0] if seeds == 1 else tuple(generators)
    sizes = {"num_envs": ENVS * seeds, "batch_size": 512, "generator": source}
    return HerReplay(capacity * seeds, goals=goals, k=k, **{**sizes, **more})


def assert_equal(one, two):
    """All columns of two batches."""
    ours, theirs = columns_of(one), columns_of(two)
    assert ours.keys() == theirs.keys() and len(ours) >= 5
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def fill(replay, steps, first=0, invalid=()):
    """Observation: env, achieved = the time, desired = -1; episodes end after 5 and 7 steps."""
    count = replay.num_envs
    for time in range(first, first + steps):
        env = torch.arange(count, dtype=torch.float32)
        before = torch.stack([env, torch.full((count,), float(time)), -torch.ones(count)], 1)
        after = before.clone()
        after[:, 1] += 1
        done = (time + 1) % torch.where(env % 2 == 0, LENGTH, LENGTH + 2) == 0
        valid = torch.tensor([(time, index) not in invalid for index in range(count)])
        done |= ~valid
        reward, no = torch.full((count,), -7.0), torch.zeros(count, dtype=torch.bool)
        replay.extend_arrays(before, env[:, None], reward, after, no, done, done, valid)
    return replay


def last_step(time, env):
    """Vector step of the last transition of the episode that `time` belongs to."""
    length = LENGTH if env % 2 == 0 else LENGTH + 2
    return time // length * length + length - 1


@pytest.mark.parametrize(("capacity", "steps"), [(60, 24), (20, 24), (20, 37)])
def test_goals_come_from_the_future_of_the_same_episode(capacity, steps):
    replay = fill(made(capacity), steps)
    seen = {}
    for _ in range(20):
        batch = replay.batch()
        relabelled = batch.observation[:, 2] != -1
        assert torch.equal(batch.observation[:, 2], batch.next_observation[:, 2])
        assert (batch.reward[~relabelled] == -7).all() and (batch.terminated[~relabelled] == 0).all()
        for row, goal in zip(batch.observation[relabelled], batch.next_observation[relabelled], strict=True):
            seen.setdefault((int(row[1]), int(row[0])), set()).add(int(goal[2]) - 1)
        achieved, desired = batch.next_observation[relabelled, 1], batch.observation[relabelled, 2]
        assert torch.equal(batch.reward[relabelled], achieved * 1000 + desired)
        assert torch.equal(batch.terminated[relabelled], (achieved == desired).float())
    stored = range(max(0, steps - capacity // ENVS), steps)
    assert set(seen) == {(time, env) for time in stored for env in range(ENVS)}
    for (time, env), futures in seen.items():
        assert futures == set(range(time, min(last_step(time, env), steps - 1) + 1))


def test_k_of_k_plus_one_are_relabelled_and_the_future_is_uniform():
    replay = fill(made(k=4, batch_size=40_000), LENGTH * 7)
    batch = replay.batch()
    share = (batch.observation[:, 2] != -1).double().mean().item()
    assert share == pytest.approx(0.8, abs=4 * (0.16 / 40_000) ** 0.5)
    first = (batch.observation[:, 0] == 0) & (batch.observation[:, 1] % LENGTH == 0)
    goals = batch.observation[first & (batch.observation[:, 2] != -1)]
    offsets = torch.bincount((goals[:, 2] - goals[:, 1] - 1).long(), minlength=LENGTH).double()
    expected = offsets.sum() / LENGTH
    assert len(offsets) == LENGTH
    assert ((offsets - expected).abs() < 4.5 * expected.sqrt()).all()


def test_a_broken_transition_is_no_goal_and_is_not_drawn():
    replay = fill(made(), 12, invalid={(3, 0), (7, 1)})
    batch = replay.batch()
    rows = {(int(row[1]), int(row[0]), int(row[2])) for row in batch.observation if row[2] != -1}
    assert not {(3, 0), (7, 1)} & {row[:2] for row in rows}
    assert max(goal for time, env, goal in rows if env == 0 and time <= 3) == 3
    assert {goal for time, env, goal in rows if (time, env) == (4, 0)} == {5}


def test_a_ring_that_was_saved_goes_on_bit_for_bit():
    for steps in (8, 24, 37):
        replay = fill(made(20), steps)
        replay.batch()
        twin = made(20)
        twin.load(replay.state_dict(), (dict(chunk.rows) for chunk in replay.chunks()))
        twin.generators[0].set_state(replay.generators[0].get_state())
        for ring in (replay, twin):
            fill(ring, 9, first=steps)
        for _ in range(3):
            assert_equal(replay.batch(), twin.batch())


def test_every_seed_draws_what_it_draws_alone():
    both = fill(made(seeds=2), 24)
    alone = fill(made(), 24)
    first, single = both.batch(), alone.batch()
    assert torch.equal(first.observation[0], single.observation)
    assert torch.equal(first.reward[0], single.reward)
    assert set(first.observation[1, :, 0].tolist()) == {2.0, 3.0}


def test_several_batches_are_as_many_single_ones():
    one, two = fill(made(), 24), fill(made(), 24)
    for batch in one.batches(3):
        assert_equal(batch, two.batch())


def test_samples_with_names_are_relabelled_and_the_ring_is_not():
    replay = fill(made(), 24)
    before = replay.packed.clone()
    table = replay.sample()
    relabelled = table["observation"][:, 2] != -1
    assert relabelled.float().mean() > 0.7
    assert (table["next", "reward"][relabelled] >= 0).all()
    assert torch.equal(replay.packed, before)


def test_a_distance_rule_gives_zero_within_and_minus_one_beyond():
    goals = GOALS._replace(rule=distance_rule(2.0))
    batch = fill(made(goals=goals), 24).batch()
    relabelled = batch.observation[:, 2] != -1
    gap = (batch.next_observation[:, 1] - batch.observation[:, 2]).abs()[relabelled]
    assert torch.equal(batch.reward[relabelled], -(gap > 2).float())
    reward, ended = distance_rule(0.5)(np.array([[0.0, 0.3], [0.0, 0.3]]), np.array([[0.4, 0.0], [0.5, 0.0]]))
    assert reward.tolist() == [0, -1] and ended is None


def test_n_step_sums_are_refused():
    with pytest.raises(ValueError, match="single steps"):
        made(n_step=3)


def test_without_goals_the_draws_of_rows_are_the_uniform_replays():
    """The first numbers of the stream are the rows': luck and place come after them."""
    plain = UniformReplay(60, num_envs=ENVS, batch_size=512, generator=torch.Generator().manual_seed(0))
    hindsight = fill(made(), 24)
    assert torch.equal(fill(plain, 24).batch().observation[:, :2], hindsight.batch().observation[:, :2])
