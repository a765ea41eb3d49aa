"""Names of environments, from file names and docstrings: imports neither torch nor MuJoCo.

The docstring of a file in `tasks/` or `toys/` starts with `Name: one-line summary`, that of a file in
`tasks/dmc/` with `Domain (task, task): one-line summary`.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rlsuite import extensions

TASK_FOLDER = Path(__file__).parent / "tasks"
SUITE_FOLDER = TASK_FOLDER / "dmc"
TOY_FOLDER = Path(__file__).parent / "toys"
NOT_TASKS = ("__init__", "base", "common", "rewards")
DOMAIN = re.compile(r".+ \((.+)\)")

NO_ENV = "none"

FOREIGN = (
    (NO_ENV, "with --dataset: learn without an environment, and so without evaluations"),
    ("gym:ID", "any Gymnasium id with a box of actions, e.g. gym:Pendulum-v1"),
    ("discrete:ID", "any of these with discrete actions: its own, or a grid of its continuous ones"),
    ("pixels:ID", "any of these as pictures, for agents with an encoder, e.g. pixels:dmc:cartpole-swingup"),
    ("stock:ID", "any of these with a stock that the return is added to, e.g. stock:RiskyGrid"),
    (
        "d4rl:AdroitHandTASK",
        "Door, Hammer, Pen, Relocate with D4RL's rewards and ends, e.g. d4rl:AdroitHandPen",
    ),
    (
        "ogbench:NAME",
        "OGBench's mazes and manipulation, e.g. ogbench:cube-single-singletask-task2-v0 (docs/ogbench.md)",
    ),
    ("torchrl:MODULE:CLASS", "any TorchRL environment, e.g. torchrl:torchrl.envs:PendulumEnv"),
    ("envpool:ID", "a task of EnvPool, with its gymnasium interface, e.g. envpool:HalfCheetah-v4"),
    ("dmc:DOMAIN-TASK", "any other task of dm_control, one copy after the other, e.g. dmc:fish-swim"),
)


class TaskFile(NamedTuple):
    """Where a task lives and what it is about.

    Attributes:
        stem: of the file.
        summary: one line.
        versions: of one of Gymnasium's tasks, the keys of `VERSIONS`.
    """

    stem: str
    summary: str
    versions: tuple[str, ...] = ()


@cache
def tasks_by_name() -> dict[str, TaskFile]:
    """Return the task files by the name of their task, in alphabetical order."""
    return dict(_task_files(TASK_FOLDER))


@cache
def toys_by_name() -> dict[str, TaskFile]:
    """Return the files of environments without a physics engine by their name, in alphabetical order."""
    return dict(_task_files(TOY_FOLDER))


@cache
def suite_tasks_by_name() -> dict[str, TaskFile]:
    """Return the files of dm_control's batched tasks by `domain-task`, in alphabetical order of domains."""
    tasks: dict[str, TaskFile] = {}
    for head, task in _task_files(SUITE_FOLDER):
        match = DOMAIN.fullmatch(head)
        assert match, f"tasks/dmc/{task.stem}.py: its docstring does not start with `Domain (task, task): `"
        tasks |= {f"{task.stem}-{name}": task for name in match[1].split(", ")}
    return tasks


def env_names() -> list[tuple[str, str]]:
    """Return (id, one-line summary) of every environment that `make_env` understands."""
    native = [(name, task.summary) for name, task in (tasks_by_name() | toys_by_name()).items()]
    suite = [(f"dmc:{name}", task.summary) for name, task in suite_tasks_by_name().items()]
    added = [(name, f"from {target}") for name, target in added_tasks().items()]
    return [*native, *suite, *added, *FOREIGN]


def added_tasks() -> dict[str, str]:
    """Return the tasks that other packages or `--import` added, by name: the module each lives in."""
    native = tasks_by_name() | toys_by_name()
    return {name: target for name, target in extensions.targets("task").items() if name not in native}


def _task_files(folder: Path) -> Iterator[tuple[str, TaskFile]]:
    """Yield what stands before the colon of each file's docstring, and the file."""
    for path in sorted(folder.glob("*.py")):
        if path.stem in NOT_TASKS:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        head, _, summary = (ast.get_docstring(tree) or "").partition("\n")[0].partition(": ")
        yield head, TaskFile(path.stem, summary.rstrip("."), tuple(_versions(tree)))


def _versions(tree: ast.Module) -> Iterator[str]:
    """Yield the keys of a module's mapping `VERSIONS`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSIONS":
            assert isinstance(node.value, ast.Dict)
            for key in node.value.keys:
                assert isinstance(key, ast.Constant)
                yield str(key.value)
