"""Engine warp on Warp's CPU device against the native engine, and what it refuses."""

import dataclasses
import importlib.util

import mujoco
import pytest
import torch

from rlsuite.envs.engines import warp_options
from rlsuite.envs.engines.native import NativeEngine
from rlsuite.envs.engines.warp_options import WarpOptions, measured_capacity, warp_device
from rlsuite.envs.names import tasks_by_name
from rlsuite.envs.tasks.base import Task, gymnasium_model, load_task
from rlsuite.errors import ConfigError, DataError, EnvironmentFailure

pytest.importorskip("mujoco_warp")

from warp_helpers import Pair, assert_close

from rlsuite.envs.engines import warp
from rlsuite.envs.engines.warp import WarpEngine, bytes_per_env, shared_stream

WORLDS = 8
STEPS = 40
USUAL = ("HalfCheetah", "Ant", "Humanoid")
REST = tuple(name for name in tasks_by_name() if name not in USUAL)

# A ball with every kind of sensor drops onto a floor, a thruster on it.
SENSING = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom type="plane" size="5 5 0.1"/>
    <body name="ball" pos="0 0 0.25">
      <freejoint/>
      <geom type="sphere" size="0.1" mass="1"/>
      <site name="skin" type="sphere" size="0.11"/>
      <body pos="0 0 0.15">
        <joint name="lid" axis="0 1 0" damping="0.1"/>
        <geom type="capsule" fromto="0 0 0 0.2 0 0" size="0.03" mass="0.2"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="lid" ctrlrange="-1 1"/></actuator>
  <sensor>
    <touch site="skin"/>
    <accelerometer site="skin"/>
    <velocimeter site="skin"/>
    <framepos objtype="body" objname="ball"/>
    <subtreelinvel body="ball"/>
    <actuatorfrc actuator="0"/>
  </sensor>
</mujoco>
""".replace('actuator="0"', 'actuator="lid"').replace("<motor joint", '<motor name="lid" joint')


def every(worlds: int = WORLDS) -> torch.Tensor:
    return torch.ones(worlds, dtype=torch.bool)


def compare(task: Task, steps: int, options: WarpOptions | None = None) -> list[dict[str, torch.Tensor]]:
    pair = Pair(task, WORLDS, options)
    pair.start()
    seen = []
    for step in range(steps):
        seen.append(pair.step())
        if step % 10 == 9:  # fall, start again: fields after a reset count, too
            pair.start(torch.arange(WORLDS) % 2 == 0)
            for name, exact in pair.native.read().items():
                torch.testing.assert_close(
                    pair.warp.read()[name][::2].double(), exact[::2], rtol=1e-3, atol=1e-4, msg=name
                )
    pair.warp.check()
    return seen


@pytest.mark.parametrize("name", USUAL)
def test_a_step_is_the_c_engines_to_float32(name):
    assert_close(compare(load_task(name), STEPS), name)


@pytest.mark.long
@pytest.mark.parametrize("name", REST)
def test_a_step_of_the_other_tasks_is_the_c_engines_to_float32(name):
    assert_close(compare(load_task(name), 5 * STEPS), name)


def test_ant_needs_its_contact_frames_mended():
    """Should this fail, MuJoCo Warp has mended plane-capsule frames itself: drop the correction."""
    seen = compare(load_task("Ant"), STEPS, WarpOptions(align_capsules=False))
    assert max(step["qpos"].max().item() for step in seen) > 1e-3


def test_pgs_is_refused_when_it_must_not_be_replaced():
    model = gymnasium_model("humanoid.xml")()
    assert model.opt.solver == mujoco.mjtSolver.mjSOL_PGS
    with pytest.raises(ConfigError, match=r"PGS.*newton_for_pgs=True"):
        WarpEngine(model, 2, options=WarpOptions(newton_for_pgs=False))
    assert WarpEngine(model, 2).model.opt.solver == mujoco.mjtSolver.mjSOL_NEWTON


@pytest.mark.long
def test_a_refreshed_step_has_fresh_positions_and_the_last_substeps_forces():
    build = lambda: mujoco.MjModel.from_xml_string(SENSING)  # noqa: E731
    fields = ("sensordata", "xpos", "cvel")
    native = NativeEngine(build(), WORLDS, fields, refresh=True, threads=1)
    ours = WarpEngine(build(), WORLDS, fields, refresh=True)
    qpos = native.qpos0.expand(WORLDS, -1).clone()
    qpos[:, 2] += torch.linspace(0, 0.3, WORLDS)
    qvel = torch.full((WORLDS, len(native.qvel0)), 0.3, dtype=torch.float64)
    for engine in (native, ours):
        engine.set_state(every(), qpos, qvel)
    g, touched = torch.Generator().manual_seed(0), 0.0
    for _ in range(25):
        control = torch.rand(WORLDS, 1, generator=g, dtype=torch.float64) * 2 - 1
        for engine in (native, ours):
            engine.step(control, 3)
        for name, exact in native.read().items():
            found = ours.read()[name].double()
            scale = exact.abs().amax().clamp_min(1)
            assert (found - exact).abs().max() / scale < 1e-3, name
        touched = max(touched, native.read()["sensordata"][:, 0].max().item())
    assert touched > 0


def test_a_recorded_step_is_an_eager_step_bit_for_bit():
    engines = [
        WarpEngine(gymnasium_model("half_cheetah.xml")(), 3, ("xpos",), options=WarpOptions(graphs=graphs))
        for graphs in (True, False)
    ]
    g = torch.Generator().manual_seed(0)
    for engine in engines:
        engine.set_state(every(3), engine.qpos0.expand(3, -1), torch.full((3, 9), 0.1))
    for step in range(12):
        ctrl = torch.rand(3, 6, generator=g) * 2 - 1
        for engine in engines:
            engine.step(ctrl, 5)
        if step == 6:
            for engine in engines:
                engine.set_state(
                    torch.tensor([True, False, False]), engine.qpos0.expand(3, -1), ctrl[:, :1] * 0.1
                )
        states = [engine.state_dict() for engine in engines]
        for name, recorded in states[0].items():
            assert torch.equal(recorded, states[1][name]), f"{name} at step {step}"


@pytest.mark.parametrize("name", ["Ant", "Humanoid"])
def test_a_reset_leaves_the_other_worlds_as_they_are(name):
    """Fields too: what the next reward calls "before" must be what the last step left."""
    task = load_task(name)
    engine = WarpEngine(task.model(), 4, task.fields)
    engine.set_state(every(4), engine.qpos0.expand(4, -1), engine.qvel0.expand(4, -1))
    for _ in range(40):  # down to the floor, so that there are contact forces
        engine.step(torch.full((4, engine.model.nu), 0.3), task.substeps)
    before = {key: value.clone() for key, value in engine.read().items()}
    qpos = (engine.qpos0 + 0.01).expand(4, -1)
    mask = torch.tensor([False, True, False, False])
    engine.set_state(mask, qpos, torch.zeros(4, engine.model.nv))
    after = engine.read()
    for key, value in before.items():
        assert torch.equal(value[~mask], after[key][~mask]), key
        assert not torch.equal(value[mask], after[key][mask]), key
    assert torch.equal(after["qpos"][1], qpos[1])
    assert (after["cfrc_ext"][1] == 0).all()  # as in Gymnasium's first observation
    assert engine.state_dict()["physics.time"][1] == 0


@pytest.mark.parametrize("size", ["nconmax", "njmax"])
def test_contacts_without_room_are_no_secret(size, monkeypatch):
    monkeypatch.setattr(warp, "CHECK_EVERY", 4)
    options = WarpOptions(**{"nconmax": 24, "njmax": 64} | {size: 1})
    engine = WarpEngine(gymnasium_model("half_cheetah.xml")(), 3, options=options)
    lying = engine.qpos0.clone()
    lying[1] -= 0.5
    engine.set_state(every(3), lying.expand(3, -1), engine.qvel0.expand(3, -1))
    still = torch.zeros(3, 6)
    with pytest.raises(EnvironmentFailure, match=rf"3 of 3 envs.*{size} = 1 .*WarpOptions\({size}=2\)"):
        for _ in range(4):
            engine.step(still, 5)
    with pytest.raises(EnvironmentFailure, match=size):
        engine.state_dict()


def test_many_envs_share_their_room_for_contacts():
    """A few must each hold the most that one may need, many twice what they need on average."""
    model = gymnasium_model("humanoid.xml")()
    few, many = measured_capacity(model, 8), measured_capacity(model, 64)
    assert few == measured_capacity(model) and few.njmax == many.njmax
    assert many.nconmax < few.nconmax
    assert WarpEngine(model, 64).capacity == many


def test_measured_sizes_hold_what_the_c_engine_needs():
    model = gymnasium_model("humanoid.xml")()
    measured = measured_capacity(model)
    data = mujoco.MjData(model)
    rows = contacts = 0
    for _ in range(2000):  # a heap on the floor
        mujoco.mj_step(model, data)
        rows, contacts = max(rows, data.nefc), max(contacts, data.ncon)
    assert measured.njmax >= rows > 0
    assert measured.nconmax >= contacts > 0
    engine = WarpEngine(model, 2, options=WarpOptions(njmax=99))
    assert engine.capacity.njmax == 99
    assert engine.capacity.nconmax == measured.nconmax


def test_bytes_per_env_grow_with_room():
    model = gymnasium_model("half_cheetah.xml")()
    small = bytes_per_env(model, WarpOptions(nconmax=24, njmax=64))
    large = bytes_per_env(model, WarpOptions(nconmax=24, njmax=640))
    assert small > model.nq * 4 + model.nv * 4
    assert large - small > (640 - 64) * model.nv * 4  # the constraint Jacobian alone


def test_a_saved_state_fits_its_own_model_only():
    cheetah = WarpEngine(gymnasium_model("half_cheetah.xml")(), 2)
    ant = WarpEngine(gymnasium_model("ant.xml")(), 2)
    with pytest.raises(DataError, match=r"physics.qpos: came \[2, 9\], engine warp needs \[2, 15\]"):
        ant.load_state_dict(cheetah.state_dict())
    state = cheetah.state_dict()
    del state["physics.time"]
    with pytest.raises(DataError, match=r"physics\.time: came nothing"):
        cheetah.load_state_dict(state)


def test_what_cannot_be_had_is_named(monkeypatch):
    model = gymnasium_model("half_cheetah.xml")
    with pytest.raises(ConfigError, match="no field nefc of numbers"):
        WarpEngine(model(), 2, ("nefc",))
    with pytest.raises(ConfigError, match="no field xpoz of numbers"):
        WarpEngine(model(), 2, ("xpoz",))
    with pytest.raises(ConfigError, match="nconmax = 0: must be at least 1"):
        WarpOptions(nconmax=0)
    with pytest.raises(ConfigError, match='not on "meta"'):
        warp_device("meta")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"torch sees no CUDA device.*--device cpu"):
        warp_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="1 CUDA devices here"):
        warp_device("cuda:3")
    sleepy = model()
    sleepy.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP
    with pytest.raises(ConfigError, match="sleeping"):
        WarpEngine(sleepy, 2)


def test_a_missing_package_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        warp_options.importlib.util, "find_spec", lambda name: None if name == "mujoco_warp" else found(name)
    )
    with pytest.raises(ConfigError, match=r"needs mujoco_warp.*pip install 'rlsuite\[warp\]'"):
        warp_device("cpu")


def test_on_a_cpu_there_is_no_stream_to_share():
    with shared_stream(torch.device("cpu")):
        pass


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        WarpOptions().njmax = 3
