"""Runs for benchmarks and launchers: started once, continued when interrupted, left alone when finished."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlsuite import distributed as ranks
from rlsuite.command.arguments import first_pass, without
from rlsuite.command.train import parse_train
from rlsuite.errors import ConfigError
from rlsuite.hub.bundle import check_resumable
from rlsuite.launch.flags import make_launcher
from rlsuite.launch.queue import run_all, worst
from rlsuite.launch.task import LaunchTask
from rlsuite.registry import agent_class
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.mapping import RunConfig, config_from_dict, config_to_dict
from rlsuite.runs.runfolder import CONFIG_FILE, RunFolder, check_path, default_run_path
from rlsuite.training.outcome import about
from rlsuite.training.start import resume, start

if TYPE_CHECKING:
    from rlsuite.agents.base import Agent

OWN_FLAGS = ("--seed", "--seeds", "--processes", "--launcher", "--launcher-option", "--out")
LOG_FOLDER = "logs"
SHOWN_DIFFERENCES = 3
NOT_COMPARED = ("steps", "threads", "eval_every")  # what may differ when a run goes on


class RunPlan(NamedTuple):
    """One run, resolved, and the words after `rlsuite train AGENT` that say it."""

    agent_class: "type[Agent]"
    config: RunConfig
    args: tuple[str, ...]


def resolve(agent: str, args: Sequence[str]) -> RunPlan:
    """Resolve a run through the command line that would start it alone: `rlsuite train AGENT WORDS`.

    Raises:
        ConfigError: a name, flag or value is wrong.
    """
    parsed, agent_class = parse_train(agent, args)
    config = RunConfig(agent_name=agent, preset=parsed.preset, train=parsed.train, agent=parsed.agent)
    return RunPlan(agent_class, config, tuple(args))


def pending(plan: RunPlan, path: Path) -> list[str] | None:
    """Return the words after `rlsuite` that start, continue or extend a run; None where it is finished.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    if not (path / CONFIG_FILE).is_file():  # nothing, or what a start leaves that was killed or found no room
        return ["train", plan.config.agent_name, *plan.args, "--out", str(path)]
    folder = RunFolder.open(path)
    # Through the dataclasses: a field that a run is too old to know has its default.
    begun = config_from_dict(folder.config(), lambda name: agent_class(name).Config)
    saved, wanted = config_to_dict(begun), config_to_dict(plan.config)
    chosen_at_start = ("compile",) if wanted["train"].get("compile") == "auto" else ()
    for values in (saved["train"], wanted["train"]):
        for free in (*NOT_COMPARED, *chosen_at_start):
            values.pop(free, None)
    if saved != wanted:
        raise ConfigError(
            f"{path} holds a run with other settings ({differences(saved, wanted)}): choose another --out, "
            "or move it away"
        )
    store = CheckpointStore(folder.checkpoints)
    steps = store.steps()
    goal = plan.config.train.steps + getattr(plan.config.train, "then_online", 0)
    ended = steps and (steps[-1] >= goal or steps[-1] == folder.stopped_at())
    if ended and not store.owes_evaluation():
        return None
    return going_on(plan, path)


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return what differs between two configurations, in words: `train.seeds 2, not 3`, at most three."""

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, value in values.items():
            fields |= (
                flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
            )
        return fields

    ours, theirs = flat(saved), flat(wanted)
    other = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    said = [f"{name} {ours.get(name)}, not {theirs.get(name)}" for name in other[:SHOWN_DIFFERENCES]]
    more = len(other) - len(said)
    return "; ".join([*said, f"{more} more"] if more else said)


def going_on(plan: RunPlan, path: Path) -> list[str]:
    """Return the words after `rlsuite` that continue or extend a run."""
    imports = [arg for name in first_pass(plan.args).imports for arg in ("--import", name)]
    return ["resume", str(path), "--steps", str(plan.config.train.steps), *imports]


def task_of(plan: RunPlan, path: Path, log: Path) -> LaunchTask | None:
    """Return a run as a launcher takes it; None where it is finished.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    pending_args = pending(plan, path)
    if pending_args is None:
        return None
    begin = ("train", plan.config.agent_name, *plan.args, "--out", str(path))
    return LaunchTask(begin, Path.cwd() / log, path, tuple(going_on(plan, path)), Path.cwd())


def tasks_of(plans: Mapping[str, RunPlan], out: Path) -> dict[str, LaunchTask]:
    """Return the runs that are not finished as a launcher takes them, by the names of their folders in `out`.

    Raises:
        ConfigError: a folder holds a run with other settings.
    """
    tasks = {
        name: task_of(plan, out / name, out / LOG_FOLDER / f"{name}.log") for name, plan in plans.items()
    }
    return {name: task for name, task in tasks.items() if task is not None}


def run_here(plan: RunPlan, path: Path) -> int:
    """Start, continue or extend one run in this process; return its exit code, 0 where it was finished.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    args = pending(plan, path)
    if args is None:
        return 0
    if args[0] == "train":
        return start(plan.agent_class, plan.config, path)
    check_resumable(path)
    return resume(path, plan.config.train.steps)


def seed_groups(first: int, sizes: Sequence[int]) -> dict[str, list[str]]:
    """Return the flags of groups of seeds that follow one another, by a word for folders: s3, or s0-3."""
    groups = {}
    for size in sizes:
        name = f"s{first}" if size == 1 else f"s{first}-{first + size - 1}"
        groups[name] = ["--seed", str(first), "--seeds", str(size)]
        first += size
    return groups


def run_in_processes(agent: str, argv: Sequence[str], parsed: Any) -> int:
    """Train groups of seeds in run folders below one folder; return the exit code of all.

    Args:
        agent: its name.
        argv: the words after the agent.
        line: the same, parsed.

    Raises:
        ConfigError: a number of processes that does not fit the seeds, or a launcher that is not there.
    """
    train, count = parsed.train, parsed.processes
    if not 1 <= count <= train.seeds:
        raise ConfigError(f"--processes {count} --seeds {train.seeds}: take 1 to {train.seeds} processes")
    if ranks.announced().size > 1:
        raise ConfigError("--processes and --launcher start runs of their own: leave torchrun out")
    out: Path = parsed.out or default_run_path(agent, about(train), train.seed)
    check_path(out)
    least, more = divmod(train.seeds, count)
    groups = seed_groups(train.seed, [least + (at < more) for at in range(count)])
    shared = without(argv, OWN_FLAGS)
    tasks = tasks_of({name: resolve(agent, [*shared, *seeds]) for name, seeds in groups.items()}, out)
    print(
        f"{train.seeds} seeds in {count} runs, {out}/{{{','.join(groups)}}}; to do: {len(tasks)}", flush=True
    )
    code = 0
    if tasks:
        with make_launcher(
            count if parsed.launcher == "local" else None, parsed.launcher, parsed.launcher_option
        ) as launcher:
            code = worst(run_all(tasks, launcher))
    if code:
        print(f"what is missing: the same command with --out {out}")
    print(f"all seeds on one page: rlsuite report {out}", flush=True)
    return code
