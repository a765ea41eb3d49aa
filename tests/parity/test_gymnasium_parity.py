"""Whole trajectories of our tasks against Gymnasium's own environments, bit for bit."""

import math

import gymnasium
import numpy as np
import pytest
import torch

from rlsuite.envs.make import make_env

TASKS = ("HalfCheetah", "Hopper", "Walker2d", "Swimmer", "InvertedPendulum", "InvertedDoublePendulum")
OLDER = tuple(f"{name}-v4" for name in TASKS)
STEPS = 1_000
SEEDS = (0, 1, 2)
# The order of summing an action's squares may differ; nothing else does.
REWARD_TOLERANCE = 1e-12

# Where numpy has its own sine (AVX-512) instead of the C library's, the sines and cosines of
# InvertedDoublePendulum may differ in the last digit; they are observed, and never fed back to the physics.
ANGLES = np.random.default_rng(0).uniform(-3, 3, 10_000)
NUMPY_USES_LIBM = bool((np.sin(ANGLES) == [math.sin(angle) for angle in ANGLES]).all())


def assert_same(env_id: str, ours: np.ndarray, theirs: np.ndarray, where: str = "") -> None:
    """Assert bitwise equality, but for numpy's own sines."""
    if env_id.startswith("InvertedDouble") and not NUMPY_USES_LIBM:
        np.testing.assert_array_max_ulp(ours[..., 1:5], theirs[..., 1:5], maxulp=2)
        ours, theirs = np.delete(ours, slice(1, 5), -1), np.delete(theirs, slice(1, 5), -1)
    np.testing.assert_array_equal(ours, theirs, where)


def compare(env_id: str, seed: int, num_envs: int, steps: int, limit: int | None = None) -> int:
    """Step our worlds and as many Gymnasium environments in parallel; return the number of resets."""
    name = env_id if "-v" in env_id else f"{env_id}-v5"
    ours = make_env(env_id, num_envs, seed=seed, dtype=torch.float64, max_episode_steps=limit, threads=1)
    theirs = [gymnasium.make(name, max_episode_steps=limit) for _ in range(num_envs)]
    half = np.array(ours.half_range)
    rng = np.random.default_rng(seed)
    td = ours.reset()
    start = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(theirs)])
    assert_same(env_id, td["observation"].numpy(), start)
    resets = 0
    for step in range(steps):
        action = rng.uniform(-1, 1, (num_envs, len(half)))
        td["action"] = torch.from_numpy(action)
        td = ours.step(td)
        after = td["next"]
        for world, env in enumerate(theirs):
            observation, reward, terminated, truncated, _ = env.step(action[world] * half)
            where = f"{env_id} seed {seed} world {world} step {step}"
            assert_same(env_id, after["observation"][world].numpy(), observation, where)
            assert abs(after["reward"][world].item() - reward) <= REWARD_TOLERANCE, where
            assert after["terminated"][world].item() is bool(terminated), where
            assert after["truncated"][world].item() is bool(truncated), where
        td = ours.maybe_reset(ours.step_mdp(td))
        for world in after["done"].flatten().nonzero().flatten().tolist():
            resets += 1
            assert_same(env_id, td["observation"][world].numpy(), theirs[world].reset()[0], f"{env_id} reset")
    ours.close()
    for env in theirs:
        env.close()
    return resets


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("env_id", TASKS)
def test_one_world_is_gymnasium_for_a_thousand_steps_and_a_reset(env_id: str, seed: int) -> None:
    assert compare(env_id, seed, num_envs=1, steps=STEPS + 5) >= 1


@pytest.mark.parametrize("env_id", TASKS)
def test_eight_worlds_are_eight_gymnasiums_across_time_limits(env_id: str) -> None:
    assert compare(env_id, seed=7, num_envs=8, steps=120, limit=50) >= 16


@pytest.mark.parametrize("env_id", OLDER)
def test_older_versions_are_gymnasiums_older_versions(env_id: str) -> None:
    assert compare(env_id, seed=3, num_envs=2, steps=200, limit=150) >= 2
