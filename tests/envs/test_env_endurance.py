"""Random actions for long: every number finite, no world cut off, memory flat."""

import resource
from pathlib import Path

import pytest
import torch
from gymnasium_tasks import NAMES

from rlsuite.envs.base import VectorEnv

MEMORY = Path("/proc/self/statm")  # Linux: its second number counts the pages in use
ROOM = 8 * 2**20  # bytes that may be allocated late; keeping one row of a step would take more


def bytes_in_use() -> int:
    return int(MEMORY.read_text().split()[1]) * resource.getpagesize()


def wander(env: VectorEnv, steps: int) -> int:
    """Take uniform actions with resets; return how many episodes ended."""
    generator = torch.Generator().manual_seed(0)
    td, ended = env.reset(), 0
    for _ in range(steps):
        td["action"] = 2 * torch.rand(env.action_spec.shape, generator=generator) - 1
        td = env.step(td)
        after = td["next"]
        assert torch.isfinite(after["observation"]).all()
        assert torch.isfinite(after["reward"]).all()
        assert after["valid"].all()
        ended += int(after["done"].sum())
        td = env.maybe_reset(env.step_mdp(td))
    return ended


@pytest.mark.parametrize("name", NAMES)
def test_numbers_stay_finite_for_a_while(make, name):
    env = make(name, 4, threads=1, max_episode_steps=60)
    assert wander(env, 130) >= 8
    assert env.nan_resets == 0


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.skipif(not MEMORY.exists(), reason="reads memory in use from /proc")
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_vector_steps_of_64_worlds(make, name):
    env = make(name, 64)
    wander(env, 1_000)
    before = bytes_in_use()
    wander(env, 9_000)
    assert env.nan_resets == 0
    assert bytes_in_use() - before < ROOM
