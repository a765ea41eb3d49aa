"""Whole trajectories of the batched suite against dm_control's own environments, from the same seeds."""

import pytest
import torch

from rlsuite.envs.make import make_env
from rlsuite.envs.names import suite_tasks_by_name

TASKS = tuple(suite_tasks_by_name())
ONE_PER_DOMAIN = tuple({task.stem: name for name, task in suite_tasks_by_name().items()}.values())
# numpy and torch may differ in the last digit of a logarithm or a square root; the physics may not.
TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def scratch_folder(tmp_path, monkeypatch):
    """MuJoCo writes its warnings to a file in the working directory."""
    monkeypatch.chdir(tmp_path)


def compare(name: str, seed: int, num_envs: int, steps: int, limit: int | None) -> int:
    """Play both engines with the same actions; return the number of resets."""
    options = {"seed": seed, "dtype": torch.float64, "max_episode_steps": limit}
    ours = make_env(f"dmc:{name}", num_envs, threads=1, **options)
    theirs = make_env(f"dmc:{name}", num_envs, engine="dmc", **options)
    assert (ours.engine_name, theirs.engine_name) == ("native", "dmc")
    assert ours.half_range == theirs.half_range
    assert ours.max_episode_steps == theirs.max_episode_steps
    generator = torch.Generator().manual_seed(seed)
    left, right = ours.reset(), theirs.reset()
    resets = 0
    for step in range(steps):
        torch.testing.assert_close(
            left["observation"], right["observation"], rtol=0, atol=TOLERANCE, msg=f"{name}, row {step}"
        )
        action = torch.rand(ours.action_spec.shape, generator=generator, dtype=torch.float64) * 2 - 1
        left["action"], right["action"] = action, action.clone()
        left, right = ours.step(left), theirs.step(right)
        for key in ("observation", "reward"):
            torch.testing.assert_close(
                left["next", key], right["next", key], rtol=0, atol=TOLERANCE, msg=f"{name}, {key}, {step}"
            )
        for key in ("terminated", "truncated", "done", "valid"):
            assert torch.equal(left["next", key], right["next", key]), f"{name}, {key}, step {step}"
        assert left["next", "valid"].all()
        for world, data in enumerate(
            ours.engine.data(i) for i in range(num_envs)
        ):  # what is not observed must agree, too, to the bit
            other = theirs._originals[world].physics.data
            assert (data.qpos == other.qpos).all(), f"{name}, world {world}, step {step}"
            assert (data.qvel == other.qvel).all(), f"{name}, world {world}, step {step}"
            assert (data.act == other.act).all(), f"{name}, world {world}, step {step}"
        resets += int(left["next", "done"].sum())
        left = ours.maybe_reset(ours.step_mdp(left))
        right = theirs.maybe_reset(theirs.step_mdp(right))
    ours.close()
    theirs.close()
    return resets


@pytest.mark.parametrize("name", ONE_PER_DOMAIN)
def test_two_worlds_are_two_of_dm_controls_across_time_limits(name: str) -> None:
    assert compare(name, seed=1, num_envs=2, steps=60, limit=25) == 4


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", TASKS)
def test_one_world_is_dm_controls_for_a_thousand_steps_and_a_reset(name: str, seed: int) -> None:
    assert compare(name, seed=seed, num_envs=1, steps=1_005, limit=None) == 1
