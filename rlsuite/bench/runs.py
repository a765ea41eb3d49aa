"""Runs that a benchmark is made of: started once, continued when interrupted, left alone when finished."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlsuite.cli._line import peek
from rlsuite.cli.resume import run as resume
from rlsuite.cli.train import parse_line, start
from rlsuite.errors import ConfigError
from rlsuite.launch.task import Task
from rlsuite.registry import agent_class
from rlsuite.training.checkpoint import CheckpointStore
from rlsuite.training.mapping import RunConfig, config_from_dict, config_to_dict
from rlsuite.training.runfolder import RunFolder

if TYPE_CHECKING:
    from rlsuite.agents.base import Agent

NOT_COMPARED = ("steps", "threads")  # what may differ when a run goes on


class Plan(NamedTuple):
    """One run, resolved, and the words after `rlsuite train AGENT` that say it."""

    kind: "type[Agent]"
    config: RunConfig
    words: tuple[str, ...]


def resolve(agent: str, words: Sequence[str]) -> Plan:
    """Resolve a run through the command line that would start it alone: `rlsuite train AGENT WORDS`.

    Raises:
        ConfigError: a name, flag or value is wrong.
    """
    line, kind = parse_line(agent, words)
    config = RunConfig(agent_name=agent, preset=line.preset, train=line.train, agent=line.agent)
    return Plan(kind, config, tuple(words))


def pending(plan: Plan, path: Path) -> list[str] | None:
    """Return the words after `rlsuite` that start, continue or extend a run; None where it is finished.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    if not path.exists():
        return ["train", plan.config.agent_name, *plan.words, "--out", str(path)]
    folder = RunFolder.open(path)
    # Through the dataclasses: a field that a run is too old to know has its default.
    begun = config_from_dict(folder.config(), lambda name: agent_class(name).Config)
    found, wanted = config_to_dict(begun), config_to_dict(plan.config)
    for values in (found["train"], wanted["train"]):
        for free in NOT_COMPARED:
            values.pop(free, None)
    if found != wanted:
        raise ConfigError(f"{path} holds a run with other settings: choose another --out, or move it away")
    steps = CheckpointStore(folder.checkpoints).steps()
    goal = plan.config.train.steps + getattr(plan.config.train, "then_online", 0)
    if steps and steps[-1] >= goal:
        return None
    return going_on(plan, path)


def going_on(plan: Plan, path: Path) -> list[str]:
    """Return the words after `rlsuite` that continue or extend a run."""
    imports = [word for name in peek(plan.words, "--import") for word in ("--import", name)]
    return ["resume", str(path), "--steps", str(plan.config.train.steps), *imports]


def task_of(plan: Plan, path: Path, log: Path) -> Task | None:
    """Return a run as a launcher takes it; None where it is finished.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    words = pending(plan, path)
    if words is None:
        return None
    begin = ("train", plan.config.agent_name, *plan.words, "--out", str(path))
    return Task(begin, Path.cwd() / log, path, tuple(going_on(plan, path)), Path.cwd())


def train(plan: Plan, path: Path) -> int:
    """Start, continue or extend one run in this process; return its exit code, 0 where it was finished.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    words = pending(plan, path)
    if words is None:
        return 0
    return start(plan.kind, plan.config, path) if words[0] == "train" else resume(words[1:])
