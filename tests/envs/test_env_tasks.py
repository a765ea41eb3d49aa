"""The task layer alone: pure functions fed with the fields of Gymnasium's own simulation."""

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from rlsuite.envs.tasks.base import GYMNASIUM_MODELS, load_task

TASKS = ("HalfCheetah", "Hopper", "Walker2d", "Swimmer", "InvertedPendulum", "InvertedDoublePendulum")
IDS = [(name, version) for name in TASKS for version in ("v4", "v5")]
STEPS = 150
ULPS = 1e-15  # numpy's sine may differ from the C library's in the last digit
SINGLE = 1e-4  # float32 against float64, relative to max(1, |x|)


def fields_of(task, data, dtype=torch.float64):
    """The fields of one mjData as a batch of one world."""
    return {name: torch.from_numpy(getattr(data, name).copy()).to(dtype).unsqueeze(0) for name in task.fields}


@pytest.mark.parametrize(("name", "version"), IDS)
def test_functions_give_gymnasiums_numbers(name, version):
    task = load_task(name, version)
    env = gymnasium.make(task.env_id)
    data, half = env.unwrapped.data, env.action_space.high.astype(float)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    ends = 0
    for _ in range(STEPS):
        action = rng.uniform(-half, half)
        before = {
            dtype: task.before(fields_of(task, data, dtype)) for dtype in (torch.float32, torch.float64)
        }
        observation, reward, terminated, _, _ = env.step(action)
        for dtype, tolerance in ((torch.float64, ULPS), (torch.float32, SINGLE)):
            fields = fields_of(task, data, dtype)
            taken = torch.from_numpy(action).to(dtype).unsqueeze(0)
            ended = task.terminated(fields)
            ours = task.observation(fields)
            assert ours.dtype == dtype
            assert ended.tolist() == [terminated]
            np.testing.assert_allclose(ours[0], observation, rtol=tolerance, atol=tolerance)
            if dtype == torch.float64:
                paid = task.reward(before[dtype], fields, taken, ended)
                assert abs(paid.item() - reward) <= 1e-12
            else:
                assert task.reward(before[dtype], fields, taken, ended).dtype == dtype
        if terminated:
            ends += 1
            env.reset()
    assert ends > 0 or name in ("HalfCheetah", "Swimmer")


@pytest.mark.parametrize(("name", "version"), IDS)
def test_constants_are_gymnasiums(name, version):
    task = load_task(name, version)
    env = gymnasium.make(task.env_id)
    model = task.model()
    assert task.substeps == env.unwrapped.frame_skip
    assert task.dt == pytest.approx(env.unwrapped.dt, abs=1e-15)
    assert task.dt == pytest.approx(task.substeps * model.opt.timestep, abs=1e-15)
    assert task.max_episode_steps == gymnasium.spec(task.env_id).max_episode_steps
    assert mujoco.mj_sizeModel(model) == mujoco.mj_sizeModel(env.unwrapped.model)
    assert str(GYMNASIUM_MODELS / task.model.args[0].name) == env.unwrapped.fullpath


@pytest.mark.parametrize("name", TASKS)
def test_rows_do_not_mix(name):
    """A batch of worlds gives what each world gives alone; inputs are left as they were."""
    task = load_task(name)
    model = task.model()
    data = mujoco.MjData(model)
    generator = torch.Generator().manual_seed(0)
    shapes = {field: getattr(data, field).shape for field in task.fields}
    fields = {
        field: torch.randn((5, *shape), generator=generator, dtype=torch.float64)
        for field, shape in shapes.items()
    }
    copies = {field: value.clone() for field, value in fields.items()}
    action = torch.randn((5, model.nu), generator=generator, dtype=torch.float64)
    before, ended = task.before(fields), task.terminated(fields)
    together = (task.observation(fields), task.reward(before, fields, action, ended), ended)
    assert together[1].shape == ended.shape == (5,)
    for world in range(5):
        alone = {field: value[world : world + 1] for field, value in fields.items()}
        end = task.terminated(alone)
        paid = task.reward(task.before(alone), alone, action[world : world + 1], end)
        for whole, single in zip(together, (task.observation(alone), paid, end), strict=True):
            torch.testing.assert_close(whole[world : world + 1], single, rtol=1e-14, atol=1e-14)
    assert all(torch.equal(copies[field], fields[field]) for field in fields)
