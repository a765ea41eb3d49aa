"""Environments on engine warp: the contract of `VectorEnv`, and that nothing waits for the device."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import mujoco
import numpy as np
import pytest
import torch
from env_helpers import assert_equal, play, random_actions
from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from rlsuite.envs.engines.warp_options import WarpOptions
from rlsuite.envs.names import tasks_by_name
from rlsuite.envs.tasks.base import load_task
from rlsuite.errors import DataError, EnvironmentFailure

if importlib.util.find_spec("mujoco_warp") is None:
    pytest.skip("mujoco_warp is not installed", allow_module_level=True)

POISONED = 2
ASKING = ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu")


@pytest.fixture
def make_warp(make):
    return lambda name, worlds, **options: make(name, worlds, engine="warp", device="cpu", **options)


@contextmanager
def nobody_asks() -> Iterator[None]:
    """Fail on everything that would wait for a device; on a CPU it merely returns."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a tensor's value was asked for")

    with pytest.MonkeyPatch.context() as patch:
        for name in ASKING:
            patch.setattr(torch.Tensor, name, refuse)
        yield


def end(td, world: int) -> None:
    """End one world's episode from outside."""
    for key in ("truncated", "done"):
        td["next", key][world] = True


def test_specs_hold(make_warp):
    env = make_warp("HalfCheetah", 3)
    check_env_specs(env, seed=0)
    assert env.engine_name == "warp"
    assert {"mujoco-warp", "warp-lang"} <= set(env.versions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lean_loop_is_torchrls_loop(make_warp, dtype):
    lean, plain = (make_warp("HalfCheetah", 4, seed=3, max_episode_steps=17, dtype=dtype) for _ in range(2))
    ours, theirs = lean.reset(), plain.reset()
    resets = []
    for step, action in enumerate(random_actions(lean, 25)):
        for td in (ours, theirs):
            td["action"] = action
        ours, theirs = lean.step(ours), EnvBase.step(plain, theirs)
        if step == 7:
            end(ours, 1)
            end(theirs, 1)
        assert_equal(ours, theirs)
        ended = ours["next", "done"].flatten().tolist()
        if any(ended):
            resets.append(ended)
        # TorchRL draws only when somebody ended; the lean loop may not ask, and draws every time.
        plain._starts.load_state_dict(lean._starts.state_dict())
        ours = lean.maybe_reset(lean.step_mdp(ours))
        theirs = EnvBase.maybe_reset(plain, plain.step_mdp(theirs))
        if all(ended):  # the one difference: then TorchRL leaves alone what a reset does not write
            assert (ours["action"] == 0).all()
            theirs["action"] = ours["action"]
        assert_equal(ours, theirs)
    # From outside; world 1 is eight steps behind from then on.
    assert resets == [[False, True, False, False], [True, False, True, True], [False, True, False, False]]


def test_what_is_handed_out_may_be_written_to(make_warp):
    env, other = (make_warp("HalfCheetah", 2, seed=5) for _ in range(2))
    rows, _ = play(env, env.reset(), random_actions(env, 4))
    td = other.reset()
    for row, action in zip(rows, random_actions(env, 4), strict=True):
        td["action"] = action
        td = other.step(td)
        assert torch.equal(td["next", "observation"], row["next", "observation"])
        td["observation"].fill_(torch.nan)
        following = other.maybe_reset(other.step_mdp(td))
        for key in ("observation", "step_count"):
            following[key].fill_(0)
        td = following


@pytest.mark.parametrize("name", ["HalfCheetah", "Ant", "Humanoid"])
def test_step_and_reset_never_wait_for_the_device(make_warp, name):
    env = make_warp(name, 4, max_episode_steps=7)
    td = env.reset()
    td["action"] = torch.zeros(env.action_spec.shape)
    td = env.maybe_reset(env.step_mdp(env.step(td)))  # records the kernels
    actions = random_actions(env, 20)
    with nobody_asks():
        for action in actions:
            td.set("action", action)
            td = env.maybe_reset(env.step_mdp(env.step(td)))
    assert td["step_count"].flatten().tolist() == [0] * 4  # 21 steps: three episodes of seven
    assert env.nan_resets == 0


def test_asking_is_noticed():
    with nobody_asks(), pytest.raises(AssertionError, match="asked for"):
        bool(torch.ones(1).any())


@pytest.mark.parametrize("name", tasks_by_name())
def test_no_task_asks(name):
    """Every task's functions and initial states, in float32."""
    task = load_task(name)
    model = task.model()
    data = mujoco.MjData(model)
    fields = {
        field: torch.from_numpy(getattr(data, field).copy()).float().expand(3, *getattr(data, field).shape)
        for field in ("qpos", "qvel", *task.fields)
    }
    fields["goal"] = torch.zeros(3, task.goal_size)
    rest, g = (torch.from_numpy(model.qpos0.copy()).float(), torch.zeros(model.nv)), torch.Generator()
    action = torch.zeros(3, model.nu)
    with nobody_asks():
        before = task.before(fields)
        ended = task.terminated(fields)
        reward = task.reward(before, fields, action, ended)
        observation = task.observation(fields)
        start = task.initial.sample(3, *rest, g)
    assert ended.shape == reward.shape == (3,)
    assert observation.dtype == reward.dtype == start.qpos.dtype == start.qvel.dtype == torch.float32
    assert start.qpos.shape == (3, model.nq)
    assert start.qvel.shape == (3, model.nv)


@pytest.mark.parametrize("name", ["HalfCheetah", "Ant", "Humanoid"])
def test_other_worlds_do_not_notice_a_reset(make_warp, name):
    quiet, busy = (make_warp(name, 4, seed=1) for _ in range(2))
    actions = random_actions(quiet, 12)
    expected, td = play(quiet, quiet.reset(), actions[:6])
    _, same = play(busy, busy.reset(), actions[:5])
    same["action"] = actions[5]
    same = busy.step(same)
    end(same, 1)
    same = busy.maybe_reset(busy.step_mdp(same))
    assert same["step_count"].flatten().tolist()[1] == 0
    assert td["step_count"].flatten().tolist()[1] > 0
    others = [world for world in (0, 2, 3) if not any(row["next", "done"][world] for row in expected)]
    assert others
    for action in actions[6:]:
        td["action"] = same["action"] = action
        td, same = quiet.step(td), busy.step(same)
        for key in ("observation", "reward", "terminated"):
            assert torch.equal(td["next", key][others], same["next", key][others]), key
        others = [world for world in others if not td["next", "done"][world]]
        td, same = (env.maybe_reset(env.step_mdp(row)) for env, row in ((quiet, td), (busy, same)))


def test_first_observations_are_those_of_the_native_engine(make, make_warp):
    ours, native = make_warp("Humanoid", 3), make("Humanoid", 3)
    ours.reset()
    native.reset()
    state = native.engine.read()
    every = torch.ones(3, dtype=torch.bool)
    ours.engine.set_state(every, state["qpos"], state["qvel"])
    expected, found = (torch.as_tensor(env.task.observation(env._fields)).double() for env in (native, ours))
    assert expected[:, 45:].abs().max() > 0  # inertias and velocities of bodies
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["HalfCheetah", "Ant"])
def test_a_saved_state_continues_bit_for_bit(make_warp, name):
    first = make_warp(name, 3, seed=1, max_episode_steps=9)
    _, td = play(first, first.reset(), random_actions(first, 13))
    state = {key: value.clone() for key, value in first.state_dict().items()}
    row, actions = td.clone(), random_actions(first, 20, seed=1)
    expected, _ = play(first, td, actions)
    second = make_warp(name, 3, seed=99, max_episode_steps=9)
    second.load_state_dict(state)
    continued, _ = play(second, row, actions)
    assert any(one["next", "done"].any() for one in expected)
    for left, right in zip(expected, continued, strict=True):
        assert_equal(left, right)
    ours, theirs = first.state_dict(), second.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_state_that_does_not_fit_is_refused(make, make_warp):
    env, smaller, native = make_warp("Ant", 3), make_warp("Ant", 2), make("Ant", 3)
    for other in (smaller, native):
        with pytest.raises(DataError, match="needs"):
            env.load_state_dict(other.state_dict())
    for missing in env.state_dict():
        state = env.state_dict()
        del state[missing]
        with pytest.raises(DataError, match=missing.replace(".", r"\.")):
            env.load_state_dict(state)
    state = env.state_dict()
    state["generator"] = torch.zeros_like(state["generator"], dtype=torch.float32)
    with pytest.raises(DataError, match="generator"):
        env.load_state_dict(state)


@pytest.mark.parametrize("name", ["HalfCheetah", "Ant"])
@pytest.mark.parametrize("value", [np.nan, 1e11])
def test_a_diverged_world_is_cut_off_and_the_others_do_not_notice(make_warp, name, value):
    healthy, sick = make_warp(name, 4, seed=1), make_warp(name, 4, seed=1)
    actions = random_actions(healthy, 3)
    expected, _ = play(healthy, healthy.reset(), actions)
    td = sick.reset()
    fields = sick.engine.read()
    qpos, qvel = fields["qpos"].clone(), fields["qvel"].clone()
    qvel[POISONED, 0] = value
    sick.engine.set_state(torch.arange(4) == POISONED, qpos, qvel)
    td["action"] = actions[0]
    td = sick.step(td)
    after = td["next"].clone()
    others = [world for world in range(4) if world != POISONED]
    assert after["valid"].flatten().tolist() == [True, True, False, True]
    assert after["truncated"].flatten().tolist() == [False, False, True, False]
    assert not after["terminated"][POISONED]
    assert sick.nan_resets == 1
    for key in ("observation", "reward"):
        assert (after[key][POISONED] == 0).all()
        assert torch.equal(after[key][others], expected[0]["next", key][others])
    rows, _ = play(sick, sick.maybe_reset(sick.step_mdp(td)), actions[1:])
    assert all(row["next", "valid"].all() for row in rows)
    assert torch.equal(rows[0]["next", "observation"][others], expected[1]["next", "observation"][others])
    assert sick.nan_resets == 1


def test_a_nan_among_the_actions_is_no_valid_row(make_warp):
    env = make_warp("HalfCheetah", 3)
    td = env.reset()
    td["action"] = torch.zeros(3, 6)
    td["action"][1, 3] = torch.nan
    td = env.step(td)
    assert td["next", "valid"].flatten().tolist() == [True, False, True]
    td = env.maybe_reset(env.step_mdp(td))
    td["action"] = torch.zeros(3, 6)
    assert env.step(td)["next", "valid"].all()
    assert env.nan_resets == 1


def test_options_reach_the_engine(make_warp):
    env = make_warp("HalfCheetah", 2, warp=WarpOptions(njmax=80, nconmax=32))
    assert (env.engine.capacity.njmax, env.engine.capacity.nconmax) == (80, 32)


def test_several_seeds_make_one_stream(make_warp):
    first, same, other = (make_warp("HalfCheetah", 2, seed=seed) for seed in ([3, 4], [3, 4], [3, 5]))
    drawn = [env.reset()["observation"] for env in (first, same, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    first.seed_worlds(None)
    assert not torch.equal(first.reset()["observation"], drawn[0])


def test_a_picture_is_the_native_engines_and_changes_nothing(make, make_warp):
    ours, unseen, native = (build("HalfCheetah", 2, seed=1) for build in (make_warp, make_warp, make))
    actions = random_actions(ours, 4)
    _, left = play(ours, ours.reset(), actions[:2])
    _, right = play(unseen, unseen.reset(), actions[:2])
    fields = ours.engine.read()
    native.engine.set_state(torch.ones(2, dtype=torch.bool), fields["qpos"].double(), fields["qvel"].double())
    try:
        assert np.array_equal(ours.frame(1), native.frame(1))
    except EnvironmentFailure as error:
        pytest.skip(str(error))
    for one, other in zip(play(ours, left, actions[2:])[0], play(unseen, right, actions[2:])[0], strict=True):
        assert_equal(one, other)
