"""Env steps per second of every way to step Gymnasium's MuJoCo tasks, and of training on them.

    python benchmarks/envs_speed.py --threads 2 --out FILE.csv              # all tasks and numbers of envs
    python benchmarks/envs_speed.py --tasks HalfCheetah --envs 1 64 --train # of stepping alone
    python benchmarks/envs_speed.py --read FILE.csv                         # the summary of an earlier run

Every contender is a process of its own; they take turns (`turns.py`), and the CSV has every turn. All have
the same number of threads (`SubprocVecEnv` and `AsyncVectorEnv` the same cores), and random actions that were
drawn beforehand. With two threads the wall clock counts, and the machine must be quiet; with one the CPU
time, and contenders with worker processes are left out, as theirs would not be counted.

The limit is `mj_step` in a bare loop: no observation, no reward, no end. Contenders that know no end (the
bare loop, `mujoco.rollout`, the engine alone) put their envs back after as many env steps as a random episode
lasts: a robot that lies on the ground costs more than one that stands.
"""

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import throughput
import torch
from mujoco import rollout
from throughput import Entry, Goal, Race, Turn
from turns import Contender, Gate, Process, Unavailable, answer, claim_output, turns

from rlsuite.envs.make import make_env
from rlsuite.envs.tasks.base import Task, load_task

TASKS = ("HalfCheetah", "Humanoid")
COUNTS = (1, 2, 8, 64, 256, 1_024)
TRAIN_COUNTS = (8, 32)
READY = 32  # vectors of actions drawn beforehand, so that drawing them costs nobody time
MAX_PROCESSES = 64  # of SubprocVecEnv and AsyncVectorEnv, one an env
MAX_CPU_ENVS = 1_024  # more of them only make a CPU slower
LENGTH_ENVS, LENGTH_STEPS = 8, 500  # of the measurement of how long a random episode lasts
STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS
ROLLOUT, PPO_BATCH = 16_384, 512  # of PPO, whatever the number of envs; the other settings are SB3's defaults
SAC_WARM_UP, FOREVER = 1_000, 10**9

Work = Callable[[int], None]
"""Does so many env steps, or a few more: whole vector steps."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all contenders of one race share.

    Attributes:
        task: whose physics.
        envs: stepped together.
        threads: that step them.
        actions: `[READY, envs, A]` float64 in the actuators' range.
        episode: env steps after which contenders that know no end start over.
    """

    task: Task
    envs: int
    threads: int
    actions: np.ndarray
    episode: int

    def work(self, step: Callable[[int], object], finish: Callable[[], None] | None = None) -> Work:
        """Return what repeats `step(i)`, the i-th vector step; `finish` waits for what is queued."""
        at = [0]

        def work(count: int) -> None:
            for _ in range(max(1, count // self.envs)):
                step(at[0])
                at[0] += 1
            if finish is not None:
                finish()

        return work


def setting(name: str, envs: int, threads: int) -> Setting:
    """Return the setting of one task."""
    task = load_task(name)
    low, high = task.model().actuator_ctrlrange.T
    actions = np.random.default_rng(0).uniform(low, high, (READY, envs, len(low)))
    return Setting(task, envs, threads, actions, random_episode(name))


def random_episode(name: str) -> int:
    """Return the mean number of env steps of an episode under uniform actions."""
    env = make_env(name, LENGTH_ENVS, threads=1)
    rng, lengths = np.random.default_rng(0), []
    env.reset_arrays()
    for _ in range(LENGTH_STEPS):
        result = env.step_arrays(rng.uniform(-1, 1, env.action_spec.shape))
        done = result.terminated | result.truncated
        lengths += env.step_counts[done].tolist()
        if done.any():
            env.reset_arrays(done)
    env.close()
    return round(statistics.mean(lengths)) if lengths else env.max_episode_steps or LENGTH_STEPS


# Others' ways to step.


def gymnasium_one(at: Setting, env_id: str = "") -> Work:
    """`gymnasium.make`: one env, whatever the others have."""
    env = gymnasium.make(env_id or at.task.env_id)
    env.reset(seed=0)
    actions = at.actions[:, 0].astype(np.float32)
    now = [0]

    def work(count: int) -> None:
        for _ in range(count):
            *_, terminated, truncated, _ = env.step(actions[now[0] % READY])
            now[0] += 1
            if terminated or truncated:
                env.reset()

    return work


def gymnasium_vector(at: Setting, mode: str) -> Work:
    """Gymnasium's own vector environments."""
    env = gymnasium.make_vec(at.task.env_id, num_envs=at.envs, vectorization_mode=mode)
    env.reset(seed=0)
    actions = at.actions.astype(np.float32)
    return at.work(lambda i: env.step(actions[i % READY]))


def envpool(at: Setting) -> Work:
    """EnvPool's C++ threads; its own MuJoCo, whose version may not be ours."""
    module: Any = importlib.import_module("envpool")
    threads = min(at.threads, at.envs)
    env = module.make(at.task.env_id, env_type="gymnasium", num_envs=at.envs, num_threads=threads)
    env.reset()
    return at.work(lambda i: env.step(at.actions[i % READY]))


def bare_loop(at: Setting) -> Work:
    """`mj_step` in a Python loop, one thread, with the contact forces where the task observes them."""
    model = at.task.model()
    datas = [mujoco.MjData(model) for _ in range(at.envs)]
    forces = "cfrc_ext" in at.task.fields

    def step(i: int) -> None:
        for data, action in zip(datas, at.actions[i % READY], strict=True):
            if i % at.episode == 0:
                mujoco.mj_resetData(model, data)
            data.ctrl[:] = action
            mujoco.mj_step(model, data, at.task.substeps)
            if forces:
                mujoco.mj_rnePostConstraint(model, data)

    return at.work(step)


def mujoco_rollout(at: Setting) -> Work:
    """`mujoco.rollout` in a closed loop, one env step a call: states, and nothing derived from them."""
    model = at.task.model()
    threads = min(at.threads, at.envs)
    datas = [mujoco.MjData(model) for _ in range(threads)]
    rest = np.zeros((at.envs, mujoco.mj_stateSize(model, STATE)))
    for row in rest:
        mujoco.mj_getState(model, datas[0], row, STATE)
    controls = np.repeat(at.actions[:, :, None], at.task.substeps, axis=2)
    pool = rollout.Rollout(nthread=threads)
    states = np.zeros((at.envs, at.task.substeps, rest.shape[1]))
    sensors = np.zeros((at.envs, at.task.substeps, model.nsensordata))
    current = [rest]

    def step(i: int) -> None:
        start = rest if i % at.episode == 0 else current[0]
        pool.rollout(model, datas, start, controls[i % READY], state=states, sensordata=sensors)
        current[0] = states[:, -1].copy()

    return at.work(step)


def sb3_vector(at: Setting, kind: str) -> Work:
    """Stable-Baselines3's vector environments, of Gymnasium's or ours."""
    env = sb3_env(kind, at.task.env_id, at.envs, at.threads)
    env.reset()
    actions = at.actions.astype(np.float32)
    return at.work(lambda i: env.step(actions[i % READY]))


def sb3_env(kind: str, env_id: str, envs: int, threads: int) -> Any:
    """Return "DummyVecEnv" or "SubprocVecEnv" of the original, or "ours"."""
    from stable_baselines3.common import vec_env

    if kind == "ours":
        from rlsuite.envs.sb3 import SB3VecEnv

        return SB3VecEnv(env_id, envs, threads=threads)
    builders: list[Callable[[], Any]] = [partial(gymnasium.make, env_id)] * envs
    if kind == "DummyVecEnv":
        return vec_env.DummyVecEnv(builders)
    return vec_env.SubprocVecEnv(builders, start_method="fork")  # shares the memory of what is imported


# Our ways to step.


def engine_alone(at: Setting) -> Work:
    """The native engine without observation, reward and bookkeeping."""
    env = make_env(at.task.env_id, at.envs, threads=at.threads)
    engine = env.engine
    every = np.ones(at.envs, np.bool_)
    rest = [np.tile(part.numpy(), (at.envs, 1)) for part in (engine.qpos0, engine.qvel0)]

    def step(i: int) -> None:
        if i % at.episode == 0:
            engine.set_state(every, *rest)
        engine.step(at.actions[i % READY], at.task.substeps)

    return at.work(step)


def arrays(at: Setting) -> Work:
    """Our environment by `step_arrays` and `reset_arrays`."""
    env = make_env(at.task.env_id, at.envs, threads=at.threads)
    actions = (at.actions / env.facts.half_range).astype(np.float32)
    env.reset_arrays()

    def step(i: int) -> None:
        result = env.step_arrays(actions[i % READY])
        done = result.terminated | result.truncated
        if np.count_nonzero(done):
            env.reset_arrays(done)

    return at.work(step)


def gymnasium_view(at: Setting, **options: Any) -> Work:
    """Our environment through Gymnasium: `make` for one env, else `make_vec`."""
    import rlsuite.gym  # noqa: F401 (registers)

    env_id = f"rlsuite/{at.task.env_id}"
    if at.envs == 1 and not options:
        return gymnasium_one(at, env_id)
    env = gymnasium.make_vec(env_id, num_envs=at.envs, threads=at.threads, **options)
    env.reset(seed=0)
    actions = at.actions.astype(np.float32)
    return at.work(lambda i: env.step(actions[i % READY]))


def torchrl_view(at: Setting, engine: str = "native", device: str = "cpu") -> Work:
    """Our environment as a TorchRL program steps it."""
    env = make_env(at.task.env_id, at.envs, engine=engine, device=device, threads=at.threads)
    half = torch.tensor(env.half_range, dtype=torch.float64)
    actions = (torch.from_numpy(at.actions) / half).to(device, torch.float32)
    carried = [env.reset()]

    def step(i: int) -> None:
        td = carried[0].set("action", actions[i % READY])
        carried[0] = env.maybe_reset(env.step_mdp(env.step(td)))

    return at.work(step, torch.cuda.synchronize if device == "cuda" else None)


def warp(at: Setting) -> Work:
    """Our environment on the engine `warp`, on a GPU."""
    if not torch.cuda.is_available():
        raise Unavailable("torch sees no CUDA device")
    return torchrl_view(at, "warp", "cuda")


WAYS: Mapping[str, Callable[[Setting], Work]] = {
    "gymnasium.make": gymnasium_one,
    "mj_step loop, 1 thread": bare_loop,
    "mujoco.rollout": mujoco_rollout,
    "EnvPool": envpool,
    "SyncVectorEnv": partial(gymnasium_vector, mode="sync"),
    "AsyncVectorEnv": partial(gymnasium_vector, mode="async"),
    "DummyVecEnv": partial(sb3_vector, kind="DummyVecEnv"),
    "SubprocVecEnv": partial(sb3_vector, kind="SubprocVecEnv"),
    "ours: engine alone": engine_alone,
    "ours: arrays": arrays,
    "ours: Gymnasium": gymnasium_view,
    "ours: Gymnasium, no infos": partial(gymnasium_view, infos=False),
    "ours: SB3": partial(sb3_vector, kind="ours"),
    "ours: TorchRL": torchrl_view,
    "ours: warp": warp,
}
"""By name in tables."""

WITH_PROCESSES = ("AsyncVectorEnv", "SubprocVecEnv")
TRAINED_ON = ("DummyVecEnv", "SubprocVecEnv", "ours")


# Training.


def training(algorithm: str, kind: str, task: str, envs: int, threads: int) -> None:
    """Train by SB3's own `learn` while turns are asked for; a unit is an env step and its updates."""
    import stable_baselines3

    env = sb3_env(kind, load_task(task).env_id, envs, threads)
    if algorithm == "ppo":
        fields: dict[str, Any] = {"n_steps": ROLLOUT // envs, "batch_size": PPO_BATCH}
        warm_up = ROLLOUT
    else:  # one update for each vector step, SB3's default
        fields, warm_up = {"learning_starts": SAC_WARM_UP}, 2 * SAC_WARM_UP
    model = getattr(stable_baselines3, algorithm.upper())("MlpPolicy", env, seed=0, device="cpu", **fields)
    gate = Gate(warm_up)
    # PPO's updates lie between rollouts: a turn is whole rollouts, each with the updates of the one before.
    model.learn(FOREVER, callback=lambda *_: gate.passed(model.num_timesteps))


# The race.


def races(line: argparse.Namespace) -> dict[str, Race]:
    """Return the races of a command line by name: `TASK x ENVS` steps, `ppo TASK x ENVS` trains."""
    table = {}
    for task in line.tasks:
        for envs in line.envs:
            table[f"{task} x {envs}"] = stepping_race(task, envs, line)
        for envs in line.train:
            for algorithm in ("ppo", "sac"):
                entries = tuple(Entry(kind) for kind in TRAINED_ON if wanted(kind, line))
                goals = tuple(Goal("ours", peer, 1.3, 1.3) for peer in TRAINED_ON[:2])
                table[f"{algorithm} {task} x {envs}"] = Race("env step", entries, TRAINED_ON[:2], goals)
    return table


def wanted(name: str, line: argparse.Namespace) -> bool:
    """Whether a contender takes part."""
    return (not line.only or name in line.only) and (line.threads > 1 or name not in WITH_PROCESSES)


def stepping_race(task: str, envs: int, line: argparse.Namespace) -> Race:
    """Return the race of all ways to step so many envs, with the goals that there are for them."""
    names = [name for name in WAYS if wanted(name, line)]
    if envs > MAX_PROCESSES or envs == 1:
        names = [name for name in names if name not in WITH_PROCESSES]
    goals: tuple[Goal, ...] = ()
    if envs == 64:
        goals = tuple(
            Goal(ours, peer, least, least)
            for ours in ("ours: arrays", "ours: Gymnasium")
            for peer, least in (("mujoco.rollout", 0.98), ("EnvPool", 1.05))
        )
    if envs == 1 and task == "HalfCheetah":
        goals = (
            Goal("ours: Gymnasium", "gymnasium.make", 0.8, 0.8),
            Goal("ours: TorchRL", "gymnasium.make", 0.6, 0.6),
        )
    return Race("env step", tuple(map(Entry, names)), ("gymnasium.make", "mujoco.rollout"), goals)


def begin(race: str, entry: Entry, threads: int) -> Contender:
    """Start a contender's process; a unit of PPO's is a rollout, whose updates lie between two of them."""
    *algorithm, task, _, envs = race.split()
    arguments = [entry.name, "--tasks", task, "--envs", envs, "--threads", str(threads)]
    arguments += ["--algorithm", *algorithm] if algorithm else []
    command = [sys.executable, str(Path(__file__).resolve()), "--contender", *arguments]
    process = Process(command, throughput.cores_of(threads), throughput.variables(threads))
    return Contender(entry.label, [process], ROLLOUT if algorithm == ["ppo"] else int(envs))


def contend(line: argparse.Namespace) -> None:
    """Be one contender: build, then work in turns until the input ends."""
    claim_output()
    task, envs, threads = line.tasks[0], line.envs[0], line.threads
    torch.set_num_threads(threads)
    try:
        if line.algorithm:
            training(line.algorithm, line.contender, task, envs, threads)
            return
        work = WAYS[line.contender](setting(task, envs, threads))
    except (Unavailable, ImportError) as error:
        answer({"unavailable": str(error)})
        return
    for count in turns():
        work(count)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK")
    parser.add_argument("--envs", nargs="*", type=int, default=list(COUNTS), help="stepped together")
    parser.add_argument(
        "--train", nargs="*", type=int, default=list(TRAIN_COUNTS), help="envs of SB3's PPO, SAC"
    )
    parser.add_argument("--threads", type=int, default=2, help="of each contender")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="leave out contenders with other names")
    parser.add_argument("--out", type=Path, help="CSV file of every turn")
    parser.add_argument("--read", type=Path, metavar="FILE", help="summarise an earlier CSV, race nothing")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--algorithm", choices=("ppo", "sac"), help=argparse.SUPPRESS)
    line = parser.parse_args(argv)
    wrong = [count for count in (*line.envs, *line.train) if not 1 <= count <= MAX_CPU_ENVS]
    if wrong:
        parser.error(f"{wrong[0]} envs: from 1 to {MAX_CPU_ENVS} make sense on a CPU")
    known = [*WAYS, *TRAINED_ON]
    unknown = [name for name in line.only or () if name not in known]
    if unknown:
        parser.error(f'--only "{unknown[0]}": there are {", ".join(known)}')
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Race, write every turn as it comes, and print the summary; return an exit code."""
    line = parse(argv)
    if line.contender:
        contend(line)
        return 0
    table = races(line)
    if line.read:
        print("\n".join(throughput.summary(throughput.read(line.read), table)))
        return 0
    rows: list[Turn] = []
    origins: dict[str, str] = {}
    for name, race in table.items():
        raced: list[Turn] = []
        lines = throughput.run_race(
            name, race, line.threads, seconds=line.seconds, rounds=line.rounds, origins=origins,
            start=partial(begin, name),
        )  # fmt: skip
        for turn in lines:
            raced.append(turn)
            if line.out:
                facts = {"rounds": line.rounds, "seconds": line.seconds}
                throughput.write(line.out, [*rows, *raced], facts, origins)
        rows += raced
        print("\n".join(throughput.summary(raced, table)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
