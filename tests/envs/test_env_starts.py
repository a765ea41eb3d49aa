"""Initial states: the batched `sample` against `draw`, which uses numpy's generator as Gymnasium does."""

import numpy as np
import pytest
import torch
from gymnasium_tasks import NAMES
from scipy import stats

from rlsuite.envs.engines.native import NativeEngine
from rlsuite.envs.tasks.base import load_task

DRAWN, SAMPLED = 1_500, 6_000
# There are about 700 coordinates, and chance alone gives one of a million a smaller value.
P_MIN = 1e-6


def both(name):
    """States of both kinds, positions and velocities side by side, `[count, Q + V]`."""
    task = load_task(name)
    engine = NativeEngine(task.model(), 1)
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(2)
    rest = engine.qpos0.numpy(), engine.qvel0.numpy()
    untouched = [part.copy() for part in rest]
    starts = [task.initial.draw(rng, *rest) for _ in range(DRAWN)]
    sampled = task.initial.sample(SAMPLED, engine.qpos0, engine.qvel0, generator)
    for part, before in zip(rest, untouched, strict=True):
        np.testing.assert_array_equal(part, before)
    drawn = np.stack([np.concatenate((start.qpos, start.qvel)) for start in starts])
    assert sampled.qpos.dtype == torch.float64
    return drawn, torch.cat((sampled.qpos, sampled.qvel), 1).numpy(), len(rest[0])


@pytest.mark.parametrize("name", NAMES)
def test_sample_and_draw_are_one_distribution(name):
    drawn, sampled, _ = both(name)
    assert sampled.shape == (SAMPLED, drawn.shape[1])
    moving = drawn.std(0) > 0
    np.testing.assert_array_equal(sampled[:, ~moving], drawn[:SAMPLED, ~moving][0][None].repeat(SAMPLED, 0))
    for column in np.flatnonzero(moving):
        assert stats.ks_2samp(drawn[:, column], sampled[:, column]).pvalue > P_MIN, column
    spread = drawn[:, moving].std(0)
    error = spread * (1 / DRAWN + 1 / SAMPLED) ** 0.5
    assert (abs(drawn[:, moving].mean(0) - sampled[:, moving].mean(0)) < 5 * error).all()
    np.testing.assert_allclose(sampled[:, moving].std(0), spread, rtol=0.1)
    # No two coordinates go together.
    correlation = np.corrcoef(sampled[:, moving].T) - np.eye(moving.sum())
    assert abs(correlation).max() < 6 / SAMPLED**0.5


@pytest.mark.parametrize(
    ("name", "columns", "inside"), [("Reacher", (2, 3), (0.0, 0.2)), ("Pusher", (7, 8), (0.17, 0.37))]
)
def test_places_are_spread_alike_over_the_plane(name, columns, inside):
    """Distance from the centre and direction, not only each axis by itself."""
    drawn, sampled, positions = both(name)
    assert columns[1] < positions
    drawn, sampled = drawn[:, columns], sampled[:, columns]
    for measure in (lambda place: np.hypot(*place.T), lambda place: np.arctan2(*place.T)):
        assert stats.ks_2samp(measure(drawn), measure(sampled)).pvalue > P_MIN
    for radius in (np.hypot(*drawn.T), np.hypot(*sampled.T)):
        assert (radius >= inside[0]).all() and (radius < inside[1]).all()


def test_a_wrong_distribution_would_be_seen():
    """The check has teeth: uniform radii put too many targets near the centre."""
    drawn, _, _ = both("Reacher")
    radii = 0.2 * np.random.default_rng(0).random(SAMPLED)
    assert stats.ks_2samp(np.hypot(*drawn[:, 2:4].T), radii).pvalue < P_MIN


def test_samples_repeat_with_the_generator_and_follow_the_type():
    task = load_task("Pusher")
    engine = NativeEngine(task.model(), 1)
    rest = engine.qpos0.float(), engine.qvel0.float()
    first, second = (task.initial.sample(5, *rest, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.qpos, second.qpos)
    assert first.qpos.dtype == first.qvel.dtype == torch.float32
