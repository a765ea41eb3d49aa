"""Learning curves of several seeds, ours and published, as statistics and pictures.

Curves are means over blocks of 10,000 env steps, which is how the published file of the STAC paper (arXiv
2601.00737) holds them.
"""

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlsuite.errors import ConfigError
from rlsuite.report.statistics import bootstrap, interquartile_mean, probability_of_improvement
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.recorder import OWNER_KEY

BLOCK_STEPS = 10_000  # env steps averaged to one point of a curve
PUBLISHED_EPISODES = 10  # evaluation episodes of a published block
CURVE_COLUMNS = ("agent", "env", "seed", "env_step", "mean_return", "mean_value_error", "n_episodes")
SCORE_COLUMNS = ("seeds", "mean", "std", "iqm", "low", "high", "value_error", "value_error_seeds")
SUMMARY_COLUMNS = ("runs", "who", "env", "env_step", *SCORE_COLUMNS)
OURS_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
PUBLISHED_COLOR = "0.35"
BAND_RESAMPLES = 500  # of a curve's interval


class Point(NamedTuple):
    """Means over the evaluation episodes of one block.

    The value error is that of the STAC paper's code (`rlsuite.training.value_error`), for ours and published
    runs alike; nan where it was not measured, or one of the published evaluations of the block was nan.
    """

    mean_return: float
    value_error: float
    episodes: int


Curve = dict[int, Point]
"""Env step at the end of a block -> its point."""


@dataclass(frozen=True)
class Curves:
    """Curves of one algorithm, by seed.

    Attributes:
        name: ours or the paper's.
        by_seed: one curve per seed.
    """

    name: str
    by_seed: Mapping[int, Curve]

    def steps(self) -> list[int]:
        """Return the env steps that every seed has reached."""
        return sorted(set.intersection(*(set(curve) for curve in self.by_seed.values())))

    def returns(self, steps: Sequence[int]) -> np.ndarray:
        """Return the mean returns, `[seeds, len(steps)]`."""
        return np.array([[curve[step].mean_return for step in steps] for curve in self.by_seed.values()])

    def value_errors(self, step: int) -> list[float]:
        """Return the value errors at `step` of the seeds that have one."""
        errors = (curve[step].value_error for curve in self.by_seed.values())
        return [error for error in errors if not math.isnan(error)]


def blocks(records: Iterable[Mapping[str, Any]], episodes: int = 1) -> dict[int | None, Curve]:
    """Average the evaluations in the records of one run to whole blocks, by the seed they belong to.

    A run of a single seed does not name it: its key is None. The last block counts when it is complete.

    Args:
        records: lines of `metrics.jsonl`.
        episodes: of each evaluation.
    """
    sums: dict[int | None, dict[int, list[tuple[float, float]]]] = {}
    last = 0
    for record in records:
        last = max(last, record["step"])
        if record.get("eval/return_mean") is None:
            continue
        block = math.ceil(record["step"] / BLOCK_STEPS) * BLOCK_STEPS
        error = record.get("eval/stac_value_error")
        pair = (record["eval/return_mean"], math.nan if error is None else error)
        sums.setdefault(record.get(OWNER_KEY), {}).setdefault(block, []).append(pair)
    return {
        seed: {block: _point(pairs, episodes) for block, pairs in sorted(curve.items()) if block <= last}
        for seed, curve in sums.items()
    }


def _point(pairs: Sequence[tuple[float, float]], episodes: int) -> Point:
    """Average one block's evaluations."""
    returns, errors = zip(*pairs, strict=True)
    return Point(statistics.fmean(returns), statistics.fmean(errors), len(pairs) * episodes)


def our_curves(name: str, runs: Iterable[Path], env: str) -> Curves:
    """Read the runs of one contender.

    Raises:
        ConfigError: a run is of another environment, has no whole block yet, or a seed comes twice.
    """
    by_seed: dict[int, Curve] = {}
    for path in runs:
        folder = RunFolder.open(path)
        train = folder.config()["train"]
        if bare_id(train["env"]) != bare_id(env):
            raise ConfigError(f"{path} is a run on {train['env']}, and {env} is compared")
        for seed, curve in blocks(read_metrics(folder.metrics), train["eval_episodes"]).items():
            owner = train["seed"] if seed is None else seed
            if owner in by_seed:
                raise ConfigError(f"{name} has seed {owner} twice, once in {path}: leave one of the runs out")
            by_seed[owner] = curve
    if not all(by_seed.values()) or not by_seed:
        raise ConfigError(
            f"{name} on {env} has not yet made {BLOCK_STEPS:,} env steps with evaluations: train on"
        )
    return Curves(name, dict(sorted(by_seed.items())))


def read_published(path: Path, env: str, algorithm: str) -> dict[int, dict[int, tuple[float, float]]]:
    """Read return and value error by seed and env step from a CSV of published curves.

    Args:
        path: CSV with the columns env, algorithm, seed, env_step, mean_return, mean_value_error.
        env: as the file names it, or with `gym:` before.
        algorithm: as the file names it.

    Returns:
        seed -> env step -> (mean return, mean value error); empty when the file has no such rows.
    """
    curves: dict[int, dict[int, tuple[float, float]]] = defaultdict(dict)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if bare_id(row["env"]) == bare_id(env) and row["algorithm"] == algorithm:
                means = (float(row["mean_return"]), float(row["mean_value_error"]))
                curves[int(row["seed"])][int(row["env_step"])] = means
    return dict(curves)


def bare_id(env: str) -> str:
    """Return an environment's id as the published file writes it, without `gym:`."""
    return env.removeprefix("gym:")


def published_curves(path: Path, env: str, algorithm: str) -> Curves:
    """Read one algorithm's curves from the published file.

    Raises:
        ConfigError: the file has no such rows.
    """
    published = read_published(path, env, algorithm)
    if not published:
        raise ConfigError(f"{path} has no rows of {algorithm} on {env}: check --task, or plot ours alone")
    points = {
        seed: {step: Point(*means, PUBLISHED_EPISODES) for step, means in curve.items()}
        for seed, curve in published.items()
    }
    return Curves(algorithm, points)


def summarize(curves: Curves, runs: str, env: str, step: int) -> dict[str, Any]:
    """Return one row of `summary.csv`: the block that ends at `step`, over seeds."""
    scores = curves.returns([step])[:, 0]
    iqm = bootstrap(interquartile_mean, [scores])
    std = float(scores.std(ddof=1)) if len(scores) > 1 else math.nan
    errors = curves.value_errors(step)
    error = statistics.fmean(errors) if errors else math.nan
    row = (runs, curves.name, env, step, len(scores), float(scores.mean()), std, *map(float, iqm), error)
    return dict(zip(SUMMARY_COLUMNS, (*row, len(errors)), strict=True))


def improvement(first: Curves, second: Curves, step: int) -> str:
    """Say how likely a run of `one` is above a run of `other` at `step`."""
    scores = [[curves.returns([step])[:, 0]] for curves in (first, second)]
    chance = bootstrap(probability_of_improvement, *scores)
    return f"P({first.name} > {second.name}) = {chance.value:.2f} [{chance.low:.2f}, {chance.high:.2f}]"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows with numbers rounded to what can be told apart."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})


def plot(pairs: Sequence[tuple[Curves, Curves | None]], env: str, picture: Path) -> None:
    """Draw one panel each: published seeds in grey, ours in colour, over both the IQM with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(pairs), figsize=(5.2 * len(pairs), 4.0), dpi=150, sharey=True, squeeze=False
    )
    for axes, (ours, theirs), color in zip(panels[0], pairs, OURS_COLORS * len(pairs), strict=False):
        last = ours.steps()[-1]
        for curves, tint, label in ((theirs, PUBLISHED_COLOR, "published"), (ours, color, "ours")):
            if curves is None:
                continue
            steps = [step for step in curves.steps() if step <= last]
            returns = curves.returns(steps)
            iqm = bootstrap(interquartile_mean, [returns], resamples=BAND_RESAMPLES)
            for curve in returns:
                axes.plot(steps, curve, color=tint, alpha=0.35, linewidth=0.7)
            seeds = "1 seed" if len(returns) == 1 else f"{len(returns)} seeds"
            line = "-" if label == "ours" else "--"
            axes.plot(steps, iqm.value, line, color=tint, label=f"{label}, {seeds}: IQM, 95 %")
            axes.fill_between(steps, iqm.low, iqm.high, color=tint, alpha=0.15, linewidth=0)
        axes.set(xlabel="env steps", title=f"{ours.name} on {env}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    panels[0][0].set_ylabel("evaluation return, mean of 10 episodes")
    figure.tight_layout()
    figure.savefig(picture, metadata={"Software": None})
    pyplot.close(figure)


def report(pairs: Sequence[tuple[Curves, Curves | None]], env: str, out: Path) -> list[str]:
    """Write `curves.csv`, `summary.csv` and `curves.png` into `out`; return the findings, one a line.

    Args:
        pairs: our curves and the published ones, or None; of those only statistics and the picture are kept.
        env: the task.
        out: an existing folder.
    """
    ours = [curves for curves, _ in pairs]
    step = min(curves.steps()[-1] for curves in ours)
    peers = [theirs for _, theirs in pairs if theirs is not None and step in theirs.steps()]
    rows = [summarize(curves, "ours", env, step) for curves in ours]
    rows += [summarize(theirs, "published", env, step) for theirs in peers]
    write_csv(out / "summary.csv", SUMMARY_COLUMNS, rows)
    points = (
        (curves.name, env, seed, at, *point)
        for curves in ours
        for seed, curve in curves.by_seed.items()
        for at, point in curve.items()
    )
    write_csv(
        out / "curves.csv", CURVE_COLUMNS, (dict(zip(CURVE_COLUMNS, row, strict=True)) for row in points)
    )
    plot(pairs, env, out / "curves.png")
    lines = [sentence(row) for row in rows]
    for group, label in ((ours, "ours"), (peers, "published")):
        lines += [f"{label:<9} {improvement(group[0], other, step)}" for other in group[1:]]
    return lines


def sentence(row: Mapping[str, Any]) -> str:
    """Return one row of the summary as a line to read."""
    scores = f"{row['mean']:,.1f} +- {row['std']:,.1f}, IQM {row['iqm']:,.1f}"
    measured = row["value_error_seeds"]
    error = f"value error {row['value_error']:+.2f}" if measured else "value error not measured"
    if 0 < measured < row["seeds"]:
        error += f" (of {measured} seeds)"
    rest = f"[{row['low']:,.1f}, {row['high']:,.1f}], {error}"
    return f"{row['runs']:<9} {row['who']:<6} at {row['env_step']:,}: {scores} {rest} ({row['seeds']} seeds)"
