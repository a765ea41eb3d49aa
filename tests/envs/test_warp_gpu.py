"""Engine warp on a GPU: skipped by name where there is none."""

import pytest
import torch

from rlsuite.envs.engines.warp_options import WarpOptions
from rlsuite.envs.tasks.base import load_task

pytest.importorskip("mujoco_warp")

from env_helpers import assert_equal, play, random_actions
from warp_helpers import Pair, assert_close

from rlsuite.envs.engines.warp import WarpEngine, shared_stream

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TASKS = ("HalfCheetah", "Ant", "Humanoid")
CUDA = torch.device("cuda", 0)


@pytest.fixture
def make_cuda(make):
    return lambda name, worlds, **options: make(name, worlds, engine="warp", device="cuda", **options)


@pytest.mark.parametrize("name", TASKS)
def test_a_step_is_the_c_engines_to_float32(name):
    pair = Pair(load_task(name), 8, device=CUDA)
    pair.start()
    assert_close([pair.step() for _ in range(60)], name)


@pytest.mark.parametrize("name", TASKS)
def test_a_recorded_step_is_an_eager_step(name):
    """With deterministic kernels, bit for bit."""
    task = load_task(name)
    engines = [
        WarpEngine(
            task.model(), 16, task.fields, device=CUDA, options=WarpOptions(graphs=graphs, deterministic=True)
        )
        for graphs in (True, False)
    ]
    every = torch.ones(16, dtype=torch.bool, device=CUDA)
    g = torch.Generator(CUDA).manual_seed(0)
    qpos = engines[0].qpos0 + 0.01 * torch.rand(16, len(engines[0].qpos0), generator=g, device=CUDA)
    for engine in engines:
        engine.set_state(every, qpos, engine.qvel0.expand(16, -1))
    for step in range(20):
        ctrl = torch.rand(16, engines[0].model.nu, generator=g, device=CUDA) * 0.8 - 0.4
        for engine in engines:
            engine.step(ctrl, task.substeps)
        if step == 10:
            mask = torch.arange(16, device=CUDA) % 3 == 0
            for engine in engines:
                engine.set_state(mask, qpos, engine.qvel0.expand(16, -1))
        states = [engine.state_dict() for engine in engines]
        for key, recorded in states[0].items():
            assert torch.equal(recorded, states[1][key]), f"{key} at step {step}"


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("shared", [True, False])
def test_step_and_reset_never_wait_for_the_device(make_cuda, name, shared):
    env = make_cuda(name, 64, max_episode_steps=7)
    with env.stream() if shared else torch.cuda.device(CUDA):
        td = env.reset()
        actions = random_actions(env, 400).to(CUDA)
        td["action"] = actions[0]
        td = env.maybe_reset(env.step_mdp(env.step(td)))  # records the kernels
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for action in actions:
                td.set("action", action)
                td = env.maybe_reset(env.step_mdp(env.step(td)))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert env.nan_resets == 0
    env.engine.check()


def test_inside_and_outside_the_shared_stream_are_the_same(make_cuda):
    options = {"seed": 3, "max_episode_steps": 11, "warp": WarpOptions(deterministic=True)}
    inside, outside = (make_cuda("Ant", 32, **options) for _ in range(2))
    actions = random_actions(inside, 30).to(CUDA)
    with inside.stream():
        rows, _ = play(inside, inside.reset(), actions)
    others, _ = play(outside, outside.reset(), actions)
    for left, right in zip(rows, others, strict=True):
        assert_equal(left, right)


def test_streams_nest():
    with shared_stream(CUDA):
        inner = torch.cuda.current_stream()
        with shared_stream(CUDA):
            assert torch.cuda.current_stream() == inner
    assert torch.cuda.current_stream() != inner


def test_a_saved_state_continues_bit_for_bit(make_cuda):
    options = {"max_episode_steps": 9, "warp": WarpOptions(deterministic=True)}
    first, second = (make_cuda("Ant", 16, seed=seed, **options) for seed in (1, 99))
    _, td = play(first, first.reset(), random_actions(first, 13).to(CUDA))
    second.load_state_dict({key: value.cpu() for key, value in first.state_dict().items()})
    actions = random_actions(first, 20, seed=1).to(CUDA)
    row = td.clone()
    for left, right in zip(play(first, td, actions)[0], play(second, row, actions)[0], strict=True):
        assert_equal(left, right)


@pytest.mark.long
@pytest.mark.parametrize("name", TASKS)
def test_a_million_env_steps_have_room_and_break_no_world(make_cuda, name):
    env = make_cuda(name, 4096)
    with env.stream(), torch.no_grad():
        td = env.reset()
        g = torch.Generator(CUDA).manual_seed(0)
        for _ in range(1_000_000 // 4096 + 1):
            td["action"] = torch.rand(env.action_spec.shape, generator=g, device=CUDA) * 2 - 1
            td = env.maybe_reset(env.step_mdp(env.step(td)))
    env.engine.check()
    assert env.nan_resets == 0
