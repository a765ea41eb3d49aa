"""The task layer alone: pure functions fed with the fields of Gymnasium's own simulation."""

import dataclasses
import importlib

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium_tasks import IDS, OPTIONS

from rlsuite.envs.names import tasks_by_name
from rlsuite.envs.tasks.base import GYMNASIUM_MODELS, load_task

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date")
FALLING = {"Hopper", "Humanoid", "InvertedDoublePendulum", "InvertedPendulum", "Walker2d"}
ULPS = 1e-15  # numpy's sine may differ from the C library's in the last digit
SINGLE = 1e-4  # float32 against float64, relative to max(1, |x|)
KINDS = {torch.float64: ULPS, torch.float32: SINGLE, float: ULPS}  # tensors, and numpy's arrays


def fields_of(task, data, dtype=torch.float64):
    """The fields of one mjData as a batch of one world: tensors, or of the type float arrays."""
    arrays = {name: getattr(data, name)[None].copy() for name in task.fields}
    if dtype is float:
        return arrays
    return {name: torch.from_numpy(array).to(dtype) for name, array in arrays.items()}


def follow_gymnasium(name, version, options, steps):
    """Feed the functions with the fields of Gymnasium's simulation; return the number of terminations."""
    task = load_task(name, version, options)
    env = gymnasium.make(task.env_id, **options)
    data, half = env.unwrapped.data, env.action_space.high.astype(float)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    ends = 0
    for _ in range(steps):
        action = rng.uniform(-half, half)
        before = {dtype: task.before(fields_of(task, data, dtype)) for dtype in KINDS}
        observation, reward, terminated, _, _ = env.step(action)
        for dtype, tolerance in KINDS.items():
            fields = fields_of(task, data, dtype)
            taken = action[None] if dtype is float else torch.from_numpy(action).to(dtype).unsqueeze(0)
            ended = task.terminated(fields)
            ours = task.observation(fields)
            assert ours.dtype == dtype
            assert ended.tolist() == [terminated]
            np.testing.assert_allclose(ours[0], observation, rtol=tolerance, atol=tolerance)
            assert isinstance(ours, np.ndarray) is isinstance(ended, np.ndarray) is (dtype is float)
            if dtype in (torch.float64, float):
                paid = task.reward(before[dtype], fields, taken, ended)
                assert paid.shape == (1,)
                assert abs(paid.item() - reward) <= 1e-12
            else:
                assert task.reward(before[dtype], fields, taken, ended).dtype == dtype
        if terminated:
            ends += 1
            env.reset()
    return ends


@pytest.mark.parametrize(("name", "version"), IDS)
def test_functions_give_gymnasiums_numbers(name, version):
    assert follow_gymnasium(name, version, {}, steps=100) > 0 or name not in FALLING


@pytest.mark.long
@pytest.mark.parametrize(("name", "version"), IDS)
def test_functions_give_gymnasiums_numbers_for_a_thousand_steps(name, version):
    assert follow_gymnasium(name, version, {}, steps=1_000) > 0 or name not in FALLING


@pytest.mark.parametrize(("env_id", "options"), OPTIONS)
def test_functions_with_options_give_gymnasiums_numbers(env_id, options):
    follow_gymnasium(*env_id.split("-"), options, steps=40)


def test_every_option_is_tried():
    """In some case of OPTIONS, for every version that has it, with a value that is not the default."""
    tried = set()
    for env_id, options in OPTIONS:
        name, version = env_id.split("-")
        defaults = task_module(name).Options()
        tried |= {(name, version, key) for key, value in options.items() if getattr(defaults, key) != value}
    for name, version in IDS:
        module = task_module(name)
        names = {field.name for field in dataclasses.fields(module.Options)} - module.VERSIONS[version]
        missing = [key for key in names - {"xml_file"} if (name, version, key) not in tried]
        assert not missing, (name, version, missing)


def task_module(name):
    return importlib.import_module(f"rlsuite.envs.tasks.{tasks_by_name()[name].stem}")


@pytest.mark.parametrize(("name", "version"), IDS)
def test_constants_are_gymnasiums(name, version):
    task = load_task(name, version)
    env = gymnasium.make(task.env_id)
    fields = fields_of(task, mujoco.MjData(env.unwrapped.model))
    assert task.observation(fields).shape == (1, *env.observation_space.shape)
    model = task.model()
    assert task.substeps == env.unwrapped.frame_skip
    assert task.dt == pytest.approx(env.unwrapped.dt, abs=1e-15)
    assert task.dt == pytest.approx(task.substeps * model.opt.timestep, abs=1e-15)
    assert task.max_episode_steps == gymnasium.spec(task.env_id).max_episode_steps
    assert mujoco.mj_sizeModel(model) == mujoco.mj_sizeModel(env.unwrapped.model)
    assert str(GYMNASIUM_MODELS / task.model.args[0].name) == env.unwrapped.fullpath


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", sorted({*FALLING, "Ant"} - {"InvertedDoublePendulum"}))
def test_numbers_that_are_none_are_not_healthy(name, bad):
    """In whichever position or velocity they stand that the task looks at."""
    task = load_task(name)
    data = mujoco.MjData(task.model())
    mujoco.mj_forward(task.model(), data)
    fields = fields_of(task, data)
    assert not task.terminated(fields).any()
    column = {"Hopper": 4, "InvertedPendulum": 0, "Walker2d": 2, "Humanoid": 2, "Ant": 9}[name]
    fields["qpos"][:, column] = bad
    assert task.terminated(fields).all()


@pytest.mark.parametrize(("name", "version"), IDS)
def test_rows_do_not_mix(name, version):
    """A batch of worlds gives what each world gives alone; inputs are left as they were."""
    task = load_task(name, version)
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
