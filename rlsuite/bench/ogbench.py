"""OGBench in tables: an id without a task stands for the five tasks of its environment, and for their mean.

Every task is a run of its own, on the same recordings with other rewards. The mean over an environment's five
tasks, in per cent of solved episodes, is the number that papers print (Park et al. 2025, arXiv 2502.02538,
table 2).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rlsuite.envs.ogbench_names import FAMILY, TASKS, Name, find_recordings, parse
from rlsuite.errors import ConfigError

MEANS = ("score", "return_mean", "late_score", "late_return")


def tasks_in(dataset: str) -> tuple[str, ...]:
    """Return the single tasks of an id of OGBench's that says none, and any other name alone."""
    recorded = find_recordings(dataset)
    if recorded is None or recorded.task is not None:
        return (dataset,)
    return tuple(task.dataset for task in recorded.tasks())


def without_task(dataset: str) -> str:
    """Return the id of the recordings of one of OGBench's tasks, and any other name as it is."""
    recorded = find_recordings(dataset)
    return dataset if recorded is None else recorded._replace(task=None).dataset


def over_tasks(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row of a table for every agent and environment whose five tasks are there: means over them.

    A deviation is over tasks, of each one's mean over its seeds; what is not a mean of tasks is nan.

    Args:
        rows: of the table, their label a data set's id with dashes.
    """
    groups: dict[tuple[str, str, Any, Any], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        task = _of_label(str(row["dataset"]))
        if task is not None and task.task:
            key = (
                task._replace(task=None).dataset.replace("/", "-"),
                row["agent"],
                row["preset"],
                row["data"],
            )
            groups.setdefault(key, {})[task.task] = row
    means = []
    for (label, *_), tasks in groups.items():
        if len(tasks) < TASKS:
            continue
        first = tasks[1]
        mean: dict[str, Any] = {
            key: value if isinstance(value, str) else math.nan for key, value in first.items()
        }
        mean |= {key: first[key] for key in ("updates", "seeds", "episodes")}
        mean |= {"dataset": f"{label}, {TASKS} tasks", "late_evaluations": first["late_evaluations"]}
        for name in MEANS:
            values = [row[name] for row in tasks.values()]
            std = f"{name.removesuffix('_mean')}_std"
            mean |= {name: statistics.fmean(values), std: statistics.stdev(values)}
        means.append(mean)
    return means


def _of_label(label: str) -> Name | None:
    """Return what a label in tables says, None where it is none of OGBench's."""
    family, _, rest = label.partition("-")
    try:
        return parse(rest) if family == FAMILY else None
    except ConfigError:
        return None
