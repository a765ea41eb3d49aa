"""Results of a study: final scores, improvements, profiles, differences; as rows, tables and pictures."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.report import STYLE
from rlsuite.report.comparison import write_csv
from rlsuite.report.formats import NONE, Cell, Table, csv_text, shown
from rlsuite.report.statistics import (
    LEVEL,
    Estimate,
    bootstrap,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)
from rlsuite.report.study import (
    AXES,
    CURVE_RESAMPLES,
    Study,
    comparable,
)

MOST_ACROSS = 4  # panels side by side
LEAST_SEEDS = 3  # of an interval: of fewer it would claim a certainty that nobody has
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
REACH = 0.9  # share of the best final score that a run is timed to
PROFILE_POINTS = 101
INTERVAL = f"{LEVEL * 100:.0f} % interval"
CURVE_COLUMNS = ("env", "group", "run", "seed", *AXES, "return_mean", "return_std")
IMPROVEMENT_COLUMNS = ("x", "y", "envs", "p", "low", "high")
SUMMARY_COLUMNS = (
    *("env", "group", "seeds", "env_steps", "mean", "std", "iqm", "low", "high", "best_iqm"),
    *("area", "steps_to_reach", "seconds_to_reach", "seconds", "regret"),
)


def summaries(study: Study) -> list[dict[str, Any]]:
    """Return one row per group: final scores, intervals (nan below `LEAST_SEEDS`), and how fast they came."""
    rows = []
    for env in study.envs:
        groups = study.on(env)
        goal = reach_score(
            [group.final for group in groups], [group.on_grid("env_steps")[1] for group in groups]
        )
        for group in groups:
            grid, returns = group.on_grid("env_steps")
            iqm = bootstrap(interquartile_mean, [group.final])
            if len(group.final) < LEAST_SEEDS:
                iqm = iqm._replace(low=np.array(math.nan), high=np.array(math.nan))
            std = float(group.final.std(ddof=1)) if len(group.final) > 1 else math.nan
            cells = (
                *(env, group.label, len(group.curves), int(grid[-1]), float(group.final.mean()), std),
                *map(float, iqm),
                float(interquartile_mean([returns]).max()),
                float(np.trapezoid(returns.mean(0), grid) / (grid[-1] - grid[0]))
                if len(grid) > 1
                else math.nan,
                group.reached("env_steps", goal),
                group.reached("seconds", goal),
                float(np.mean([curve.along("seconds")[-1] for curve in group.curves])),
                float(group.regrets.mean()) if len(group.regrets) else math.nan,
            )
            rows.append(dict(zip(SUMMARY_COLUMNS, cells, strict=True)))
    return rows


def reach_score(finals: Sequence[np.ndarray], curves: Sequence[np.ndarray]) -> float:
    """Return the score that groups are timed to: 90 % of the way from the lowest return to the best final."""
    best = max(float(interquartile_mean([final])) for final in finals)
    lowest = min(float(returns.min()) for returns in curves)
    return lowest + REACH * (best - lowest)


def improvements(study: Study) -> list[dict[str, Any]]:
    """Return the chance that a run of one label beats one of another, over the environments both have.

    Environments on which either has fewer than `LEAST_SEEDS` seeds do not count.
    """
    rows = []
    for label, rival in itertools.permutations(study.labels, 2):
        mine, theirs = _enough(study.scores(label)), _enough(study.scores(rival))
        shared = [env for env in study.envs if env in mine and env in theirs]
        if shared:
            groups = [mine[env] for env in shared], [theirs[env] for env in shared]
            chance = bootstrap(probability_of_improvement, *groups)
            rows.append(
                {"x": label, "y": rival, "envs": len(shared)}
                | dict(zip(("p", "low", "high"), map(float, chance), strict=True))
            )
    return rows


def _enough(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {env: runs for env, runs in scores.items() if len(runs) >= LEAST_SEEDS}


def profiles(study: Study) -> tuple[np.ndarray, dict[str, Estimate]]:
    """Return scores `[T]` and, by label, the share of runs above each, with its interval.

    Labels with fewer than `LEAST_SEEDS` seeds on an environment of theirs are left out.
    With one environment scores are returns; with several, each environment's returns are scaled so that its
    lowest final score is 0 and its highest 1 (our choice: no outside reference is needed, and none implied).
    """
    several = len(study.envs) > 1
    scaled: dict[str, list[np.ndarray]] = {label: [] for label in study.labels}
    for env in study.envs:
        every = np.concatenate([group.final for group in study.on(env)])
        low, width = (every.min(), np.ptp(every) or 1.0) if several else (0.0, 1.0)
        for group in study.on(env):
            scaled[group.label].append((group.final - low) / width)
    pooled = np.concatenate([scores for by_env in scaled.values() for scores in by_env])
    taus = np.linspace(pooled.min(), pooled.max(), PROFILE_POINTS)
    shares = {
        label: bootstrap(lambda scores: performance_profile(scores, taus), by_env, resamples=CURVE_RESAMPLES)
        for label, by_env in scaled.items()
        if min(map(len, by_env)) >= LEAST_SEEDS
    }
    return taus, shares


def summary_table(study: Study) -> Table:
    """Return the final scores to read; on environments with several groups the best of a column is marked."""
    rows = summaries(study)
    heads = {
        "mean": ("Mean ± std", max),
        "iqm": ("IQM", max),
        "interval": (INTERVAL, None),
        "best_iqm": ("Best IQM", max),
        "area": ("Mean over curve", max),
        "steps_to_reach": (f"Env steps to {REACH * 100:.0f} %", min),
        "seconds_to_reach": (f"Seconds to {REACH * 100:.0f} %", min),
        "seconds": ("Seconds in all", None),
    }
    if any(math.isfinite(row["regret"]) for row in rows):
        heads["regret"] = ("Regret", min)
    lines = []
    for row in rows:
        rivals = [other for other in rows if other["env"] == row["env"]]
        low, high = row["low"], row["high"]
        texts = {key: shown(row[key]) for key in heads if key in row}
        texts["mean"] += f" ± {shown(row['std'])}" if math.isfinite(row["std"]) else ""
        texts["interval"] = f"{shown(low)} to {shown(high)}" if math.isfinite(low) else NONE
        cells = [Cell(row["env"]), Cell(row["group"])]
        cells += [Cell(f"{row[key]:,}", number=True) for key in ("seeds", "env_steps")]
        for key, (_, better) in heads.items():
            values = [other[key] for other in rivals if math.isfinite(other[key])] if better else []
            best = better is not None and len(rivals) > 1 and bool(values) and row[key] == better(values)
            cells.append(Cell(texts[key], number=True, best=best))
        lines.append(tuple(cells))
    titles = ("Environment", "Agent", "Seeds", "Env steps", *(head for head, _ in heads.values()))
    return Table("summary", titles, tuple(lines), csv_text(SUMMARY_COLUMNS, rows))


def improvement_table(study: Study) -> Table:
    """Return the chances of improvement to read; those whose interval lies above one half are marked."""
    rows = improvements(study)
    lines = tuple(
        (
            *(Cell(row["x"]), Cell(row["y"]), Cell(str(row["envs"]), number=True)),
            Cell(f"{row['p']:.2f}", number=True, best=row["low"] > 0.5),
            Cell(f"{row['low']:.2f} to {row['high']:.2f}", number=True),
        )
        for row in rows
    )
    heads = ("X", "Y", "Environments", "P(X > Y)", INTERVAL)
    return Table("improvement", heads, lines, csv_text(IMPROVEMENT_COLUMNS, rows))


def difference_tables(study: Study) -> list[Table]:
    """Return the settings in which agents differ, one a line: those that all have, and those of some."""
    by_label: dict[str, dict[str, dict[str, None]]] = {label: {} for label in study.labels}
    for group in study.groups:
        for run in group.runs:
            for key, value in comparable(study.settings[run]["config"]).items():
                by_label[group.label].setdefault(key, {})[str(value)] = None
    fields = dict.fromkeys(key for values in by_label.values() for key in values)
    texts = {
        key: [", ".join(values[key]) if key in values else NONE for values in by_label.values()]
        for key in fields
    }
    apart = {key: row for key, row in texts.items() if len(set(row)) > 1}
    heads = ("Setting", *study.labels)
    tables = []
    for name, some in (("settings", False), ("settings-of-some", True)):
        lines = [(key, *row) for key, row in apart.items() if (NONE in row) is some]
        raw = csv_text(heads, [dict(zip(heads, line, strict=True)) for line in lines])
        tables.append(Table(name, heads, tuple(tuple(map(Cell, line)) for line in lines), raw))
    return tables


def write_tables(study: Study, out: Path) -> None:
    """Write every evaluation as CSV; summary and chances of improvement as CSV, Markdown and LaTeX."""
    points = [
        (group.env, group.label, curve.run.name, curve.seed, *map(float, at), float(mean), float(std))
        for group in study.groups
        for curve in group.curves
        for at, mean, std in zip(curve.points, curve.returns, curve.std, strict=True)
    ]
    write_csv(
        out / "curves.csv", CURVE_COLUMNS, (dict(zip(CURVE_COLUMNS, row, strict=True)) for row in points)
    )
    for table in (summary_table(study), improvement_table(study)):
        texts = {"csv": table.raw, "md": table.markdown(), "tex": table.latex()}
        for suffix, text in texts.items():
            (out / f"{table.name}.{suffix}").write_text(text, encoding="utf-8")


def draw(study: Study, out: Path) -> None:
    """Draw the curves of every environment over env steps as `curves.png`, `.svg` and `.pdf`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import EngFormatter, MaxNLocator

    envs = study.envs
    with pyplot.style.context(STYLE):
        across = min(len(envs), MOST_ACROSS)
        down = -(-len(envs) // across)
        figure, panels = pyplot.subplots(down, across, figsize=(5.2 * across, 3.8 * down), squeeze=False)
        colors = dict(zip(study.labels, itertools.cycle(PALETTE), strict=False))
        for axes in panels.flat[len(envs) :]:
            axes.set_axis_off()
        for axes, env in zip(panels.flat, envs, strict=False):
            for group in study.on(env):
                grid, iqm = group.band("env_steps")
                color = colors[group.label]
                for curve in group.curves:
                    axes.plot(curve.along("env_steps"), curve.returns, color=color, alpha=0.3, linewidth=0.7)
                axes.plot(
                    grid, iqm.value, color=color, label=f"{group.label}, {counted(len(group.curves), 'seed')}"
                )
                if len(group.curves) >= LEAST_SEEDS:
                    axes.fill_between(grid, iqm.low, iqm.high, color=color, alpha=0.15, linewidth=0)
                if (begun := study.online_from(group)) is not None:
                    axes.axvline(begun, color=color, linestyle=":", linewidth=1, label="online from here")
            axes.set(title=env, xlabel=AXES["env_steps"])
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.legend()
        enough = any(len(group.curves) >= LEAST_SEEDS for group in study.groups)
        panels[0][0].set_ylabel("evaluation return" + (": IQM over seeds, 95 %" if enough else ""))
        undated: dict[str, Any] = {
            "png": {"Software": None},
            "svg": {"Date": None},
            "pdf": {"CreationDate": None},
        }
        for suffix, metadata in undated.items():
            figure.savefig(out / f"curves.{suffix}", metadata=metadata)
        pyplot.close(figure)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 run, 2 runs."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
