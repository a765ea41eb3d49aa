"""Real SIGKILLs at random moments of a run: the run is a fork of the tests, so that a kill costs no start."""

import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import whole_runs as runs
from training.test_offline_training import learn as learn_offline
from training.test_stages import learn as learn_in_stages

from rlsuite.registry import agent_class, agent_names

FORK = multiprocessing.get_context("fork")
START_SECONDS = 120.0  # until a child has its run folder, on a busy machine
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
}
FROM_DATA = ("bc", "iql", "td3_bc")


def train(name: str, path: Path, recorded: Path, *, resume: bool = False, plugins: bool = False) -> None:
    """Train one agent on a toy, the way it learns: online, on recorded rows, or on those in stages."""
    kind = agent_class(name)
    more: dict[str, Any] = {"plugins": PLUGINS} if plugins else {}
    if kind.stages:
        learn_in_stages(path, recorded, resume=resume)
    elif name in FROM_DATA:
        learn_offline(path, recorded, name, resume=resume, checkpoint_every=10, **more)
    elif kind.discrete:
        own = {"quantiles": 8, "stock_candidates": 9, "gamma": 1.0, "utility": "lower", "level": 0.25}
        options = {"stock_gamma": 1.0}
        steps = {"steps": 400, "warmup_steps": 100, "checkpoint_every": 40, "eval_every": 200}
        runs.train(path, name, own, resume=resume, env="stock:RiskyGrid", env_options=options, **steps)
    else:
        steps = {"steps": 500, "checkpoint_every": 60, "eval_every": 250}
        runs.train(path, name, resume=resume, **steps, **more)


def cases() -> list[tuple[str, bool]]:
    """Every agent of the suite, found as the registry finds them, and one of them with plug-ins."""
    return [*((name, False) for name in sorted(agent_names())), ("sac", True)]


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
    start: Callable[[bool], None], path: Path, seconds: float, kills: int, chance: random.Random
) -> int:
    """Kill a run at random moments and resume it until it ends; return how many kills hit it.

    Args:
        start: trains in this process into `path`, resuming where told to.
        path: the run folder.
        seconds: that the unbroken run took: the last moment to kill at.
        kills: to try at most.
        chance: where the moments come from.
    """
    hits = 0
    for _ in range(kills):
        resume = (path / "config.toml").exists()
        child = in_a_fork(lambda resume=resume: start(resume))
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
