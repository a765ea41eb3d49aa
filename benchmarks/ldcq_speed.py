"""What LDCQ costs: plans per second by sampler, updates per second of every stage, and returns by sampler.

Sizes are those of a preset on PointMaze (8 observations, 2 actions), data are random rows.
"""

import csv
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from races import Contender, Row, race, write_csv
from tensordict import TensorDict

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.ldcq import LDCQ, LDCQConfig
from rlsuite.blocks.noise import normal
from rlsuite.bounds import AtLeastOne, check_bounds
from rlsuite.command.arguments import parse
from rlsuite.envs.make import make_env
from rlsuite.presets import load_preset
from rlsuite.replay.windows import WindowReplay
from rlsuite.strict import from_mapping
from rlsuite.training.evaluate import evaluate
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import SavedRun, load_run

OBSERVATION, ACTION = 8, 2  # of PointMaze
EPISODES, LENGTH = 60, 100  # of the random rows
DDIM_STEPS = 10
ENV = "gym:gymnasium_robotics:PointMaze_UMaze-v3"  # whose preset is taken


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkillSpeedArgs:
    """Measures what LDCQ's plans and updates cost and, for trained runs, what each sampler returns."""

    preset: str = "small"
    """Whose sizes."""
    worlds: AtLeastOne = 64
    """Planned for together."""
    batch: AtLeastOne = 128
    """Windows per update."""
    threads: AtLeastOne = 1
    """CPU threads."""
    seconds: float = 5.0
    """Length of one turn."""
    rounds: AtLeastOne = 5
    """Turns of every contender."""
    runs: tuple[Path, ...] = ()
    """Run folders of ldcq, played with each sampler."""
    episodes: AtLeastOne = 20
    """Of each run and sampler."""
    out: Path | None = None
    """CSV file of the speeds; returns go beside it."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)


def preset_config(preset: str) -> LDCQConfig:
    """Return the agent's fields of a preset on PointMaze."""
    _, own = load_preset("ldcq", preset, ENV, "any")
    return from_mapping(LDCQConfig, own, f'preset "{preset}" of ldcq')


def samplers(config: LDCQConfig) -> dict[str, LDCQConfig]:
    """Return the configuration with either sampler, by a name that says its denoiser calls."""
    count = min(DDIM_STEPS, config.diffusion_steps)
    calls = config.diffusion_steps + config.extra_steps
    return {
        f"ancestral, {calls} calls": dataclasses.replace(config, sampler="ancestral"),
        f"ddim, {count} calls": dataclasses.replace(config, sampler="ddim", ddim_steps=count),
    }


def random_windows(config: LDCQConfig, batch: int) -> WindowReplay:
    """Return windows of random rows."""
    g, count = torch.Generator().manual_seed(0), EPISODES * LENGTH
    following = {
        "observation": torch.randn(count, OBSERVATION, generator=g),
        "reward": torch.rand(count, 1, generator=g),
        "terminated": torch.zeros(count, 1, dtype=torch.bool),
    }
    rows = {
        "observation": torch.randn(count, OBSERVATION, generator=g),
        "action": torch.rand(count, ACTION, generator=g) * 2 - 1,
        "next": TensorDict(following, [count]),
    }
    first = torch.arange(EPISODES) * LENGTH
    episodes = torch.stack((first, first + LENGTH), -1)
    shape: dict[str, Any] = {
        "horizon": config.horizon,
        "stride": config.stride,
        "short": config.short_windows,
    }
    return WindowReplay(TensorDict(rows, [count]), episodes, batch_size=batch, generator=g, **shape)


def new_agent(config: LDCQConfig) -> LDCQ:
    """Return an untrained agent that acts as one that has learnt everything."""
    spaces = Spaces(observation=OBSERVATION, action=ACTION, half_range=(1.0,) * ACTION)
    agent = LDCQ(spaces, config, make_generators(0))
    agent.actor.learnt.fill_(1)
    return agent


def planner(name: str, config: LDCQConfig, worlds: int) -> Contender:
    """Plan for all worlds at once: draw candidates, value them, choose."""
    agent, g = new_agent(config), torch.Generator().manual_seed(0)
    state = torch.randn(worlds, OBSERVATION, generator=g)

    def work(count: int) -> None:
        for _ in range(count // worlds):
            agent.actor.plan(state, lambda like: normal(like, g))

    return Contender(name, work, grain=worlds)


def stage_updates(config: LDCQConfig, batch: int) -> list[Contender]:
    """Sample and update in every stage."""
    found = []
    for stage in config.offered:
        data = random_windows(config, batch)
        agent = new_agent(dataclasses.replace(config, stages=(stage,)))
        agent.prepare(data)

        def work(count: int, agent: LDCQ = agent, data: WindowReplay = data) -> None:
            for _ in range(count):
                rows = data.sample()
                agent.update(rows)
                if data.priorities is not None:
                    data.reprioritise(rows["index"], rows["priority"])

        found.append(Contender(stage, work))
    return found


def races(line: SkillSpeedArgs) -> Iterator[Row]:
    """Race the samplers, then the stages."""
    config = preset_config(line.preset)
    timing: dict[str, Any] = {"seconds": line.seconds, "rounds": line.rounds}
    planners = [planner(name, own, line.worlds) for name, own in samplers(config).items()]
    yield from race(f"{line.worlds} worlds, preset {line.preset}", "re-plans/s", planners, **timing)
    updates = stage_updates(config, line.batch)
    yield from race(f"updates, preset {line.preset}", "updates/s", updates, **timing)


def returns(path: Path, episodes: int) -> Iterator[tuple[str, list[float]]]:
    """Play a run with either sampler, from the same starts; yield its name and the returns."""
    run = load_run(path, "last")
    train = run.config.train
    streams = SeedStreams([train.seed])
    env = make_env(train.env, episodes, options=train.env_options)
    try:
        for name, own in samplers(run.config.agent).items():
            changed = SavedRun(dataclasses.replace(run.config, agent=own), run.loaded)
            found = evaluate(changed.agent(env, streams).policy, env, seeds=streams.seeds("eval")[0])
            yield name, found["returns"]
    finally:
        env.close()


def main(argv: Sequence[str]) -> None:
    """Measure, print, and with --out write, what the words ask for."""
    line = parse(
        SkillSpeedArgs, argv, prog="benchmarks/ldcq_speed.py", description=str(SkillSpeedArgs.__doc__)
    )
    torch.set_num_threads(line.threads)
    rows = []
    for row in races(line):
        rows.append(row)
        print(f"{row.race:24} {row.contender:24} {row.per_second:10,.2f} {row.unit}", flush=True)
        if line.out:
            write_csv(line.out, rows, line.threads)
    played = [
        [path.name, name, sum(found) / len(found), len(found)]
        for path in line.runs
        for name, found in returns(path, line.episodes)
    ]
    for run, name, mean, count in played:
        print(f"{run}: {name}: return {mean:,.1f} over {count} episodes")
    if played and line.out:
        with line.out.with_name(f"{line.out.stem}_returns.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["run", "sampler", "return_mean", "episodes"], *played])


if __name__ == "__main__":
    main(sys.argv[1:])
