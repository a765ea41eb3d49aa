"""Initial states: dm_control's own for single worlds, a pool of them for devices."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlsuite.envs.names import suite_tasks_by_name
from rlsuite.envs.seeding import EPISODE_SEEDS
from rlsuite.envs.tasks.dmc import base
from rlsuite.envs.tasks.dmc.base import load_original, load_suite_task
from rlsuite.errors import EnvironmentFailure

TASKS = tuple(suite_tasks_by_name())
NOTHING = np.zeros(0)
STANDARD_ERRORS = 5  # of a difference of means; the seeds are fixed


def sample(starts, count, dtype=torch.float64, seed=0):
    rest = torch.zeros(0, dtype=dtype)
    return starts.sample(count, rest, rest, torch.Generator().manual_seed(seed))


def close(first: np.ndarray, second: np.ndarray) -> None:
    """Assert that the means and spreads of two sets of states are those of one distribution."""
    error = np.sqrt(first.var(0) / len(first) + second.var(0) / len(second)) + 1e-12
    assert (np.abs(first.mean(0) - second.mean(0)) <= STANDARD_ERRORS * error).all()
    spread = (first.std(0) + second.std(0)) / 2 + 1e-12
    # Few of these distributions have heavier tails than the normal one, whose spread is known to this.
    bound = STANDARD_ERRORS * spread * np.sqrt(1 / len(first) + 1 / len(second))
    assert (np.abs(first.std(0) - second.std(0)) <= bound).all()


@pytest.mark.parametrize("name", TASKS)
def test_a_draw_is_dm_controls_episode(name):
    starts = load_suite_task(name).initial
    env = load_original(*name.split("-"))
    rng, seeds = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(3):
        start = starts.draw(rng, NOTHING, NOTHING)
        env.task.random.seed(int(seeds.integers(EPISODE_SEEDS)))
        env.reset()
        assert (start.qpos == env.physics.data.qpos).all()
        assert (start.qvel == env.physics.data.qvel).all()
        assert start.act is None or (start.act == env.physics.data.act).all()
        assert (start.act is None) == (env.physics.model.na == 0)
        assert (start.goal is None) == (load_suite_task(name).goal_size == 0)
        if start.goal is not None:
            assert (start.goal == starts.goal(env.physics)).all()


@pytest.mark.parametrize("name", ["cartpole-swingup", "walker-walk", "finger-turn_hard", "reacher-easy"])
def test_the_pool_is_dm_controls_distribution(name):
    starts = load_suite_task(name).initial
    states = sample(starts, 20_000)
    rng = np.random.default_rng(77)
    fresh = [starts.draw(rng, NOTHING, NOTHING) for _ in range(1000)]
    pool = base._pool(starts, torch.device("cpu"), torch.float64)
    for part in ("qpos", "qvel", *(("goal",) if starts.goal is not None else ())):
        drawn = np.stack([getattr(start, part) for start in fresh])
        close(getattr(pool, part).numpy(), drawn)
        close(getattr(states, part).numpy()[: starts.pool_size], drawn)
    assert len(states.qpos.unique(dim=0)) > 0.95 * starts.pool_size * (1 - np.exp(-20_000 / starts.pool_size))


def test_targets_are_where_dm_control_puts_them():
    radius = sample(load_suite_task("reacher-easy").initial, 5000).goal.norm(dim=-1)
    assert radius.min() >= 0.05
    assert radius.max() <= 0.20
    assert radius.mean() == pytest.approx(0.125, abs=0.003)
    hinge = torch.tensor([0.2, 0.4], dtype=torch.float64)  # metres: where the body is hung up
    target = sample(load_suite_task("finger-turn_easy").initial, 5000).goal - hinge
    assert target.norm(dim=-1).std() < 1e-12
    assert target.mean(0).abs().max() < 0.01


def test_sampling_is_seeded_and_keeps_the_precision():
    starts = replace(load_suite_task("quadruped-walk").initial, pool_size=16)
    first, same, other = sample(starts, 8), sample(starts, 8), sample(starts, 8, seed=1)
    assert torch.equal(first.qpos, same.qpos)
    assert not torch.equal(first.qpos, other.qpos)
    assert first.act.shape == (8, 12)
    assert first.warmstart.shape == (8, 22)
    assert first.goal is None
    assert sample(starts, 8, torch.float32).qpos.dtype == torch.float32


def test_the_pool_is_the_same_in_every_process():
    starts = replace(load_suite_task("ball_in_cup-catch").initial, pool_size=32)
    where = torch.device("cpu"), torch.float64
    first = base._pool(starts, *where)
    base._pool.cache_clear()
    base._original.cache_clear()
    again = base._pool(starts, *where)
    assert again.qpos is not first.qpos
    assert torch.equal(again.qpos, first.qpos)
    assert torch.equal(again.warmstart, first.warmstart)


def test_a_draw_that_fails_is_an_environment_failure(monkeypatch):
    starts = load_suite_task("finger-spin").initial
    env = base._original("finger", "spin")

    def give_up(_):
        raise RuntimeError("Could not find a collision-free state")

    monkeypatch.setattr(env.task, "initialize_episode", give_up)
    with pytest.raises(EnvironmentFailure, match="finger-spin: Could not find"):
        starts.draw(np.random.default_rng(0), NOTHING, NOTHING)
