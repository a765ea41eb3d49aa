"""OGBench's names taken apart: environment, kind of recordings, task. Imports nothing heavy.

`cube-single-play-singletask-task2-v0` is the environment cube-single, recordings of the kind play, task 2.
Without `singletask` the environment is goal-conditioned: a task is drawn for every episode.
"""

import re
from typing import NamedTuple

from rlsuite.errors import ConfigError, unknown_name

FAMILY = "ogbench"  # `--env ogbench:NAME`, `--dataset ogbench/NAME`
VERSION = "v0"
TASKS = 5  # of every environment
DEFAULT_TASK = 0  # OGBench's word for the task that stands for an environment
MAZES = ("medium", "large", "giant", "teleport")
ENVS = {
    **{f"pointmaze-{maze}": ("navigate", "stitch") for maze in MAZES},
    **{f"antmaze-{maze}": ("navigate", "stitch", "explore") for maze in MAZES if maze != "giant"},
    "antmaze-giant": ("navigate", "stitch"),
    **{f"humanoidmaze-{maze}": ("navigate", "stitch") for maze in MAZES[:3]},
    **{f"antsoccer-{maze}": ("navigate", "stitch") for maze in ("arena", "medium")},
    **{f"cube-{count}": ("play", "noisy") for count in ("single", "double", "triple", "quadruple")},
    "scene": ("play", "noisy"),
    **{f"puzzle-{size}": ("play", "noisy") for size in ("3x3", "4x4", "4x5", "4x6")},
}
"""Environments with states as observations, and the kinds of recordings that OGBench has of each."""
KINDS = ("navigate", "stitch", "explore", "play", "noisy")
_PARTS = re.compile(rf"(.+?)(?:-({'|'.join(KINDS)}))?(-singletask(?:-task(\d+))?)?(?:-v(\d+))?")


class Name(NamedTuple):
    """An environment or a data set of OGBench.

    Attributes:
        env: e.g. "pointmaze-medium".
        dataset_type: of recordings, e.g. "navigate"; "" where the name says none.
        task: of the single task, 1 to 5, 0 for the environment's default one; None is goal-conditioned.
    """

    env: str
    dataset_type: str = ""
    task: int | None = None

    @property
    def gym_id(self) -> str:
        """OGBench's id of the environment, e.g. "pointmaze-medium-singletask-task1-v0"."""
        return f"{self.env}{self.suffix}-{VERSION}"

    @property
    def env_id(self) -> str:
        """What `--env` says, e.g. "ogbench:pointmaze-medium-singletask-v0"."""
        return f"{FAMILY}:{self.gym_id}"

    @property
    def recordings(self) -> str:
        """The file's name without suffix, the same for all tasks, e.g. "pointmaze-medium-navigate-v0"."""
        return f"{self.env}-{self.dataset_type}-{VERSION}"

    @property
    def dataset(self) -> str:
        """What `--dataset` says, e.g. "ogbench/pointmaze-medium-navigate-singletask-task1-v0"."""
        return f"{FAMILY}/{self.env}-{self.dataset_type}{self.suffix}-{VERSION}"

    @property
    def suffix(self) -> str:
        """The part of a name that says the task."""
        if self.task is None:
            return ""
        return f"-singletask-task{self.task}" if self.task else "-singletask"

    def tasks(self) -> list["Name"]:
        """Return the five single tasks."""
        return [self._replace(task=number) for number in range(1, TASKS + 1)]


def kinds_of(env: str) -> tuple[str, ...]:
    """Return the kinds of recordings of an environment, OGBench's and those made here."""
    return (*ENVS[env], "explore") if env.startswith("pointmaze") else ENVS[env]


def parse(name: str) -> Name:
    """Take apart what stands after `ogbench:` or `ogbench/`; the version may be left out.

    Raises:
        ConfigError: no such environment, kind of recordings, task or version; pictures.
    """
    match = _PARTS.fullmatch(name)
    env, dataset_type, single, number, version = match.groups() if match else (name, None, None, None, None)
    if name.startswith(("visual-", "powderworld")):
        raise ConfigError(f'"{FAMILY}:{name}" shows pictures: agents here need vectors; take {name[7:]}')
    if env not in ENVS or version not in (None, VERSION[1:]):
        known = [f"{FAMILY}:{known}{suffix}-{VERSION}" for known in ENVS for suffix in ("", "-singletask")]
        raise unknown_name("an environment", f"{FAMILY}:{name}", known, "docs/ogbench.md")
    task = None if not single else int(number) if number else DEFAULT_TASK
    if number and not 1 <= int(number) <= TASKS:
        raise ConfigError(f'"{FAMILY}:{name}": tasks are 1 to {TASKS}')
    return Name(env, dataset_type or "", task)


def find_recordings(dataset: str) -> Name | None:
    """Return what a data set's id says, None where it is none of OGBench's.

    Raises:
        ConfigError: it begins as one of OGBench's and is none.
    """
    family, _, rest = dataset.partition("/")
    if family != FAMILY:
        return None
    try:
        name = parse(rest)
        known = name.dataset_type in kinds_of(name.env)
    except ConfigError:
        known = False
    if not known:
        recordings = [Name(env, dataset_type) for env, types in ENVS.items() for dataset_type in types]
        ids = [each._replace(task=task).dataset for each in recordings for task in (None, 0, 1)]
        raise unknown_name("a data set", dataset, ids, "rlsuite list datasets")
    return name
