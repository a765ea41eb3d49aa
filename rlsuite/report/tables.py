"""Results of a study: final scores, improvements, profiles, differences; as rows, CSV files and a picture."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.report.comparison import write_csv
from rlsuite.report.statistics import (
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

LEAST_SEEDS = 3  # of an interval: of fewer it would claim a certainty that nobody has
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
REACH = 0.9  # share of the best final score that a run is timed to
PROFILE_POINTS = 101
CURVE_COLUMNS = ("env", "group", "run", "seed", *AXES, "return_mean", "return_std")
SUMMARY_COLUMNS = (
    *("env", "group", "seeds", "env_steps", "mean", "std", "iqm", "low", "high", "best_iqm"),
    *("area", "steps_to_reach", "seconds_to_reach", "seconds"),
)


def summaries(study: Study) -> list[dict[str, Any]]:
    """Return one row per group: final scores, their interval, and how fast they came."""
    rows = []
    for env in study.envs:
        groups = study.on(env)
        goal = reach_score(
            [group.final for group in groups], [group.on_grid("env_steps")[1] for group in groups]
        )
        for group in groups:
            grid, returns = group.on_grid("env_steps")
            iqm = bootstrap(interquartile_mean, [group.final])
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
            )
            rows.append(dict(zip(SUMMARY_COLUMNS, cells, strict=True)))
    return rows


def reach_score(finals: Sequence[np.ndarray], curves: Sequence[np.ndarray]) -> float:
    """Return the score that groups are timed to: 90 % of the way from the lowest return to the best final."""
    best = max(float(interquartile_mean([final])) for final in finals)
    lowest = min(float(returns.min()) for returns in curves)
    return lowest + REACH * (best - lowest)


def improvements(study: Study) -> list[dict[str, Any]]:
    """Return the chance that a run of one label beats one of another, over the environments both have."""
    rows = []
    for label, rival in itertools.permutations(study.labels, 2):
        mine, theirs = study.scores(label), study.scores(rival)
        shared = [env for env in study.envs if env in mine and env in theirs]
        if shared:
            groups = [mine[env] for env in shared], [theirs[env] for env in shared]
            chance = bootstrap(probability_of_improvement, *groups)
            rows.append(
                {"x": label, "y": rival, "envs": len(shared)}
                | dict(zip(("p", "low", "high"), map(float, chance), strict=True))
            )
    return rows


def profiles(study: Study) -> tuple[np.ndarray, dict[str, Estimate]]:
    """Return scores `[T]` and, by label, the share of runs above each, with its interval.

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
    }
    return taus, shares


def differences(study: Study) -> tuple[list[str], list[list[str]]]:
    """Return the fields in which runs differ, and one row of their values per run, its folder first."""
    flat = {
        run: comparable(setting["config"]) | seeds_of(setting["config"])
        for run, setting in study.settings.items()
    }
    fields = dict.fromkeys(key for values in flat.values() for key in values)
    apart = [key for key in fields if len({str(values.get(key)) for values in flat.values()}) > 1]
    return apart, [[str(run), *(str(values.get(key, "")) for key in apart)] for run, values in flat.items()]


def seeds_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a run that group its seeds."""
    return {key: config["train"][key] for key in ("seed", "seeds", "steps") if key in config["train"]}


def write_tables(study: Study, out: Path) -> None:
    """Write every evaluation, the summary and the chances of improvement as CSV."""
    points = [
        (group.env, group.label, curve.run.name, curve.seed, *map(float, at), float(mean), float(std))
        for group in study.groups
        for curve in group.curves
        for at, mean, std in zip(curve.points, curve.returns, curve.std, strict=True)
    ]
    write_csv(
        out / "curves.csv", CURVE_COLUMNS, (dict(zip(CURVE_COLUMNS, row, strict=True)) for row in points)
    )
    write_csv(out / "summary.csv", SUMMARY_COLUMNS, summaries(study))
    write_csv(out / "improvement.csv", ("x", "y", "envs", "p", "low", "high"), improvements(study))


def draw(study: Study, out: Path) -> None:
    """Draw the curves of every environment over env steps as `curves.png` and `curves.svg`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    envs = study.envs
    figure, panels = pyplot.subplots(1, len(envs), figsize=(5.2 * len(envs), 4.0), dpi=150, squeeze=False)
    colors = dict(zip(study.labels, itertools.cycle(PALETTE), strict=False))
    for axes, env in zip(panels[0], envs, strict=True):
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
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    panels[0][0].set_ylabel("evaluation return: IQM over seeds, 95 %")
    figure.tight_layout()
    for suffix in ("png", "svg"):
        figure.savefig(
            out / f"curves.{suffix}", metadata={"Software": None} if suffix == "png" else {"Date": None}
        )
    pyplot.close(figure)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 run, 2 runs."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
