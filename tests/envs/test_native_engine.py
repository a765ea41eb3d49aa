"""The threaded engine against plain calls of MuJoCo."""

import mujoco
import numpy as np
import pytest
import torch

from rlsuite.envs.engines.native import NativeEngine
from rlsuite.envs.tasks.base import gymnasium_model
from rlsuite.errors import DataError, EnvironmentFailure

FIELDS = ("qpos", "qvel", "xpos", "cfrc_ext", "qfrc_actuator")


def ant():
    return gymnasium_model("ant.xml")()


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_fields_are_those_of_plain_mujoco(threads):
    """Contact forces included, which MuJoCo computes only when asked."""
    engine = NativeEngine(ant(), 6, FIELDS, threads=threads)
    model = ant()
    rng = np.random.default_rng(0)
    plain = [mujoco.MjData(model) for _ in range(6)]
    for _ in range(40):
        ctrl = rng.uniform(-1, 1, (6, model.nu))
        engine.step(torch.from_numpy(ctrl), 5)
        for data, row in zip(plain, ctrl, strict=True):
            data.ctrl[:] = row
            mujoco.mj_step(model, data, nstep=5)
            mujoco.mj_rnePostConstraint(model, data)
        for name in FIELDS:
            expected = np.stack([getattr(data, name) for data in plain])
            np.testing.assert_array_equal(engine.read()[name].numpy(), expected, name)
    assert engine.read()["cfrc_ext"].abs().max() > 0  # the feet did touch the ground
    engine.close()


def test_set_state_touches_only_the_worlds_of_the_mask():
    engine = NativeEngine(ant(), 3, FIELDS)
    engine.step(torch.ones(3, 8, dtype=torch.float64), 5)
    before = engine.state_dict()
    mask = torch.tensor([False, True, False])
    qpos = (engine.qpos0 + 0.01).expand(3, -1)
    engine.set_state(mask, qpos, torch.full((3, len(engine.qvel0)), 0.5, dtype=torch.float64))
    after = engine.state_dict()
    for name in before:
        assert torch.equal(before[name][~mask], after[name][~mask]), name
    np.testing.assert_array_equal(engine.read()["qpos"][1], qpos[1])
    assert (engine.read()["qvel"][1] == 0.5).all()
    engine.close()


def test_a_saved_state_fits_its_own_model_only():
    engine = NativeEngine(ant(), 2)
    state = engine.state_dict()
    state["physics"] = state["physics"][:, :-1]
    with pytest.raises(DataError, match="physics"):
        engine.load_state_dict(state)
    engine.close()


def test_closing_twice_is_allowed_and_stepping_a_closed_engine_is_refused():
    engine = NativeEngine(ant(), 3, FIELDS, threads=2)
    engine.step(torch.ones(3, 8, dtype=torch.float64), 1)
    views, before = engine.read(), engine.state_dict()
    engine.close()
    engine.close()
    for name, value in engine.state_dict().items():
        assert torch.equal(before[name], value), name
    assert all(torch.equal(before[name], view) for name, view in views.items())  # their memory is still there
    with pytest.raises(EnvironmentFailure, match="closed"):
        engine.step(torch.ones(3, 8, dtype=torch.float64), 1)


def test_sane_tells_which_worlds_are_lost():
    engine = NativeEngine(ant(), 3)
    assert engine.sane() is None
    qvel = torch.zeros(3, len(engine.qvel0), dtype=torch.float64)
    qvel[1, 2] = torch.nan
    engine.set_state(torch.tensor([False, True, False]), engine.qpos0.expand(3, -1), qvel)
    assert engine.sane().tolist() == [True, False, True]
    engine.close()
