"""Names of environments, from file names and docstrings: imports neither torch nor MuJoCo.

The docstring of a file in `tasks/` starts with `Name: one-line summary`.
"""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

TASK_FOLDER = Path(__file__).parent / "tasks"
NOT_TASKS = ("__init__", "base", "common")

FOREIGN = (
    ("gym:ID", "any Gymnasium id with a flat box of actions, e.g. gym:Pendulum-v1"),
    ("dmc:DOMAIN-TASK", "any dm_control task, e.g. dmc:cheetah-run (needs the extra dmc)"),
)


class TaskFile(NamedTuple):
    """Where a task lives and what it is about."""

    stem: str
    summary: str


@cache
def tasks_by_name() -> dict[str, TaskFile]:
    """Return the task files by the name of their task, in alphabetical order."""
    found = {}
    for path in sorted(TASK_FOLDER.glob("*.py")):
        if path.stem in NOT_TASKS:
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name, _, summary = docstring.partition("\n")[0].partition(": ")
        found[name] = TaskFile(path.stem, summary.rstrip("."))
    return found


def env_names() -> list[tuple[str, str]]:
    """Return (id, one-line summary) of every environment that `make_env` understands."""
    return [(name, task.summary) for name, task in tasks_by_name().items()] + list(FOREIGN)
