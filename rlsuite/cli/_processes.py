"""`rlsuite train --seeds 8 --processes 4`: groups of seeds as runs of their own, through a launcher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlsuite.cli._line import without
from rlsuite.cli._outcome import about
from rlsuite.errors import ConfigError

OWN_FLAGS = ("--seed", "--seeds", "--processes", "--launcher", "--launcher-option", "--out")


def wanted(line: Any) -> bool:
    """Whether a line of `rlsuite train` asks for other processes than this one."""
    return line.processes != 1 or line.launcher != "local" or bool(line.launcher_option)


def run(agent: str, argv: Sequence[str], line: Any) -> int:
    """Train groups of seeds in run folders below one folder; return the exit code of all.

    Args:
        agent: its name.
        argv: the words after the agent.
        line: the same, parsed.

    Raises:
        ConfigError: a number of processes that does not fit the seeds, or a launcher that is not there.
    """
    from rlsuite.bench.runs import resolve, task_of
    from rlsuite.bench.study import seed_groups
    from rlsuite.blocks import ranks
    from rlsuite.launch.flags import make_launcher
    from rlsuite.launch.queue import run_all, worst
    from rlsuite.training.runfolder import check_path, default_run_path

    train, count = line.train, line.processes
    if not 1 <= count <= train.seeds:
        raise ConfigError(f"--processes {count} --seeds {train.seeds}: take 1 to {train.seeds} processes")
    if ranks.announced().size > 1:
        raise ConfigError("--processes and --launcher start runs of their own: leave torchrun out")
    out: Path = line.out or default_run_path(agent, about(train), train.seed)
    check_path(out)
    least, more = divmod(train.seeds, count)
    groups = seed_groups(train.seed, [least + (at < more) for at in range(count)])
    words = without(argv, OWN_FLAGS)
    found = {
        name: task_of(resolve(agent, [*words, *seeds]), out / name, out / "logs" / f"{name}.log")
        for name, seeds in groups.items()
    }
    tasks = {name: task for name, task in found.items() if task is not None}
    print(
        f"{train.seeds} seeds in {count} runs, {out}/{{{','.join(groups)}}}; to do: {len(tasks)}", flush=True
    )
    code = 0
    if tasks:
        with make_launcher(
            count if line.launcher == "local" else None, line.launcher, line.launcher_option
        ) as launcher:
            code = worst(run_all(tasks, launcher))
    if code:
        print(f"what is missing: the same command with --out {out}")
    print(f"all seeds on one page: rlsuite report {out}", flush=True)
    return code
