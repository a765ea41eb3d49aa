"""Replay of pictures: the stacks that were written come back, bytes as they were, checkpoints too."""

import numpy as np
import pytest
import torch

from rlsuite.replay.pixels import PixelReplay

ENVS, FRAME, FRAMES = 2, 5, 3  # of five bytes: the last column is half full
EPISODE = 4  # env steps; env 1 is one step behind


def frames_of(rng, steps):
    """Frames of every env and time, and what is stored of them, step by step."""
    raw = rng.integers(0, 256, (steps + 1, ENVS, FRAME), dtype=np.uint8)
    raw[0, 0, :4] = (1, 0, 160, 127)  # read as a float a signalling NaN, which arithmetic would change
    stacks = np.stack([np.repeat(raw[0][env][None], FRAMES, 0) for env in range(ENVS)])
    for time in range(steps):
        following = np.concatenate((stacks[:, 1:], raw[time + 1][:, None]), 1)
        done = np.array([(time + env + 1) % EPISODE == 0 for env in range(ENVS)])
        yield stacks.reshape(ENVS, -1), following.reshape(ENVS, -1), done
        stacks = following.copy()
        for env in np.flatnonzero(done):  # a fresh episode, whose first frame is the byte after
            stacks[env] = raw[time + 1][env] + 1


def filled(steps, capacity=1000, n_step=1, **fields):
    replay = PixelReplay(
        capacity,
        frame=FRAME,
        frames=FRAMES,
        num_envs=ENVS,
        batch_size=64,
        n_step=n_step,
        gamma=0.9,
        generator=torch.Generator().manual_seed(0),
        **fields,
    )
    written = []
    for time, (before, after, done) in enumerate(frames_of(np.random.default_rng(0), steps)):
        number = np.arange(ENVS) + time * ENVS
        replay.extend_arrays(
            before.astype(np.float32), number[:, None] / 1000.0, number * 1.0, after, done & False, done, done
        )
        written += [(before[env], after[env], done[env]) for env in range(ENVS)]
    return replay, written


@pytest.mark.parametrize("n_step", [1, 3])
def test_samples_are_the_stacks_that_were_written(n_step):
    replay, written = filled(200, n_step=n_step)
    batch = replay.batches(3)[2]
    assert batch.observation.dtype == torch.uint8
    numbers = (batch.action[:, 0] * 1000).round().long()
    assert len(set(numbers.tolist())) > 30
    for row, number in enumerate(numbers.tolist()):
        last = number
        for _ in range(n_step - 1):
            if written[last][2] or last + ENVS >= len(written):
                break
            last += ENVS
        assert np.array_equal(batch.observation[row].numpy(), written[number][0])
        assert np.array_equal(batch.next_observation[row].numpy(), written[last][1])


def test_a_full_ring_gives_what_it_still_holds():
    """What was overwritten is not taken for an older frame: the oldest one that is left is repeated."""
    replay, written = filled(200, capacity=2 * 30)
    batch = replay.batches(20)
    for part in batch:
        for row, number in enumerate((part.action[:, 0] * 1000).round().long().tolist()):
            expected = written[number][0].reshape(FRAMES, FRAME).copy()
            age = (number - (len(written) - 60)) // ENVS  # vector steps since the oldest one
            assert age >= 0
            for back in range(FRAMES - 1, age, -1):
                expected[FRAMES - 1 - back] = expected[FRAMES - 1 - age]
            assert np.array_equal(part.observation[row].numpy(), expected.ravel())


def test_seeds_draw_stacks_of_their_own_envs():
    generators = tuple(torch.Generator().manual_seed(seed) for seed in (0, 1))
    replay, written = filled(50)
    both = PixelReplay(
        1000, frame=FRAME, frames=FRAMES, num_envs=ENVS, batch_size=16, gamma=0.9, generator=generators
    )
    both.load(replay.state_dict(), (chunk.rows for chunk in replay.chunks()))
    batch = both.batch()
    numbers = (batch.action[..., 0] * 1000).round().long()
    assert torch.equal(numbers % ENVS, torch.tensor([[0], [1]]).expand(2, 16))
    for number, observation in zip(numbers.flatten().tolist(), batch.observation.flatten(0, 1), strict=True):
        assert np.array_equal(observation.numpy(), written[number][0])


def test_a_frame_is_stored_once_as_bytes_and_chunks_bring_it_back():
    replay, _ = filled(100)
    columns = -(-FRAME // 4)
    assert replay.packed.shape == (1000, 2 * columns + 1 + 1 + 4)
    other, _ = filled(0)
    other.load(replay.state_dict(), (chunk.rows for chunk in replay.chunks()))
    assert torch.equal(other.packed.view(torch.uint8), replay.packed.view(torch.uint8))
    for ring in (replay, other):
        ring.generator.manual_seed(5)
    one, two = replay.sample(), other.batch()
    assert one["observation"].shape == (64, FRAME * FRAMES) and one["next", "reward"].shape == (64, 1)
    assert torch.equal(one["next", "observation"], two.next_observation)


def test_observations_of_another_size_are_refused():
    replay, _ = filled(0)
    rows = np.zeros((ENVS, FRAME), np.uint8)
    flags = np.zeros(ENVS, np.bool_)
    with pytest.raises(ValueError, match=r"3 frames of 5 bytes were expected, \[transitions, 15\]"):
        replay.extend_arrays(rows, np.zeros((ENVS, 1)), np.zeros(ENVS), rows, flags, flags, flags)
    assert len(replay) == 0
