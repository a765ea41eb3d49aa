"""Domain randomisation: factors, physics, streams, state; observations for actors and for critics."""

import mujoco
import numpy as np
import pytest
import torch
from env_helpers import random_actions
from torchrl.envs.utils import check_env_specs

from rlsuite.envs.check import check_env
from rlsuite.envs.options import EnvOptions
from rlsuite.envs.sb3 import SB3VecEnv
from rlsuite.envs.tasks.base import load_task
from rlsuite.errors import ConfigError

ALL = {
    "vary_mass": (0.5, 2.0),
    "vary_friction": (0.3, 1.0),
    "vary_damping": (0.9, 1.1),
    "vary_gain": (0.8, 1.2),
}


def test_every_env_runs_on_a_model_of_its_own_and_its_numbers_are_mujocos(make):
    env = make("HalfCheetah", 2, seed=3, options=ALL, dtype=torch.float64)
    shown = env.reset_arrays()
    assert env.facts.private == 8 + 1 + 9 + 6 and shown.shape == (2, 17 + 24)
    factors = env.variation.factors.copy()
    assert np.array_equal(shown[:, 17:], factors)
    assert (factors[0] != factors[1]).all()
    models, datas = [], []
    for index in range(2):
        model = load_task("HalfCheetah").model()
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        mass, friction, damping, gain = np.split(factors[index], [8, 9, 18])
        model.body_mass *= mass
        model.body_inertia *= mass[:, None]
        model.geom_friction *= friction
        model.dof_damping *= damping
        model.actuator_gainprm *= gain[:, None]
        mujoco.mj_setConst(model, mujoco.MjData(model))
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = env.engine.arrays["qpos"][index], env.engine.arrays["qvel"][index]
        mujoco.mj_forward(model, data)
        models.append(model)
        datas.append(data)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 2, 6)):
        env.step_arrays(action)
        for index, (model, data) in enumerate(zip(models, datas, strict=True)):
            data.ctrl[:] = action[index]
            for _ in range(5):
                mujoco.mj_step(model, data)
            assert np.array_equal(env.engine.arrays["qpos"][index], data.qpos)


def test_factors_lie_in_their_ranges_and_are_drawn_anew_env_by_env(make):
    env = make("Hopper", 4, options=ALL)
    plain = make("Hopper", 4)
    first = env.reset_arrays()
    assert np.array_equal(first[:, :11], plain.reset_arrays())  # Gymnasium's initial states
    drawn = []
    for _ in range(50):
        drawn.append(env.variation.factors.copy())
        env.reset_arrays()
    names = env.variation.names
    assert names[:2] == ["mass/world", "mass/torso"] and "friction" in names and "damping/0" in names
    drawn = np.array(drawn)
    for quantity in ("mass", "friction", "damping", "gain"):
        low, high = ALL[f"vary_{quantity}"]
        columns = [index for index, name in enumerate(names) if name.partition("/")[0] == quantity]
        values = drawn[..., columns]
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high >= values.max() > high - 0.1 * (high - low)
    before = env.variation.factors.copy()
    env.reset_arrays(np.array([False, True, False, False]))
    assert (env.variation.factors != before).any(1).tolist() == [False, True, False, False]


def test_a_saved_state_has_the_factors(make):
    assert check_env("Hopper", EnvOptions(options=ALL)) == []
    env = make("Walker2d", 2, options=ALL)
    env.reset_arrays()
    rng = np.random.default_rng(0)
    for _ in range(3):
        env.step_arrays(rng.uniform(-1, 1, (2, 6)))
    twin = make("Walker2d", 2, seed=9, options=ALL)
    twin.reset_arrays()
    twin.load_state_dict(env.state_dict())
    for step in range(10):
        action = rng.uniform(-1, 1, (2, 6))
        one, two = env.step_arrays(action), twin.step_arrays(action)
        assert np.array_equal(one.observation, two.observation)
        if step == 5:
            assert np.array_equal(env.reset_arrays(), twin.reset_arrays())


def test_torchrl_sees_both_observations(make):
    env = make("Hopper", 3, options={"vary_mass": (0.5, 2.0)}, max_episode_steps=4)
    check_env_specs(env, seed=0)
    td = env.reset()
    for action in random_actions(env, 6):
        td["action"] = action
        td = env.step(td)
        for row in (td, td["next"]):
            assert row["observation"].shape == (3, 11)
            assert torch.equal(row["critic", "observation"][:, :11], row["observation"])
            assert row["critic", "observation"].shape == (3, 11 + 5)
        td = env.maybe_reset(env.step_mdp(td))


def test_factors_may_be_kept_from_everybody(make):
    told = make("Hopper", 2, options={"vary_mass": (0.5, 2.0)})
    kept = make("Hopper", 2, options={"vary_mass": (0.5, 2.0), "vary_told": False})
    assert np.array_equal(told.reset_arrays()[:, :11], kept.reset_arrays())
    assert kept.facts.private == 0 and np.array_equal(told.variation.factors, kept.variation.factors)
    action = np.full((2, 3), 0.5)
    assert np.array_equal(told.step_arrays(action).observation[:, :11], kept.step_arrays(action).observation)


@pytest.mark.parametrize(
    ("env_id", "changes", "message"),
    [
        ("Hopper", {"options": {"vary_mass": (2.0, 0.5)}}, r"vary_mass = \[2.0, 0.5\]"),
        ("Hopper", {"options": {"vary_colour": (0.5, 2.0)}}, "colour"),
        ("Hopper", {"options": {"vary_mass": 3}}, "mass"),
        ("Hopper", {"options": {"vary_mass": (0.5, 2.0)}, "engine": "gym"}, "engine native"),
        ("dmc:hopper-hop", {"options": {"vary_mass": (0.5, 2.0)}}, "takes no options"),
        ("stock:Hopper", {"options": {"vary_mass": (0.5, 2.0)}}, "cannot have a stock"),
    ],
)
def test_mistakes_are_one_line(make, env_id, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(env_id, 1, **changes)


def test_views_of_one_observation_refuse_private_numbers():
    pytest.importorskip("stable_baselines3")
    with pytest.raises(ConfigError, match="tells critics 5 numbers alone"):
        SB3VecEnv("Hopper", 2, vary_mass=(0.5, 2.0))
