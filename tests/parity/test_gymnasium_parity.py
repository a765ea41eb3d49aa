"""Whole trajectories of our tasks against Gymnasium's own environments, bit for bit."""

import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium_tasks import IDS, OPTIONS, assert_same_observation, assert_same_reward

from rlsuite.envs.make import make_env
from rlsuite.envs.tasks.base import load_task

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date")


def theirs_of(env_id: str, **arguments: object) -> gymnasium.Env:
    """Make Gymnasium's environment without its word on older versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make(env_id, **arguments)


def compare(
    env_id: str,
    seed: int,
    num_envs: int,
    steps: int,
    limit: int | None = None,
    options: dict | None = None,
    legacy_margin: bool = False,
) -> int:
    """Step our worlds and as many Gymnasium environments in parallel; return the number of resets."""
    name = env_id.partition("-")[0]
    ours = make_env(
        env_id,
        num_envs,
        seed=seed,
        dtype=torch.float64,
        max_episode_steps=limit,
        threads=1,
        options=options,
        legacy_margin=legacy_margin,
    )
    theirs = [theirs_of(env_id, max_episode_steps=limit, **(options or {})) for _ in range(num_envs)]
    for env in theirs if legacy_margin else ():
        env.unwrapped.model.geom_margin[:] /= 2
    half = np.array(ours.half_range)
    rng = np.random.default_rng(seed)
    td = ours.reset()
    start = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(theirs)])
    assert_same_observation(name, td["observation"].numpy(), start, f"{env_id} start")
    resets = 0
    for step in range(steps):
        action = rng.uniform(-1, 1, (num_envs, len(half)))
        td["action"] = torch.from_numpy(action)
        td = ours.step(td)
        after = td["next"]
        for world, env in enumerate(theirs):
            observation, reward, terminated, truncated, _ = env.step(action[world] * half)
            where = f"{env_id} seed {seed} world {world} step {step}"
            assert_same_observation(name, after["observation"][world].numpy(), observation, where)
            assert_same_reward(name, after["reward"][world].item(), float(reward), where)
            assert after["terminated"][world].item() is bool(terminated), where
            assert after["truncated"][world].item() is bool(truncated), where
        td = ours.maybe_reset(ours.step_mdp(td))
        for world in after["done"].flatten().nonzero().flatten().tolist():
            resets += 1
            fresh = theirs[world].reset()[0]
            assert_same_observation(name, td["observation"][world].numpy(), fresh, f"{env_id} reset")
    ours.close()
    for env in theirs:
        env.close()
    return resets


@pytest.mark.parametrize(("name", "version"), IDS)
def test_two_worlds_are_two_gymnasiums_across_time_limits(name: str, version: str) -> None:
    assert compare(f"{name}-{version}", seed=7, num_envs=2, steps=100, limit=45) >= 4


@pytest.mark.parametrize(("env_id", "options"), OPTIONS)
def test_options_are_gymnasiums_options(env_id: str, options: dict) -> None:
    assert compare(env_id, seed=1, num_envs=1, steps=75, limit=35, options=options) >= 2


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("name", "version"), IDS)
def test_one_world_is_gymnasium_for_a_thousand_steps_and_a_reset(name: str, version: str, seed: int) -> None:
    assert compare(f"{name}-{version}", seed, num_envs=1, steps=1_005) >= 1


@pytest.mark.long
@pytest.mark.parametrize(("env_id", "options"), OPTIONS)
def test_options_are_gymnasiums_options_for_a_thousand_steps(env_id: str, options: dict) -> None:
    assert compare(env_id, seed=5, num_envs=1, steps=1_005, options=options) >= 1


@pytest.mark.parametrize("env_id", ["Ant-v5", "Hopper-v4"])
def test_legacy_margins_are_gymnasium_on_halved_margins(env_id: str) -> None:
    compare(env_id, seed=2, num_envs=1, steps=200, limit=100, legacy_margin=True)


@pytest.mark.parametrize("name", ["Ant", "Hopper", "Humanoid", "HumanoidStandup", "Pusher"])
def test_half_of_equal_margins_is_what_the_larger_one_was(name: str) -> None:
    """Halving is right only where all margins of a model are equal: max(m, m) = m / 2 + m / 2."""
    margins = load_task(name).model().geom_margin
    assert margins[0] > 0
    assert (margins == margins[0]).all()


def test_legacy_margins_change_the_physics_where_contacts_have_margins() -> None:
    """Hopper's, and not HalfCheetah's."""
    assert mujoco.mj_versionString() >= "3.17"
    for name, differs in (("Hopper", True), ("HalfCheetah", False)):
        ends = []
        for legacy_margin in (False, True):
            env = make_env(name, 1, seed=0, dtype=torch.float64, threads=1, legacy_margin=legacy_margin)
            td = env.reset()
            for _ in range(15):
                td["action"] = torch.full_like(env.action_spec.zero(), 0.3)
                td = env.step_mdp(env.step(td))
            ends.append(td["observation"])
            env.close()
        assert torch.equal(*ends) is not differs
