"""Real SIGKILLs at random moments of a run: the run is a fork of the tests, so that a kill costs no start."""

import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import whole_runs as runs
from training.test_offline_training import learn as learn_offline
from training.test_stages import learn as learn_in_stages

from rlsuite.agents.base import OnPolicyAgent, StagedAgent
from rlsuite.registry import agent_class, agent_names
from rlsuite.runs.checkpoint import CheckpointStore

FORK = multiprocessing.get_context("fork")
POLL_SECONDS = 0.005
START_SECONDS = 120.0  # until a child has its run folder, on a busy machine
OFFLINE_STEPS, ONLINE_STEPS = 20, 100  # of a run on recorded rows that goes online
PLUGINS = {
    "grama": {"period": 7, "tau": 0.4},
    "least": {
        "start": 0.0,
        "min_index": 2,
        "min_values": 2,
        "episodes": 9,
        "min_episodes": 3,
        "max_episodes": 20,
    },
    "redo": {"period": 11, "tau": 0.4},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is killed.

    Attributes:
        agent: its name.
        plugins: that it learns with, of `PLUGINS`.
        seeds: trained along an axis.
        online: learn from recorded rows, then online, and be killed after the former alone.
        short: also in the short form.
    """

    agent: str
    plugins: tuple[str, ...] = ()
    seeds: int = 1
    online: bool = False
    short: bool = True

    def __str__(self) -> str:
        """Name it as the counts do: "sac with grama and least"."""
        parts = [self.agent]
        parts += [f"with {' and '.join(self.plugins)}"] if self.plugins else []
        parts += [f"of {self.seeds} seeds"] if self.seeds > 1 else []
        parts += ["online after offline"] if self.online else []
        return " ".join(parts)

    def train(self, path: Path, recorded: Path, *, resume: bool = False) -> None:
        """Train on a toy, the way the agent learns: online, on recorded rows, on those in stages, or both."""
        kind = agent_class(self.agent)
        more: dict[str, Any] = {"seeds": self.seeds, "resume": resume}
        if self.plugins:
            more["plugins"] = {name: PLUGINS[name] for name in self.plugins}
        if issubclass(kind, StagedAgent):
            learn_in_stages(path, recorded, **more)
        elif self.online:
            steps = {"steps": OFFLINE_STEPS, "then_online": ONLINE_STEPS, "eval_every": 50}
            learn_offline(path, recorded, self.agent, checkpoint_every=20, **steps, **more)
        elif kind.needs_data:
            if kind.columns(kind.Config()).expert:
                more["expert"] = str(recorded)
            learn_offline(path, recorded, self.agent, checkpoint_every=10, **more)
        elif issubclass(kind, OnPolicyAgent):
            rollout = {"replay_size": 80, "batch_size": 16, "epochs": 2, "warmup_steps": 0}
            steps = {"steps": 500, "checkpoint_every": 60, "eval_every": 250}
            runs.train(path, self.agent, **rollout, **steps, **more)
        elif kind.discrete:
            own = {"quantiles": 8, "stock_candidates": 9, "gamma": 1.0, "utility": "lower", "level": 0.25}
            options = {"stock_gamma": 1.0}
            steps = {"steps": 400, "warmup_steps": 100, "checkpoint_every": 40, "eval_every": 200}
            runs.train(path, self.agent, own, env="stock:RiskyGrid", env_options=options, **steps, **more)
        else:
            steps = {"steps": 500, "checkpoint_every": 60, "eval_every": 250}
            runs.train(path, self.agent, **steps, **more)

    def may_be_killed(self, path: Path) -> bool:
        """Whether the run in `path` is where this case is to be killed: anywhere, or online."""
        return not self.online or any(
            step >= OFFLINE_STEPS for step in CheckpointStore(path / "ckpt").steps()
        )


def cases() -> list[Case]:
    """Every agent of the suite, found as the registry finds them, and what not every one is killed with."""
    return [
        *(Case(agent=name) for name in sorted(agent_names())),
        Case(agent="sac", plugins=("grama", "least")),
        Case(agent="dsac_t", plugins=("grama", "least"), short=False),
        Case(agent="sac", plugins=("redo",), seeds=2),
        Case(agent="dsac_t", seeds=2, short=False),
        Case(agent="iql", online=True),
        Case(agent="td3_bc", online=True, short=False),
    ]


def in_a_fork(work: Callable[[], None]) -> Any:
    """Start `work` in a child with no output of its own; exit code 0 says that it came to its end."""

    def quietly() -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        work()

    child = FORK.Process(target=quietly)
    child.start()
    return child


def kill_and_resume(
    start: Callable[[bool], None],
    path: Path,
    seconds: float,
    kills: int,
    chance: random.Random,
    ready: Callable[[], bool] = lambda: True,
) -> int:
    """Kill a run at random moments and resume it until it ends; return how many kills hit it.

    Args:
        start: trains in this process into `path`, resuming where told to.
        path: the run folder.
        seconds: that the unbroken run took: the last moment to kill at.
        kills: to try at most.
        chance: where the moments come from.
        ready: whether the run has come to where it may be killed; moments are counted from there.
    """
    hits = 0
    for _ in range(kills):
        resume = (path / "config.toml").exists()
        child = in_a_fork(lambda resume=resume: start(resume))
        deadline = time.monotonic() + START_SECONDS
        while not ready() and child.exitcode is None:
            assert time.monotonic() < deadline, "the run does not come to where it is to be killed"
            time.sleep(POLL_SECONDS)
        child.join(chance.uniform(0, seconds))
        if child.exitcode is not None:
            assert child.exitcode == 0, f"the run failed by itself with exit code {child.exitcode}"
            return hits
        child.kill()
        child.join()
        hits += 1
    child = in_a_fork(lambda: start((path / "config.toml").exists()))
    child.join(START_SECONDS)
    with contextlib.suppress(ValueError):
        child.kill()
    assert child.exitcode == 0, f"resumed after {hits} kills, the run ended with exit code {child.exitcode}"
    return hits


def timed(work: Callable[[], None]) -> float:
    """Return the seconds that `work` takes."""
    begin = time.monotonic()
    work()
    return time.monotonic() - begin
