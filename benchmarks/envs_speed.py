"""Env steps per second of every way to step one of Gymnasium's MuJoCo tasks under random actions.

Reference of all ratios is `gymnasium.make`, one world. The limit is `mj_step` in a bare loop: no observation,
no reward, no end. Contenders that know no end (the bare loop, `mujoco.rollout`, the engine alone) put their
worlds back after as many env steps as a random episode lasts: a robot that lies on the ground costs more than
one that stands.
"""

import importlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from mujoco import rollout
from races import Contender, Row, race

from rlsuite.envs.make import make_env
from rlsuite.envs.tasks.base import Task, load_task

READY = 32  # vectors of actions drawn beforehand, so that drawing them costs nobody time
MAX_PROCESSES = 16  # of AsyncVectorEnv, one a world
MAX_CPU_WORLDS = 1_024  # more of them only make a CPU slower
LENGTH_WORLDS, LENGTH_STEPS = 8, 500  # of the measurement of how long a random episode lasts
STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS


@dataclass(frozen=True, slots=True)
class EnvSetting:
    """One column of the table.

    Attributes:
        task: whose physics.
        worlds: stepped together.
        threads: that step them.
        actions: `[READY, worlds, A]` float64 in the actuators' range.
        episode: env steps after which contenders that know no end start over.
    """

    task: Task
    worlds: int
    threads: int
    actions: np.ndarray
    episode: int

    def contender(
        self, name: str, step: Callable[[int], object], finish: Callable[[], None] | None = None
    ) -> Contender:
        """Return the contender whose `step(i)` is the i-th vector step; `finish` waits for what is queued."""

        def work(count: int) -> None:
            for i in range(max(1, count // self.worlds)):
                step(i)
            if finish is not None:
                finish()

        return Contender(name, work, grain=self.worlds)


def setting(name: str, worlds: int, threads: int) -> EnvSetting:
    """Return what all contenders of one race share."""
    task = load_task(name)
    low, high = task.model().actuator_ctrlrange.T
    actions = np.random.default_rng(0).uniform(low, high, (READY, worlds, len(low)))
    return EnvSetting(task, worlds, threads, actions, random_episode(name))


def random_episode(name: str) -> int:
    """Return the mean number of env steps of an episode under uniform actions."""
    env = make_env(name, LENGTH_WORLDS, threads=1)
    generator = torch.Generator().manual_seed(0)
    td, lengths = env.reset(), []
    for _ in range(LENGTH_STEPS):
        td["action"] = 2 * torch.rand(env.action_spec.shape, generator=generator) - 1
        td = env.step(td)
        lengths += td["next", "step_count"][td["next", "done"]].tolist()
        td = env.maybe_reset(env.step_mdp(td))
    env.close()
    return round(statistics.mean(lengths)) if lengths else env.max_episode_steps or LENGTH_STEPS


def gymnasium_one(at: EnvSetting) -> Contender:
    """`gymnasium.make`: one world, whatever the others have."""
    env = gymnasium.make(at.task.env_id)
    env.reset(seed=0)
    actions = at.actions[:, 0].astype(np.float32)

    def work(count: int) -> None:
        for i in range(count):
            *_, terminated, truncated, _ = env.step(actions[i % READY])
            if terminated or truncated:
                env.reset()

    return Contender("gymnasium.make, 1 world", work)


def gymnasium_vector(at: EnvSetting, mode: str, label: str) -> Contender:
    """Gymnasium's own vector environments."""
    env = gymnasium.make_vec(at.task.env_id, num_envs=at.worlds, vectorization_mode=mode)
    env.reset(seed=0)
    actions = at.actions.astype(np.float32)
    return at.contender(label, lambda i: env.step(actions[i % READY]))


def envpool(at: EnvSetting) -> Contender:
    """EnvPool's C++ threads; its own MuJoCo, whose version may not be ours."""
    module: Any = importlib.import_module("envpool")
    env = module.make(
        at.task.env_id, env_type="gymnasium", num_envs=at.worlds, num_threads=min(at.threads, at.worlds)
    )
    env.reset()
    return at.contender(f"EnvPool {module.__version__}", lambda i: env.step(at.actions[i % READY]))


def bare_loop(at: EnvSetting) -> Contender:
    """`mj_step` in a Python loop, one thread, with the contact forces where the task observes them."""
    model = at.task.model()
    datas = [mujoco.MjData(model) for _ in range(at.worlds)]
    forces = "cfrc_ext" in at.task.fields

    def step(i: int) -> None:
        for data, action in zip(datas, at.actions[i % READY], strict=True):
            if i % at.episode == 0:
                mujoco.mj_resetData(model, data)
            data.ctrl[:] = action
            mujoco.mj_step(model, data, at.task.substeps)
            if forces:
                mujoco.mj_rnePostConstraint(model, data)

    return at.contender("mj_step loop, 1 thread", step)


def mujoco_rollout(at: EnvSetting) -> Contender:
    """`mujoco.rollout` in a closed loop, one env step a call: states, and nothing derived from them."""
    model = at.task.model()
    threads = min(at.threads, at.worlds)
    datas = [mujoco.MjData(model) for _ in range(threads)]
    rest = np.zeros((at.worlds, mujoco.mj_stateSize(model, STATE)))
    for row in rest:
        mujoco.mj_getState(model, datas[0], row, STATE)
    controls = np.repeat(at.actions[:, :, None], at.task.substeps, axis=2)
    pool = rollout.Rollout(nthread=threads)
    states = np.zeros((at.worlds, at.task.substeps, rest.shape[1]))
    sensors = np.zeros((at.worlds, at.task.substeps, model.nsensordata))
    current = [rest]

    def step(i: int) -> None:
        start = rest if i % at.episode == 0 else current[0]
        pool.rollout(model, datas, start, controls[i % READY], state=states, sensordata=sensors)
        current[0] = states[:, -1].copy()

    return at.contender("mujoco.rollout", step)


def native(at: EnvSetting) -> Contender:
    """Our environment on the native engine."""
    return _ours(at, "native", "cpu", lambda: None)


def warp(at: EnvSetting) -> Contender:
    """Our environment on the engine `warp`."""
    return _ours(at, "warp", "cuda", torch.cuda.synchronize)


def _ours(at: EnvSetting, engine: str, device: str, finish: Callable[[], None]) -> Contender:
    env = make_env(at.task.env_id, at.worlds, engine=engine, device=device, threads=at.threads)
    half = torch.tensor(env.half_range, dtype=torch.float64)
    actions = (torch.from_numpy(at.actions) / half).to(device, torch.float32)
    carried = [env.reset()]

    def step(i: int) -> None:
        td = carried[0].set("action", actions[i % READY])
        carried[0] = env.maybe_reset(env.step_mdp(env.step(td)))

    return at.contender(f"{engine}, the environment", step, finish)


def engine_alone(at: EnvSetting) -> Contender:
    """The native engine without observation, reward and bookkeeping."""
    env = make_env(at.task.env_id, at.worlds, threads=at.threads)
    engine = env.engine
    actions = torch.from_numpy(at.actions)
    every = torch.ones(at.worlds, dtype=torch.bool)
    rest = engine.qpos0.repeat(at.worlds, 1), engine.qvel0.repeat(at.worlds, 1)

    def step(i: int) -> None:
        if i % at.episode == 0:
            engine.set_state(every, *rest)
        engine.step(actions[i % READY], at.task.substeps)

    return at.contender("native, the engine alone", step)


def contenders(at: EnvSetting) -> Iterator[Contender]:
    """Yield all that can run here, the reference first; say why others cannot."""
    yield gymnasium_one(at)
    if at.worlds <= MAX_CPU_WORLDS:
        yield bare_loop(at)
        yield gymnasium_vector(at, "sync", "SyncVectorEnv")
        if 1 < at.worlds <= MAX_PROCESSES:
            yield gymnasium_vector(at, "async", "AsyncVectorEnv")
        try:
            yield envpool(at)
        except ImportError as error:
            print(f"# EnvPool is not installed: {error}")
        yield mujoco_rollout(at)
        yield engine_alone(at)
        yield native(at)
    if torch.cuda.is_available():
        yield warp(at)
    else:
        print("# engine warp: torch sees no CUDA device")


def table(names: list[str], worlds: list[int], threads: int, *, seconds: float, rounds: int) -> Iterator[Row]:
    """Race all contenders on every task with every number of worlds; turns are interleaved."""
    for name in names:
        for count in worlds:
            if count > MAX_CPU_WORLDS and not torch.cuda.is_available():
                print(f"# {name} x {count}: left out, so many worlds are for a GPU")
                continue
            at = setting(name, count, threads)
            yield from race(
                f"{name} x {count}", "env steps/s", list(contenders(at)), seconds=seconds, rounds=rounds
            )
