"""The lean doors of the replay: packed writing, batches without a TensorDict, operations of a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch.utils._python_dispatch import TorchDispatchMode

from rlsuite.replay.batch import Batch, unpack
from rlsuite.replay.offline import OfflineReplay
from rlsuite.replay.packed import FLAT_NAMES, Layout, chunk_columns, layout_of, read_columns
from rlsuite.replay.uniform import UniformReplay

GAMMA = 0.9
MOST_OPERATIONS = 25  # of a batch with sums of three rewards


def vector_step(time, envs, *, flags=None, valid=None, dtype=torch.float32):
    """A vector step whose observation says (time, env), with random rewards."""
    generator = torch.Generator().manual_seed(time)
    env = torch.arange(envs, dtype=dtype).unsqueeze(-1)
    terminated, truncated = (torch.zeros(2, envs, 1) if flags is None else flags).bool()
    next_td = {
        "observation": torch.cat((torch.full_like(env, time + 1), env), -1),
        "reward": torch.randn(envs, 1, generator=generator, dtype=dtype),
        "terminated": terminated,
        "truncated": truncated,
        "done": terminated | truncated,
        "valid": torch.ones(envs, 1, dtype=torch.bool) if valid is None else valid.bool(),
    }
    return TensorDict(
        {
            "observation": torch.cat((torch.full_like(env, time), env), -1),
            "action": torch.rand(envs, 3, generator=generator, dtype=dtype),
            "next": TensorDict(next_td, [envs]),
        },
        [envs],
    )


def ring(steps, *, envs=2, seeds=1, n_step=1, capacity=6, batch_size=64):
    generators = tuple(torch.Generator().manual_seed(seed) for seed in range(seeds))
    replay = UniformReplay(
        capacity * envs,
        num_envs=envs,
        batch_size=batch_size,
        n_step=n_step,
        gamma=GAMMA,
        generator=generators if seeds > 1 else generators[0],
    )
    for step in steps:
        replay.extend(step)
    return replay


def rewind(replay):
    for seed, generator in enumerate(replay.generators):
        generator.manual_seed(seed)


def equal(ours, theirs):
    """Whether two batches have the same numbers, and no column that is of recorded data alone."""
    assert not any(column is not None for batch in (ours, theirs) for column in batch[6:])
    return all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(ours[:6], theirs[:6], strict=True)
    )


def plain_steps(count, envs=2):
    return [vector_step(time, envs) for time in range(count)]


def direct_sum(steps, time, env, n_step):
    """Reward, discount and last step of one transition, summed by hand."""
    total, discount = 0.0, 1.0
    for ahead in range(n_step):
        next_td = steps[time + ahead]["next"]
        total += discount * next_td["reward"][env].item()
        discount *= GAMMA
        there = time + ahead + 1 < len(steps)
        if next_td["done"][env] or not there or not steps[time + ahead + 1]["next"]["valid"][env]:
            break
    return total, discount, next_td


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    n_step=st.integers(1, 5),
    seeds=st.integers(1, 3),
    envs=st.integers(1, 2),
    length=st.integers(1, 15),
    count=st.integers(1, 3),
)
def test_batches_equal_direct_sums(data, n_step, seeds, envs, length, count):
    """On ring edges, at ends of both kinds and beside transitions that are not valid."""
    envs *= seeds
    chance = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    steps = []
    for time in range(length):
        flags = torch.rand(2, envs, 1, generator=chance) < 0.15
        valid = torch.rand(envs, 1, generator=chance) < 0.9
        valid |= torch.arange(envs).unsqueeze(-1) % (envs // seeds) == 0  # every seed keeps some
        steps.append(vector_step(time, envs, flags=flags, valid=valid))
    replay = ring(steps, envs=envs, seeds=seeds, n_step=n_step, batch_size=16)
    lead = (seeds,) if seeds > 1 else ()
    for batch in replay.batches(count):
        assert batch.observation.shape == (*lead, 16, 2) and batch.reward.shape == (*lead, 16)
        flat = [column.reshape(-1, *column.shape[len(lead) + 1 :]) for column in batch[:5]]
        discounts = torch.as_tensor(batch.discount).broadcast_to(batch.reward.shape).reshape(-1)
        for place, (seen, action, reward, next_seen, terminated) in enumerate(zip(*flat, strict=True)):
            time, env = seen.int().tolist()
            assert time >= length - 6 and steps[time]["next"]["valid"][env]
            assert env // (envs // seeds) == place // 16
            total, discount, next_td = direct_sum(steps, time, env, n_step)
            assert torch.equal(action, steps[time]["action"][env])
            assert reward.item() == pytest.approx(total, abs=1e-5)
            assert discounts[place].item() == pytest.approx(discount, abs=1e-6)
            assert torch.equal(next_seen, next_td["observation"][env])
            assert terminated.item() == next_td["terminated"][env].item()


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("bad", [False, True])
def test_both_doors_draw_the_same(seeds, n_step, bad):
    steps = plain_steps(9, 2 * seeds)
    if bad:
        steps[6]["next", "valid"][1] = False
    replay = ring(steps, envs=2 * seeds, seeds=seeds, n_step=n_step)
    for draw in (replay.batch, lambda: replay.batches(1)[0]):
        rewind(replay)
        sampled = [unpack(replay.sample(), GAMMA) for _ in range(3)]
        rewind(replay)
        for old in sampled:
            new = draw()
            assert equal(old, new)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("n_step", [1, 3])
def test_batches_are_those_of_as_many_calls(seeds, n_step):
    replay = ring(plain_steps(9, 2 * seeds), envs=2 * seeds, seeds=seeds, n_step=n_step)
    each = [replay.batch() for _ in range(4)]
    rewind(replay)
    for one, other in zip(each, replay.batches(4), strict=True):
        assert equal(one, other)
        assert [column.stride() for column in one[:2]] == [column.stride() for column in other[:2]]


class Counter(TorchDispatchMode):
    """Counts the operations that reach the dispatcher, views included."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("n_step", "most"), [(1, 5), (3, MOST_OPERATIONS), (8, MOST_OPERATIONS)])
def test_a_batch_is_a_handful_of_operations(n_step, most):
    replay = ring(plain_steps(20), n_step=n_step, capacity=10)
    replay.batch()  # the constants of the sums are made once
    replay.batches(8)
    with Counter() as counter:
        replay.batch()
    assert 0 < len(counter.names) <= most, counter.names
    with Counter() as several:
        replay.batches(8)
    assert len(several.names) <= most + 6, several.names  # each column is unbound


def test_columns_of_a_batch_are_views_of_one_gather():
    batch = ring(plain_steps(9)).batch()
    assert len({column.untyped_storage().data_ptr() for column in batch[:5]}) == 1
    sample = ring(plain_steps(9)).sample()
    pointers = {sample[key].untyped_storage().data_ptr() for key in ("observation", "action")}
    assert pointers == {sample["next", key].untyped_storage().data_ptr() for key in ("observation", "reward")}
    assert sample["next", "terminated"].dtype == torch.bool == sample["valid"].dtype


@pytest.mark.parametrize("form", ["torch", "numpy", "flat"])
def test_arrays_are_stored_as_a_tensordict_is(form):
    ours, theirs = ring([]), ring([])
    for time in range(9):
        step = vector_step(time, 2, flags=torch.tensor([[[1], [0]], [[0], [time == 4]]]))
        theirs.extend(step)
        observation, action, next_observation, *rest = read_columns(step)
        if form == "flat":
            rest = [column.squeeze(-1) for column in rest]
        columns = [observation, action, rest[0], next_observation, *rest[1:]]
        ours.extend_arrays(*(column.numpy() if form == "numpy" else column for column in columns))
    assert torch.equal(ours.packed, theirs.packed) and ours.total == theirs.total == 18


def test_several_vector_steps_at_once_go_around_the_ring():
    whole, single = ring([]), ring(plain_steps(9))
    whole.extend(torch.cat(plain_steps(4)))
    later = torch.cat(plain_steps(9)[4:])
    later["next", "valid"][0] = False  # time 4, which stays
    whole.extend(later)
    assert (whole.total, whole.invalid) == (18, 1)
    single.packed[4 * 2, -1] = 0
    assert torch.equal(whole.packed[:, :-1], single.packed[:, :-1])


def test_valid_is_counted_without_the_column():
    replay = ring([])
    for time in range(9):
        step = vector_step(time, 2, valid=torch.tensor([[1], [time != 1]]))
        if time != 1:
            del step["next", "valid"]
        replay.extend(step)
        assert replay.invalid == (1 <= time < 7)


def test_what_float32_holds_is_exact_and_float64_is_rounded():
    replay = ring([])
    step = vector_step(0, 2, dtype=torch.float64)
    step["observation"] = torch.tensor([[0, 255], [128, 7]], dtype=torch.uint8)
    step["action"][0, 0] = 0.1
    replay.extend(step)
    stored = replay.stored[:2]
    assert stored["observation"].tolist() == [[0, 255], [128, 7]]
    assert stored["action"][0, 0] == torch.tensor(0.1, dtype=torch.float32)
    assert stored["next", "terminated"].dtype == torch.bool
    assert set(replay.packed[:2, -4:].flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("observation", torch.zeros(2, 2, dtype=torch.int64), "observation is int64"),
        (("next", "reward"), torch.zeros(2, 1, dtype=torch.int32), "next/reward is int32"),
        (
            "observation",
            torch.zeros(2, 2, 2),
            r"observation has shape \[2, 2, 2\]: transitions are stored flat",
        ),
        ("action", torch.zeros(2), r"action has shape \[2\]"),
        (("next", "observation"), torch.zeros(2, 3), r"next/observation has shape \[2, 3\]; \[2, 2\]"),
        (("next", "reward"), torch.zeros(2, 2), r"next/reward has shape \[2, 2\]; \[2, 1\]"),
        ("action", torch.zeros(2, 4), "2 observations and 4 actions do not fit those stored, of 2 and 3"),
        (("next", "done"), None, "transitions without next/done"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_what_does_not_fit_is_one_clear_line(key, value, said, first):
    replay = ring([] if first else plain_steps(2))
    step = vector_step(2, 2)
    if value is None:
        del step[key]
    else:
        step[key] = value
    if first and "those stored" in said:
        said = "2 observations and 3 actions do not fit those stored, of 2 and 4"
        replay.extend(step)
        step = vector_step(3, 2)
    total = replay.total
    with pytest.raises(ValueError, match=said):
        replay.extend(step)
    assert replay.total == total


def test_single_numbers_and_odd_counts_are_refused():
    columns = read_columns(vector_step(0, 2))
    columns[0], columns[2], columns[3] = columns[0], columns[3], columns[2]  # the order of the door
    with pytest.raises(ValueError, match=r"next/reward has shape \[\]"):
        ring([]).extend_arrays(*columns[:2], np.float64(1.0), *columns[3:])
    with pytest.raises(ValueError, match="3 transitions at once: a multiple of the 2 envs, at most 12"):
        ring([]).extend(vector_step(0, 3))
    with pytest.raises(ValueError, match="14 transitions at once"):
        ring([]).extend(vector_step(0, 14))


def test_an_empty_replay_says_so():
    for door in (lambda r: r.sample(), lambda r: r.batch()):
        with pytest.raises(RuntimeError, match="the replay is empty"):
            door(ring([]))
    with pytest.raises(ValueError, match="the replay is empty"):
        _ = ring([]).stored


def test_a_layout_covers_its_matrix_once():
    layout = Layout(5, 2)
    matrix = torch.arange(3 * layout.width, dtype=torch.float32).view(3, -1)
    columns = layout.columns(matrix)
    assert tuple(columns) == FLAT_NAMES and layout.width == 17
    numbers = torch.cat([columns[name] for name in FLAT_NAMES[:4]], -1)
    assert torch.equal(numbers, matrix[:, :13])
    assert torch.equal(columns["next/reward"].squeeze(-1), matrix[:, layout.reward])
    matrix[:, layout.done], matrix[:, layout.valid] = 0, 0
    columns = layout.columns(matrix)
    assert not columns["next/done"].any() and not columns["valid"].any() and columns["next/truncated"].all()
    assert layout_of([*columns.values()]) == layout


# Checkpoints ----------------------------------------------------------------------------------------------


def by_name(replay, dtype=torch.float32):
    """The chunks of an earlier release: columns by name."""
    names = replay.stored[: len(replay)].flatten_keys("/").items()
    return {
        name: column.to(dtype) if column.is_floating_point() else column.clone() for name, column in names
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_of_earlier_releases_are_read(dtype):
    steps = plain_steps(9)
    steps[7]["next", "valid"][0] = False
    replay, again = ring(steps), ring([])
    named = by_name(replay, dtype)
    again.load(
        replay.state_dict(),
        iter([{k: v[:8] for k, v in named.items()}, {k: v[8:] for k, v in named.items()}]),
    )
    assert torch.equal(again.packed, replay.packed) and again.state_dict() == replay.state_dict()
    for name, column in chunk_columns(named).items():
        assert torch.equal(column, by_name(replay)[name])
    packed = next(replay.chunks()).rows
    assert all(torch.equal(column, by_name(replay)[name]) for name, column in chunk_columns(packed).items())


def spoilt(rows, **changes):
    return {key: value for key, value in {**rows, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": None}, "a packed chunk has packed and layout"),
        ({"layout": torch.tensor([2.0, 3.0])}, "a packed chunk has packed and layout"),
        ({"layout": torch.tensor([2, 3, 4])}, r"its layout says \[2, 3, 4\]"),
        ({"layout": torch.tensor([-2, 11])}, "its layout says"),
        ({"layout": torch.tensor([3, 2])}, "its layout says"),
        ({"packed": torch.zeros(12)}, "its layout says"),
        ({"packed": torch.zeros(12, 12, dtype=torch.float64)}, "its layout says"),
        ({"packed": torch.full((12, 12), torch.nan)}, "flags other than 0 and 1"),
        ({"other": torch.zeros(12)}, "a packed chunk has packed and layout"),
    ],
)
def test_a_packed_chunk_that_is_none_is_refused(changes, said):
    replay = ring(plain_steps(9))
    rows = next(replay.chunks()).rows
    assert rows["packed"].shape == (12, 12)
    for read in (chunk_columns, lambda chunk: ring([]).load(replay.state_dict(), iter([chunk]))):
        with pytest.raises(ValueError, match=said):
            read(spoilt(rows, **changes))


# Recorded data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [1, 2])
def test_recorded_rows_have_the_same_doors(seeds):
    rows = torch.cat(plain_steps(6, 1))
    generators = tuple(torch.Generator().manual_seed(seed) for seed in range(seeds))
    data = OfflineReplay(
        rows,
        torch.tensor([[0, 6]]),
        batch_size=16,
        gamma=GAMMA,
        generator=generators if seeds > 1 else generators[0],
    )
    sampled = [unpack(data.sample(), GAMMA) for _ in range(3)]
    for draws in (lambda: [data.batch() for _ in range(3)], lambda: data.batches(3)):
        for seed, generator in enumerate(generators):
            generator.manual_seed(seed)
        for old, new in zip(sampled, draws(), strict=True):
            assert isinstance(new, Batch) and new.discount == GAMMA
            assert all(torch.equal(a, b) for a, b in zip(old[:5], new[:5], strict=True))
    assert torch.equal(sampled[0].next_observation[..., 0], sampled[0].observation[..., 0] + 1)


def test_a_batch_needs_a_discount():
    data = OfflineReplay(torch.cat(plain_steps(6, 1)), torch.tensor([[0, 6]]), batch_size=4)
    data.sample()
    with pytest.raises(ValueError, match="pass gamma"):
        data.batch()
