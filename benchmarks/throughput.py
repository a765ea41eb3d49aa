"""How fast updates, whole training and environments are, against peers measured in the same run."""

import argparse
import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium
import torch
from environments import table
from races import Contender, Row, race, write_csv
from tensordict import TensorDict

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.registry import agent_class
from rlsuite.replay.uniform import UniformReplay

OBSERVATION, ACTION, BATCH = 17, 6, 256  # HalfCheetah's sizes and the literature's batch
REPLAY_ROWS = 100_000
ENV_TASKS = ("HalfCheetah", "Humanoid")
WORLDS = (1, 8, 64, 1_024, 4_096, 16_384)


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
    from rlsuite.runs.config import TrainConfig
    from rlsuite.training.assembly import build
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


def env_race(seconds: float, rounds: int) -> Iterator[Row]:
    """Env steps per second with random actions on 64 worlds of HalfCheetah; `--envs` has more of them."""
    return table(["HalfCheetah"], [64], torch.get_num_threads(), seconds=seconds, rounds=rounds)


RACES: dict[str, Callable[[float, int], Iterator[Row]]] = {
    "updates": update_race,
    "training": training_race,
    "environment": env_race,
}


def main() -> None:
    """Run the races and print, and with --out write, their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("races", nargs="*", default=list(RACES), help=f"which of {', '.join(RACES)}")
    parser.add_argument(
        "--envs",
        nargs="*",
        metavar="TASK",
        help=f"instead of the races: all ways to step these tasks; {' '.join(ENV_TASKS)} where none is named",
    )
    parser.add_argument(
        "--worlds", nargs="+", type=int, default=list(WORLDS), help="of --envs, stepped together"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="CSV file")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.races if name not in RACES]
    if unknown:
        parser.error(f"unknown race {unknown[0]}; there are {', '.join(RACES)}")
    torch.set_num_threads(arguments.threads)
    seconds, rounds = arguments.seconds, arguments.rounds
    if arguments.envs is None:
        lines: Iterator[Row] = chain.from_iterable(RACES[name](seconds, rounds) for name in arguments.races)
    else:
        names = arguments.envs or list(ENV_TASKS)
        lines = table(names, arguments.worlds, arguments.threads, seconds=seconds, rounds=rounds)
    rows = []
    for row in lines:
        rows.append(row)
        print(
            f"{row.race:18} {row.contender:28} {row.per_second:10,.1f} {row.unit:12} "
            f"x{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]",
            flush=True,
        )
        if arguments.out:
            write_csv(arguments.out, rows, arguments.threads)


if __name__ == "__main__":
    main()
