"""Any number of runs as one picture: curves over seeds, statistics with intervals, and where they come from.

Runs with equal settings but for the seed form a group. Scores are means of evaluation episodes; statistics
are those of Agarwal et al. 2021 (arXiv 2108.13264), intervals stratified bootstraps over whole runs at 95 %.

Legend: R seeds of a group, K points of a curve.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.errors import ConfigError
from rlsuite.report.statistics import (
    Estimate,
    bootstrap,
    interquartile_mean,
)
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import CONFIG_FILE, META_FILE, RunFolder
from rlsuite.training.recorder import OWNER_KEY

AXES = {"env_steps": "env steps", "updates": "updates", "seconds": "seconds of training"}
FREE_FIELDS = (
    "seed",
    "seeds",
    "steps",
    "threads",
    "device",
    "loggers",
    "logger_options",
    "callbacks",
    "checkpoint_every",
    "log_every",
    "eval_every",
    "guard",
)
NO_EVALUATION = "no evaluation yet"
MAX_DEPTH = 3  # of run folders below a folder of runs
CURVE_RESAMPLES = 300  # of a curve's interval, whose points share the draws


@dataclass(frozen=True)
class SeedCurve:
    """The evaluations of one agent, in order.

    Attributes:
        run: its folder.
        seed: root of its random streams.
        points: `[K, 3]`, env steps, updates, seconds.
        returns: means over episodes, `[K]`.
        std: standard deviations over episodes, `[K]`.
        regret: of all training episodes, as last logged; nan where it was not.
    """

    run: Path
    seed: int
    points: np.ndarray
    returns: np.ndarray
    std: np.ndarray
    regret: float = math.nan

    def along(self, axis: str) -> np.ndarray:
        """Return the points on one of `AXES`, `[K]`."""
        return self.points[:, list(AXES).index(axis)]


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone.

    Attributes:
        env: the environment.
        label: the agent, with what tells it from other groups of that agent.
        curves: one per seed.
        runs: their folders.
    """

    env: str
    label: str
    curves: tuple[SeedCurve, ...]
    runs: tuple[Path, ...]

    @cached_property
    def final(self) -> np.ndarray:
        """The last evaluation that all seeds have reached, `[R]`."""
        return self.on_grid("env_steps")[1][:, -1]

    @property
    def regrets(self) -> np.ndarray:
        """The regrets of the seeds that have one, `[R]` or less."""
        each = np.array([curve.regret for curve in self.curves])
        return each[~np.isnan(each)]

    def on_grid(self, axis: str) -> tuple[np.ndarray, np.ndarray]:
        """Return points that all seeds have reached, `[K]`, and their returns there, `[R, K]`.

        Between evaluations returns are interpolated: only on the clock do seeds not share their points.
        """
        along = [curve.along(axis) for curve in self.curves]
        first, last = max(points[0] for points in along), min(points[-1] for points in along)
        grid = np.unique(np.concatenate(along))
        if axis == "seconds":  # every seed has times of its own: as many points as one seed has
            grid = np.linspace(first, last, len(along[0]))
        grid = grid[(grid >= first) & (grid <= last)]
        if not len(grid):  # on the clock alone: others share a point, see `together`
            grid = np.array([last])
        pairs = zip(along, self.curves, strict=True)
        return grid, np.array([np.interp(grid, points, curve.returns) for points, curve in pairs])

    def band(self, axis: str) -> tuple[np.ndarray, Estimate]:
        """Return the grid and the interquartile mean over seeds with its interval, `[K]` each."""
        grid, returns = self.on_grid(axis)
        return grid, bootstrap(interquartile_mean, [returns], resamples=CURVE_RESAMPLES)

    def reached(self, axis: str, score: float) -> float:
        """Return where the interquartile mean first is at least `score`; nan where it never is."""
        grid, returns = self.on_grid(axis)
        above = np.flatnonzero(interquartile_mean([returns]) >= score)
        return float(grid[above[0]]) if len(above) else math.nan


@dataclass(frozen=True)
class Study:
    """Data of a report.

    Attributes:
        groups: by environment, then in the order of the command line.
        settings: what each run was made with: configuration and origin, by folder.
    """

    groups: tuple[Group, ...]
    settings: Mapping[Path, Mapping[str, Any]]

    @property
    def envs(self) -> list[str]:
        """The environments."""
        return list(dict.fromkeys(group.env for group in self.groups))

    @property
    def labels(self) -> list[str]:
        """The groups' labels, each once."""
        return list(dict.fromkeys(group.label for group in self.groups))

    def on(self, env: str) -> list[Group]:
        """Return the groups of one environment."""
        return [group for group in self.groups if group.env == env]

    def online_from(self, group: Group) -> int | None:
        """Return the update after which a group's offline runs go on online; None where they do not."""
        train = self.settings[group.runs[0]]["config"]["train"]
        return int(train["steps"]) if train.get("then_online") else None

    def scores(self, label: str) -> dict[str, np.ndarray]:
        """Return the final scores of a label by environment, `[R]` each."""
        return {group.env: group.final for group in self.groups if group.label == label}


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the run folders among `paths` and, where a path is none itself, below it.

    Raises:
        ConfigError: a path leads to no run.
    """
    runs: list[Path] = []
    for path in paths:
        below = [path] if (path / CONFIG_FILE).is_file() else []
        for depth in range(1, MAX_DEPTH + 1):
            below += sorted(run.parent for run in path.glob("/".join(["*"] * depth) + f"/{CONFIG_FILE}"))
            if below:
                break
        if not below:
            raise ConfigError(f"{path} is no run folder and has none below it: name runs, or folders of them")
        runs += [run for run in below if run not in runs]
    return runs


READ_FIELDS = (("", "agent_name", str), ("", "agent", dict), ("train", "env", str), ("train", "seed", int))
"""What a report reads of a configuration: table, field and type."""


def checked(config: dict[str, Any], run: Path) -> dict[str, Any]:
    """Return the configuration of a run; ConfigError where it lacks what a report reads of it."""
    for table, key, wanted in READ_FIELDS:
        values = config.get(table, {}) if table else config
        if not isinstance(values, dict) or not isinstance(values.get(key), wanted):
            name = f"{table}.{key}" if table else key
            raise ConfigError(f"{run / CONFIG_FILE}: {name} is missing or wrong: leave this run out")
    return config


def seed_curves(run: Path) -> list[SeedCurve]:
    """Return the curves of all seeds of a run; none where nothing was evaluated yet."""
    folder = RunFolder.open(run)
    only = checked(folder.config(), run)["train"]["seed"]
    rows: dict[int, list[tuple[float, ...]]] = {}
    regrets: dict[int, float] = {}
    for record in read_metrics(folder.metrics) if folder.metrics.exists() else ():
        if record.get("train/regret") is not None:
            regrets[record.get(OWNER_KEY, only)] = record["train/regret"]
        if record.get("eval/return_mean") is None:
            continue
        point = (record["step"], record["updates"], record["seconds"], record["eval/return_mean"])
        rows.setdefault(record.get(OWNER_KEY, only), []).append((*point, record["eval/return_std"] or 0.0))
    tables = {seed: np.array(points, np.float64) for seed, points in sorted(rows.items())}
    return [
        SeedCurve(run, seed, table[:, :3], table[:, 3], table[:, 4], regrets.get(seed, math.nan))
        for seed, table in tables.items()
    ]


def read_study(paths: Iterable[Path]) -> Study:
    """Read runs and group them by their settings.

    Raises:
        ConfigError: a path leads to no run, none has an evaluation yet, or a group has a seed twice.
    """
    alike: dict[str, list[tuple[Path, dict[str, Any], list[SeedCurve]]]] = {}
    settings, empty = {}, []
    for run in find_runs(paths):
        config = checked(RunFolder.open(run).config(), run)
        curves = seed_curves(run)
        if not curves:
            empty.append(str(run))
            continue
        meta = RunFolder.open(run).meta() if (run / META_FILE).is_file() else {}
        settings[run] = {"config": config, "meta": meta}
        key = json.dumps(comparable(config), sort_keys=True, default=str)
        alike.setdefault(key, []).append((run, config, curves))
    if not alike:
        raise ConfigError(f"{NO_EVALUATION} in {', '.join(empty)}: train on, with --eval-every above 0")
    groups = []
    labels = label_groups([comparable(entries[0][1]) for entries in alike.values()])
    for label, entries in zip(labels, alike.values(), strict=True):
        curves = [curve for _, _, of_run in entries for curve in of_run]
        seeds = [curve.seed for curve in curves]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            runs = ", ".join(str(run) for run, *_ in entries)
            raise ConfigError(f"seed {twice[0]} of {label} comes twice in {runs}: leave one of them out")
        env = entries[0][1]["train"]["env"] or entries[0][1]["train"].get("dataset", "")
        for number, shared in enumerate(together(curves)):
            runs_of = tuple(dict.fromkeys(curve.run for curve in shared))
            name = label
            if number:
                each = ", ".join(str(curve.seed) for curve in shared)
                name = f"{label}, seed {each} apart"
                print(f"{name}: it shares no evaluation with the other seeds", flush=True)
            groups.append(Group(env, name, tuple(shared), runs_of))
    order = {env: at for at, env in enumerate(dict.fromkeys(group.env for group in groups))}
    return Study(tuple(sorted(groups, key=lambda group: order[group.env])), settings)


def together(curves: Sequence[SeedCurve]) -> list[list[SeedCurve]]:
    """Split the seeds of a group so that those of each part have all passed some env step; the largest first.

    A seed that was stopped before the first evaluation of the others cannot be averaged with them.
    """
    left, parts = list(curves), []
    while left:
        ends = [(curve.along("env_steps")[0], curve.along("env_steps")[-1]) for curve in left]
        covered = {at: [low <= at <= high for low, high in ends] for _, at in ends}
        at = max(covered, key=lambda at: (sum(covered[at]), at))
        parts.append([curve for curve, inside in zip(left, covered[at], strict=True) if inside])
        left = [curve for curve, inside in zip(left, covered[at], strict=True) if not inside]
    return parts


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings, flat, without what does not make it another experiment."""
    flat = {"agent": config["agent_name"], "preset": config.get("preset", "default")}
    flat |= {key: value for key, value in config["train"].items() if key not in FREE_FIELDS}
    return flat | {f"agent.{key}": value for key, value in config["agent"].items()}


def label_groups(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name groups by their agents, with as many fields as tell groups of one agent and environment apart.

    The preset comes first: what differs with it need not be named, too.
    """
    labels = []
    for mine in settings:
        rivals = [
            other
            for other in settings
            if other is not mine and (other["agent"], other["env"]) == (mine["agent"], mine["env"])
        ]
        named = {}
        for key in dict.fromkeys(key for each in (mine, *rivals) for key in each):
            if len(others := [each for each in rivals if each.get(key) == mine.get(key)]) < len(rivals):
                named[key.removeprefix("agent.")] = mine.get(key, "unset")
                rivals = others
        differing = ", ".join(f"{key} {value}" for key, value in named.items())
        labels.append(f"{mine['agent']} ({differing})" if differing else str(mine["agent"]))
    return labels
