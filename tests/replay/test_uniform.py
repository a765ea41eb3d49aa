"""The ring: wrap-around, n-step against a plain reference, invalid rows, chunks, memory."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from rlsuite.replay import uniform
from rlsuite.replay.uniform import UniformReplay

GAMMA = 0.9


def row(time, worlds, *, terminated=None, truncated=None, valid=None):
    """A vector step whose numbers say where they come from: observation = 100 * time + world."""
    world = torch.arange(worlds, dtype=torch.float32)[:, None]
    no = torch.zeros(worlds, 1, dtype=torch.bool)
    terminated = no if terminated is None else terminated[:, None]
    truncated = no if truncated is None else truncated[:, None]
    following = {
        "observation": 100.0 * (time + 1) + world,
        "reward": torch.full((worlds, 1), float(time)) + world / 10,
        "terminated": terminated,
        "truncated": truncated,
        "done": terminated | truncated,
    }
    if valid is not None:
        following["valid"] = valid[:, None]
    return TensorDict(
        {"observation": 100.0 * time + world, "action": world, "next": TensorDict(following, [worlds])},
        [worlds],
    )


def ring(capacity=12, worlds=2, **kwargs):
    options = {"batch_size": 256, "gamma": GAMMA, "generator": torch.Generator().manual_seed(0)}
    return UniformReplay(capacity, num_envs=worlds, **{**options, **kwargs})


def test_a_full_ring_forgets_the_oldest_rows():
    replay = ring()
    for time in range(9):
        replay.extend(row(time, 2))
    assert len(replay) == 12
    times = set((replay.sample()["observation"].squeeze(-1) // 100).int().tolist())
    assert times == {3, 4, 5, 6, 7, 8}


def test_next_observation_is_the_true_successor():
    replay = ring()
    for time in range(4):
        replay.extend(row(time, 2, truncated=torch.tensor([time == 1, False])))
    batch = replay.sample()
    assert torch.equal(batch["next", "observation"], batch["observation"] + 100)


@pytest.mark.parametrize(("steps", "broken", "left"), [(3, 2, 3), (6, 5, 4), (8, 6, 4), (9, 8, 4)])
def test_the_rows_before_a_failure_are_found_across_the_end_of_the_ring(steps, broken, left):
    replay = ring()
    for time in range(steps):
        valid = torch.tensor([True, time not in (1, broken)])
        replay.extend(row(time, 2, valid=valid))
    found = replay.before_failures(4)
    assert found["world"].tolist() == [1] and found["rows"].tolist() == [left]
    shown = found["observation"][0, :, 0].tolist()
    assert shown[-left:] == [100.0 * time + 1 for time in range(broken + 1 - left, broken + 1)]
    assert shown[:-left] == [0.0] * (4 - left)
    assert not found["valid"][0, -1].item() and found["next/reward"].shape == (1, 4, 1)


def test_recorded_rows_did_not_lead_to_a_failure():
    replay, again = ring(capacity=20), ring(capacity=20)
    replay.preload(torch.cat([row(time, 1) for time in range(10)]))
    for time in range(10, 12):
        replay.extend(row(time, 2, valid=torch.tensor([True, time != 11])))
    again.load(replay.state_dict(), (chunk.rows for chunk in replay.chunks()))
    for one in (replay, again):
        found = one.before_failures(4)
        assert found["world"].tolist() == [1] and found["rows"].tolist() == [2]
        assert found["observation"][0, :, 0].tolist() == [0.0, 0.0, 1001.0, 1101.0]


def test_sampling_repeats_with_the_generator():
    def draw():
        replay = ring()
        for time in range(5):
            replay.extend(row(time, 2))
        return replay.sample()["observation"]

    assert torch.equal(draw(), draw())


@pytest.mark.parametrize(
    ("terminated", "truncated", "total", "discount"),
    [(False, False, 5.23, 0.729), (False, True, 2.8, 0.81), (True, False, 2.8, 0.81)],
)
def test_three_steps_by_hand(terminated, truncated, total, discount):
    """Rewards 1, 2, 3 at gamma 0.9, ended at the second or not: a sum cut short has its own discount."""
    replay, no = ring(6, 1, n_step=3), torch.tensor([False])
    for time in (1, 2, 3):
        ends = [torch.tensor([flag and time == 2]) for flag in (terminated, truncated)]
        replay.extend(row(time, 1, terminated=ends[0], truncated=ends[1], valid=~no))
    batch = replay.sample()
    first = batch["observation"].squeeze(-1) == 100
    assert first.any()
    for key, value in (("reward", total), ("terminated", float(terminated))):
        found = batch["next", key][first].float()
        torch.testing.assert_close(found, torch.full_like(found, value))
    found = batch["discount"][first]
    torch.testing.assert_close(found, torch.full_like(found, discount))


def reference(steps, start, world, n_step, newest):
    """n-step return of one row by a plain loop over the stored vector steps."""
    total, discount, time = 0.0, 1.0, start
    for summed in range(1, n_step + 1):
        following = steps[time]["next"]
        total += discount * following["reward"][world].item()
        discount *= GAMMA
        stop = following["done"][world].item() or time == newest or summed == n_step
        if stop or not steps[time + 1]["next"].get("valid", torch.ones(99, 1))[world]:
            break
        time += 1
    return total, discount, steps[time]["next"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), n_step=st.integers(1, 4), worlds=st.integers(1, 3), length=st.integers(1, 15))
def test_n_step_returns_equal_a_plain_loop(data, n_step, worlds, length):
    flags = st.lists(st.booleans(), min_size=worlds, max_size=worlds)
    steps = []
    replay = ring(5 * worlds, worlds, n_step=n_step, batch_size=32)
    for time in range(length):
        terminated, truncated = (torch.tensor(data.draw(flags)) for _ in "ab")
        steps.append(row(time, worlds, terminated=terminated & truncated, truncated=truncated))
        replay.extend(steps[-1])
    batch = replay.sample()
    for i in range(len(batch)):
        time, world = divmod(int(batch["observation"][i].item()), 100)
        assert time >= length - 5
        total, discount, following = reference(steps, time, world, n_step, length - 1)
        assert batch["next", "reward"][i].item() == pytest.approx(total, abs=1e-4)
        if n_step > 1:
            assert batch["discount"][i].item() == pytest.approx(discount, abs=1e-6)
        for key in ("observation", "terminated", "truncated"):
            assert torch.equal(batch["next", key][i], following[key][world])


def test_invalid_rows_are_never_sampled_and_end_a_sum():
    replay = ring(40, 2, n_step=3)
    good = torch.tensor([True, True])
    for time in range(12):
        valid = torch.tensor([True, time != 5])
        replay.extend(row(time, 2, valid=valid if time == 5 else good))
    assert replay.invalid == 1
    for _ in range(5):
        batch = replay.sample()
        assert not (batch["observation"] == 501).any()
        before = batch["observation"] == 401
        assert before.any()
        assert (batch["next", "observation"][before] == 501).all()  # the sum stops before the bad row
        assert torch.allclose(batch["discount"][before], torch.tensor(GAMMA))
    for time in range(12, 40):
        replay.extend(row(time, 2, valid=good))
    assert replay.invalid == 0


def test_a_replay_of_bad_rows_alone_is_an_error_not_a_hang():
    replay = ring()
    replay.extend(row(0, 2, valid=torch.tensor([False, False])))
    with pytest.raises(RuntimeError, match="no row"):
        replay.sample()


@pytest.mark.parametrize("steps", [3, 6, 9])
def test_chunks_restore_an_equal_ring(monkeypatch, steps):
    monkeypatch.setattr(uniform, "CHUNK_ROWS", 5)
    replay = ring(n_step=2)
    for time in range(steps):
        replay.extend(row(time, 2, valid=torch.tensor([True, time % 4 != 2])))
    other = ring(n_step=2)
    chunks = [copy.deepcopy(chunk.rows) for chunk in replay.chunks()]
    other.load(replay.state_dict(), iter(chunks))
    other.generators[0].set_state(replay.generators[0].get_state())
    for time in range(steps, steps + 4):
        for r in (replay, other):
            r.extend(row(time, 2, valid=torch.tensor([True, True])))
        a, b = replay.sample(), other.sample()
        for key in a.keys(True, True):
            assert torch.equal(a[key], b[key]), key
    assert other.state_dict() == replay.state_dict()


@pytest.mark.parametrize("worlds", [1, 2, 3])
def test_a_chunks_version_changes_exactly_when_its_rows_do(monkeypatch, worlds):
    monkeypatch.setattr(uniform, "CHUNK_ROWS", 4)
    replay = ring(12, worlds)
    before = {}
    for time in range(20):
        replay.extend(row(time, worlds))
        now = {c.name: (c.version, copy.deepcopy(c.rows)) for c in replay.chunks()}
        for name, (version, rows) in now.items():
            if name in before:
                old = before[name][1]
                equal = all(old[k].shape == rows[k].shape and torch.equal(old[k], rows[k]) for k in rows)
                assert (version == before[name][0]) == equal, (time, name)
        before = now


def test_a_ring_of_other_sizes_refuses_saved_rows():
    replay = ring()
    replay.extend(row(0, 2))
    with pytest.raises(ValueError, match="worlds"):
        ring(12, 3).load(replay.state_dict(), iter([]))
    with pytest.raises(ValueError, match="rows"):
        ring().load(replay.state_dict(), iter([]))


def test_memory_is_asked_for_before_it_is_taken():
    replay = ring(10**12, 2)
    step = row(0, 2)
    with pytest.raises(MemoryError, match="GiB are free: lower --replay-size to"):
        replay.check_memory(step, 2**30)
    assert ring(10, 2).check_memory(step, 2**30) == 10 * 4 * (1 + 1 + 1 + 1 + 4)


def test_a_capacity_below_one_step_is_refused():
    with pytest.raises(ValueError, match="capacity = 1"):
        ring(1, 2)
