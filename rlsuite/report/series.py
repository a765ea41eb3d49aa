"""What the report draws: returns and the other numbers a run logs, by tab, as data for the page's script."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.report.statistics import interquartile_mean
from rlsuite.report.study import AXES, Group, SeedCurve, Study
from rlsuite.report.tables import LEAST_SEEDS, PALETTE, profiles
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.recorder import OWNER_KEY

MOST_POINTS = 200  # of a logged curve; every k-th line is drawn, and the last
DIGITS = 6  # of a number on the page
RETURN_TAB = "return"
TABS = {
    "losses": ("loss/",),
    "critic bias": ("eval/value_error",),
    "entropy": ("entropy", "alpha"),
    "speed": ("steps_per_second", "updates_per_second"),
}
"""Tab -> keys of metrics.jsonl, or what they begin with, where that ends in a slash."""
HEADS = {
    "eval/return_mean": "evaluation return",
    "eval/value_error": "critic bias: predicted less achieved discounted return",
    "alpha": "temperature alpha",
    "steps_per_second": "env steps per second",
    "updates_per_second": "updates per second",
}
SHORT = {
    "eval/return_mean": "return",
    "eval/value_error": "critic bias",
    "steps_per_second": "steps/s",
    "updates_per_second": "updates/s",
}
"""Words for the box that follows the pointer."""


def tab_of(key: str) -> str | None:
    """Return the tab that shows a key of metrics.jsonl."""
    for tab, wanted in TABS.items():
        if any(key.startswith(word) if word.endswith("/") else key == word for word in wanted):
            return tab
    return None


def logged(study: Study) -> dict[str, list[Group]]:
    """Return, by key, the study's groups with what their runs logged in place of the returns.

    Lines that name no seed, of a run with several, are one curve of its first seed.
    """
    rows: dict[Path, dict[str, dict[int, list[tuple[float, ...]]]]] = {}
    for run, setting in study.settings.items():
        only, by_key = setting["config"]["train"]["seed"], rows.setdefault(run, {})
        for record in read_metrics(RunFolder.open(run).metrics):
            at = tuple(record.get(key) or 0 for key in ("step", "updates", "seconds"))
            for key, value in record.items():
                if value is not None and tab_of(key):
                    seed = record.get(OWNER_KEY, only)
                    by_key.setdefault(key, {}).setdefault(seed, []).append((*at, value))
    keys = sorted({key for by_key in rows.values() for key in by_key})
    return {key: [group for group in _groups(study, rows, key) if group.curves] for key in keys}


def _groups(study: Study, rows: Mapping[Path, Mapping[str, Any]], key: str) -> Iterable[Group]:
    """Yield the study's groups with the values of one key."""
    for group in study.groups:
        curves = []
        for curve in group.curves:
            points = rows[curve.run].get(key, {}).get(curve.seed)
            if points:
                table = thinned(np.array(points, np.float64))
                curves.append(SeedCurve(curve.run, curve.seed, table[:, :3], table[:, 3], 0 * table[:, 3]))
        yield dataclasses.replace(group, curves=tuple(curves))


def thinned(table: np.ndarray) -> np.ndarray:
    """Return every k-th row and the last, at most about `MOST_POINTS`; steps of equal number once."""
    table = table[np.append(np.diff(table[:, 0]) > 0, True)]
    every = -(-len(table) // MOST_POINTS)
    return table[sorted({*range(0, len(table), every), len(table) - 1})]


def figures(study: Study) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of every tab that has something to show, in the order of `TABS`."""
    colors = colors_of(study)
    tabs = {RETURN_TAB: [_figure(study.on(env), env, "eval/return_mean", colors) for env in study.envs]}
    by_key = logged(study)
    for tab in TABS:
        drawn = [
            _figure([group for group in groups if group.env == env], env, key, colors)
            for env in study.envs
            for key, groups in by_key.items()
            if tab_of(key) == tab and any(group.env == env for group in groups)
        ]
        if drawn:
            tabs[tab] = drawn
    return tabs


def _figure(groups: Sequence[Group], env: str, key: str, colors: Mapping[str, str]) -> dict[str, Any]:
    """Return one figure: thin lines of seeds, and the mean over them on every axis."""
    head = HEADS.get(key, key)
    curves, means = [], []
    for group in groups:
        enough = len(group.curves) >= LEAST_SEEDS
        marks = {"label": group.label, "color": colors[group.label]}
        for curve in group.curves:
            along = {axis: plain(curve.along(axis)) for axis in AXES}
            curves.append(
                {**marks, "seed": curve.seed, "x": along, "y": plain(curve.returns), "hover": not enough}
            )
        if len(group.curves) > 1:
            means.append(
                {**marks, "seeds": len(group.curves), "on": {axis: _mean(group, axis) for axis in AXES}}
            )
    return {
        "env": env,
        "title": f"{env}: {head}",
        "short": SHORT.get(key, key),
        "curves": curves,
        "means": means,
    }


def _mean(group: Group, axis: str) -> dict[str, Any]:
    """Return the interquartile mean over seeds, with its interval where there are enough of them."""
    if len(group.curves) < LEAST_SEEDS:
        grid, values = group.on_grid(axis)
        return {"x": plain(grid), "y": plain(interquartile_mean([values]))}
    grid, iqm = group.band(axis)
    return {"x": plain(grid), "y": plain(iqm.value), "low": plain(iqm.low), "high": plain(iqm.high)}


def profile(study: Study) -> dict[str, Any] | None:
    """Return the performance profile of the labels that have enough seeds; None where none has."""
    taus, shares = profiles(study)
    if not shares:
        return None
    several = len(study.envs) > 1
    colors = colors_of(study)
    lines = [
        {"label": label, "color": colors[label], "y": plain(share.value)}
        | {"low": plain(share.low), "high": plain(share.high)}
        for label, share in shares.items()
    ]
    head = "final score, 0 the lowest and 1 the highest of each environment" if several else "final return"
    return {"x": plain(taus), "title": head, "lines": lines}


def colors_of(study: Study) -> dict[str, str]:
    """Return a colour for every label."""
    return dict(zip(study.labels, itertools.cycle(PALETTE), strict=False))


def plain(values: np.ndarray) -> list[float | None]:
    """Return numbers as JSON has them, of `DIGITS` digits; what is not finite is None."""
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]
