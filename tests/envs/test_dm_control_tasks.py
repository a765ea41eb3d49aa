"""The suite's task functions alone, fed with the fields of dm_control's own simulation."""

from collections.abc import Iterator

import mujoco
import numpy as np
import pytest
import torch

from rlsuite.envs.names import suite_tasks_by_name
from rlsuite.envs.tasks.base import Task
from rlsuite.envs.tasks.dmc.base import load_original, load_suite_model, load_suite_task
from rlsuite.errors import ConfigError

TASKS = tuple(suite_tasks_by_name())
STATES = 500  # simulated states per task, episodes and thrown poses
EPISODE = 25  # env steps after which a state is thrown
SMALL = 5  # models with at most so many positions are thrown anywhere
DOUBLE = 1e-10
SINGLE = 1e-3  # float32 against float64, relative to max(1, |x|); forces reach thousands of newtons


def simulated(name: str, task: Task) -> Iterator[tuple[dict, np.ndarray, np.ndarray, float, float | None]]:
    """Yield (fields, action, observation, reward, discount) of dm_control's environment.

    Every third step starts from a state thrown near the rest pose, far from it, or to where the reward is,
    so that rewards are not always zero.
    """
    env = load_original(*name.split("-"))
    env.task.random.seed(1)
    physics, rng = env.physics, np.random.default_rng(0)
    spec = env.action_spec()
    for step in range(STATES):
        if step % EPISODE == 0:
            env.reset()
        if step % 3 == 0:
            throw(name, physics, rng)
        goal = np.zeros(0) if task.initial.goal is None else task.initial.goal(physics)
        action = rng.uniform(spec.minimum, spec.maximum)
        after = env.step(action)
        fields = {field: np.array(getattr(physics.data, field)) for field in task.fields} | {"goal": goal}
        flat = np.concatenate([np.ravel(part) for part in after.observation.values()])
        yield fields, action, flat, after.reward, env.task.get_termination(physics)


def throw(name: str, physics, rng: np.random.Generator) -> None:
    """Move joints and velocities at random; large models a little, small ones anywhere."""
    small = physics.model.nq <= SMALL
    with physics.reset_context():
        spread = rng.choice([0.02, 2.0]) if small else 0.03
        speed = rng.choice([0.1, 3.0, 20.0] if small else [0.1, 1.0, 3.0])
        physics.data.qpos[:] += spread * rng.standard_normal(physics.model.nq)
        physics.data.qvel[:] = speed * rng.standard_normal(physics.model.nv)
        physics.data.act[:] = rng.uniform(-0.5, 0.5, physics.model.na)
        if name == "ball_in_cup-catch":
            physics.data.qpos[:] = (0, 0, 0, 0.35)  # in the middle of the cup
    if name.startswith("reacher"):
        model, data = physics.named.model, physics.named.data
        model.geom_pos["target", :2] = data.geom_xpos["finger", :2] + 0.02 * rng.standard_normal(2)


@pytest.mark.parametrize("name", TASKS)
def test_functions_give_dm_controls_numbers(name):
    """In one batch of all states, in both precisions."""
    task = load_suite_task(name)
    fields, actions, observations, rewards, ends = zip(*simulated(name, task), strict=True)
    assert set(ends) == {None}  # none of these tasks ends an episode
    expected, paid = np.stack(observations), np.array(rewards)
    assert len(set(rewards)) > 1, "the states show one reward only"
    arrays = {key: np.stack([row[key] for row in fields]) for key in fields[0]}
    for dtype, tolerance in ((torch.float64, DOUBLE), (torch.float32, SINGLE), (np.float64, DOUBLE)):
        batch, taken = arrays, np.stack(actions)
        if dtype is not np.float64:
            batch = {key: torch.from_numpy(value).to(dtype) for key, value in arrays.items()}
            taken = torch.from_numpy(taken).to(dtype)
        copies = {key: np.asarray(value).copy() for key, value in batch.items()}
        observation, terminated = task.observation(batch), task.terminated(batch)
        reward = task.reward(task.before(batch), batch, taken, terminated)
        assert observation.dtype == reward.dtype == dtype
        assert reward.shape == terminated.shape == (STATES,)
        assert not terminated.any()
        np.testing.assert_allclose(observation, expected, rtol=tolerance, atol=tolerance)
        close = np.isclose(reward, paid, rtol=0, atol=tolerance)
        # In float32 a state within rounding of the edge of a sparse reward may fall on the other side.
        assert close.all() or (dtype == torch.float32 and close.mean() > 0.99)
        assert isinstance(reward, np.ndarray) is (dtype is np.float64)
        assert all(np.array_equal(copies[key], batch[key], equal_nan=True) for key in batch)


@pytest.mark.parametrize("name", TASKS)
def test_constants_are_dm_controls(name):
    task = load_suite_task(name)
    env = load_original(*name.split("-"))
    model = task.model()
    assert task.substeps == env._n_sub_steps
    assert task.dt == pytest.approx(env.control_timestep(), abs=1e-15)
    assert task.max_episode_steps == env._step_limit
    assert mujoco.mj_sizeModel(model) == mujoco.mj_sizeModel(env.physics.model.ptr)
    assert model.actuator_ctrllimited.all()
    assert model.opt.disableflags == env.physics.model.opt.disableflags
    assert task.model() is not model
    assert {"qpos", "qvel"} <= set(task.fields)


def test_a_model_with_things_in_other_places_is_refused():
    with pytest.raises(ConfigError, match=r"has body torso at 1, and rlsuite expects it at 2.*--engine dmc"):
        load_suite_model("walker", "walk", {"body torso": 2})
    with pytest.raises(ConfigError, match="sensor wings at None"):
        load_suite_model("walker", "walk", {"sensor wings": 0})


def test_an_unknown_task_is_refused():
    with pytest.raises(ConfigError, match='Did you mean "cheetah-run"'):
        load_suite_task("cheetah-runs")
