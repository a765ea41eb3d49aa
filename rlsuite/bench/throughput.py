"""How fast updates, whole training and environments are, against peers measured in the same run.

Peers take turns in short rounds, so that a machine whose speed drifts moves both sides of a ratio. The
figure of a contender is the median of its rounds; its ratio is the median of the ratios round by round.
"""

import argparse
import csv
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import torch
from tensordict import TensorDict

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.registry import agent_class
from rlsuite.replay.uniform import UniformReplay

OBSERVATION, ACTION, BATCH = 17, 6, 256  # HalfCheetah's sizes and the literature's batch
REPLAY_ROWS = 100_000
PACKAGES = ("torch", "torchrl", "tensordict", "mujoco", "gymnasium", "stable-baselines3", "numpy")


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of doing the same work; `work(n)` does n units."""

    name: str
    work: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result: units per second, and the ratio to the first contender of its race."""

    race: str
    contender: str
    unit: str
    per_second: float
    ratio: float
    ratio_low: float
    ratio_high: float
    rounds: int


def race(name: str, unit: str, contenders: list[Contender], *, seconds: float, rounds: int) -> Iterator[Row]:
    """Time the contenders in turns of about `seconds` each; the first one is the peer of all ratios."""
    sizes = {}
    for contender in contenders:
        count = 8
        while True:  # warm up, and find a count that fills the turn
            spent = _timed(contender.work, count)
            if spent > seconds / 2:
                break
            count *= 2
        sizes[contender.name] = max(1, round(count * seconds / spent))
    speeds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            count = sizes[contender.name]
            speeds[contender.name].append(count / _timed(contender.work, count))
    peer = speeds[contenders[0].name]
    for contender in contenders:
        ratios = [own / other for own, other in zip(speeds[contender.name], peer, strict=True)]
        yield Row(
            name,
            contender.name,
            unit,
            statistics.median(speeds[contender.name]),
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            rounds,
        )


def _timed(work: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    work(count)
    return time.perf_counter() - start


def filled_replay(rows: int = REPLAY_ROWS) -> UniformReplay:
    """A replay of random transitions of HalfCheetah's sizes."""
    g = torch.Generator().manual_seed(0)
    replay = UniformReplay(rows, num_envs=1, batch_size=BATCH, generator=g)
    no = torch.zeros(rows, 1, dtype=torch.bool)
    following = {
        "observation": torch.randn(rows, OBSERVATION, generator=g),
        "reward": torch.randn(rows, 1, generator=g),
        "terminated": no,
        "truncated": no,
        "done": no,
    }
    columns = {
        "observation": torch.randn(rows, OBSERVATION, generator=g),
        "action": torch.rand(rows, ACTION, generator=g) * 2 - 1,
        "next": TensorDict(following, [rows]),
    }
    replay.extend(TensorDict(columns, [rows]))
    return replay


def our_updates(agent_name: str, **fields: Any) -> Contender:
    """Sample and update with one of our agents."""
    kind = agent_class(agent_name)
    spaces = Spaces(observation=OBSERVATION, action=ACTION, half_range=(1.0,) * ACTION)
    agent, replay = kind(spaces, kind.Config(**fields), make_generators(0)), filled_replay()

    def work(count: int) -> None:
        for _ in range(count):
            agent.update(replay.sample())

    return Contender(agent_name, work)


def _sb3_sac(**fields: Any) -> Any:
    from stable_baselines3 import SAC

    return SAC(
        "MlpPolicy", gymnasium.make("HalfCheetah-v5"), batch_size=BATCH, device="cpu", seed=0, **fields
    )


def sb3_updates() -> Contender:
    """`SAC.train` of Stable-Baselines3: sample and update."""
    model = _sb3_sac(learning_starts=5_000)
    model.learn(5_000)

    def work(count: int) -> None:
        model.train(gradient_steps=count, batch_size=BATCH)

    return Contender("stable-baselines3 sac", work)


def update_race(seconds: float, rounds: int) -> Iterator[Row]:
    """Updates per second, batch 256: SAC and DSAC-T (its nets are three layers deep) against SB3's SAC."""
    contenders = [sb3_updates(), our_updates("sac"), our_updates("dsac_t"), our_updates("td3")]
    return race("updates", "updates/s", contenders, seconds=seconds, rounds=rounds)


def training_race(seconds: float, rounds: int) -> Iterator[Row]:
    """Env steps per second of classic training (one world, one update per env step), SAC against SAC."""
    from rlsuite.training.assembly import build
    from rlsuite.training.config import TrainConfig
    from rlsuite.training.online import train_steps

    model = _sb3_sac(learning_starts=1_000)
    model.learn(1_500)

    def peer(count: int) -> None:
        model.learn(count, reset_num_timesteps=False)

    kind = agent_class("sac")
    config = TrainConfig(env="HalfCheetah", warmup_steps=1_000, device="cpu", steps=10**9)
    run = build(kind, kind.Config(), config)
    train_steps(run, 1_500)

    def ours(count: int) -> None:
        train_steps(run, count)

    contenders = [Contender("stable-baselines3 sac", peer), Contender("sac", ours)]
    return race("training", "env steps/s", contenders, seconds=seconds, rounds=rounds)


def env_race(seconds: float, rounds: int, worlds: int = 64) -> Iterator[Row]:
    """Env steps per second with random actions on HalfCheetah, against `gymnasium.make`."""
    from rlsuite.envs.make import make_env

    single = gymnasium.make("HalfCheetah-v5")
    single.reset(seed=0)
    single.action_space.seed(0)

    def one(count: int) -> None:
        for _ in range(count):
            *_, terminated, truncated, _ = single.step(single.action_space.sample())
            if terminated or truncated:
                single.reset()

    vector = gymnasium.make_vec("HalfCheetah-v5", num_envs=8, vectorization_mode="sync")
    vector.reset(seed=0)
    vector.action_space.seed(0)

    def eight(count: int) -> None:
        for _ in range(max(1, count // 8)):
            vector.step(vector.action_space.sample())

    env = make_env("HalfCheetah", worlds, device="cpu", threads=torch.get_num_threads())
    shape, g = env.action_spec.shape, torch.Generator().manual_seed(0)
    carried = [env.reset()]

    def native(count: int) -> None:
        current = carried[0]
        for _ in range(max(1, count // worlds)):
            current.set("action", torch.rand(shape, generator=g) * 2 - 1)
            current = env.maybe_reset(env.step_mdp(env.step(current)))
        carried[0] = current

    ready = [single.action_space.sample() for _ in range(4096)]

    def one_ready(count: int) -> None:
        for step in range(count):
            *_, terminated, truncated, _ = single.step(ready[step % len(ready)])
            if terminated or truncated:
                single.reset()

    ctrl = torch.rand(shape, generator=g, dtype=torch.float64) * 2 - 1

    def engine(count: int) -> None:
        for _ in range(max(1, count // worlds)):
            env.engine.step(ctrl, env.task.substeps)

    contenders = [
        Contender("gymnasium.make", one),
        Contender("gymnasium SyncVectorEnv(8)", eight),
        Contender(f"native, {worlds} worlds", native),
        Contender("gymnasium.make, actions ready", one_ready),
        Contender(f"engine alone, {worlds} worlds", engine),
    ]
    return race("environment", "env steps/s", contenders, seconds=seconds, rounds=rounds)


RACES: dict[str, Callable[[float, int], Iterator[Row]]] = {
    "updates": update_race,
    "training": training_race,
    "environment": env_race,
}


def write_csv(path: Path, rows: Sequence[Any], threads: int, packages: Sequence[str] = PACKAGES) -> None:
    """Write rows of one slotted dataclass with the command, versions and machine that made them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "threads": threads,
        "cpu": _cpu_name(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
    with path.open("w", newline="") as file:
        file.write(f"# command: {Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}\n")
        file.writelines(f"# {key}: {value}\n" for key, value in facts.items())
        writer = csv.writer(file)
        names = rows[0].__slots__
        writer.writerow(names)
        for row in rows:
            writer.writerow(
                [f"{v:.4g}" if isinstance(v, float) else v for v in map(row.__getattribute__, names)]
            )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def main() -> None:
    """Run the races and print, and with --out write, their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("races", nargs="*", default=list(RACES), help=f"which of {', '.join(RACES)}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="CSV file")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.races if name not in RACES]
    if unknown:
        parser.error(f"unknown race {unknown[0]}; there are {', '.join(RACES)}")
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.races:
        for row in RACES[name](arguments.seconds, arguments.rounds):
            rows.append(row)
            print(
                f"{row.race:12} {row.contender:28} {row.per_second:10,.1f} {row.unit:12} "
                f"x{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]",
                flush=True,
            )
    if arguments.out:
        write_csv(arguments.out, rows, arguments.threads)


if __name__ == "__main__":
    main()
