"""Learning curves of finished runs as raw CSV and as one picture, beside published curves where given.

The CSV holds every evaluation of every run; next to it lie each run's `config.toml` and `meta.json`, so
that a number leads back to its command, versions, seed and machine.
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlsuite.report.comparison import read_published
from rlsuite.runs.metrics import DISCARDED_FILE, read_metrics
from rlsuite.runs.runfolder import CONFIG_FILE, META_FILE, METRICS_FILE, RunFolder

COLUMNS = (
    "agent",
    "env",
    "seed",
    "env_step",
    "updates",
    "return_mean",
    "return_std",
    "length_mean",
    "seconds",
)
COLORS = {"dsac_t": "#0072b2", "sac": "#d55e00", "td3": "#009e73"}
PUBLISHED_COLOR = "0.45"


def collect(runs: Iterable[Path]) -> list[dict[str, Any]]:
    """Return one row per evaluation of each run folder, in the order of the runs."""
    rows = []
    for path in runs:
        config = RunFolder.open(path).config()
        for record in read_metrics(path / METRICS_FILE):
            if "eval/return_mean" not in record:
                continue
            rows.append(
                {
                    "agent": config["agent_name"],
                    "env": config["train"]["env"],
                    "seed": record.get("seed", config["train"]["seed"]),  # one run may hold several
                    "env_step": record["step"],
                    "updates": record["updates"],
                    "return_mean": round(record["eval/return_mean"], 3),
                    "return_std": round(record["eval/return_std"], 3),
                    "length_mean": record["eval/length_mean"],
                    "seconds": record["seconds"],
                }
            )
    return rows


def write(rows: list[dict[str, Any]], runs: Iterable[Path], folder: Path) -> Path:
    """Write `curves.csv` and every run's configuration and machine into `folder`; return the CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in runs:
        copy_origin(path, folder, f"{path.name}.")
    table = folder / "curves.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return table


def copy_origin(run: Path, folder: Path, prefix: str = "") -> None:
    """Copy what a number leads back to: configuration, machine and metrics; absolute paths become `runs/`."""
    for name in (CONFIG_FILE, META_FILE, METRICS_FILE, DISCARDED_FILE):
        if (run / name).exists():
            text = (run / name).read_text("utf-8").replace(f"{run.resolve().parent}/", "runs/")
            (folder / f"{prefix}{name}").write_text(text, "utf-8")


def published(path: Path, env: str, algorithm: str) -> dict[int, list[float]]:
    """Return the published returns by env step, one per seed."""
    by_step: dict[int, list[float]] = defaultdict(list)
    for curve in read_published(path, env, algorithm).values():
        for step, (mean_return, _) in curve.items():
            by_step[step].append(mean_return)
    if not by_step:
        raise SystemExit(f"{path} has no rows of {algorithm} on {env}")
    return dict(by_step)


def plot(rows: list[dict[str, Any]], picture: Path, peer: tuple[str, dict[int, list[float]]] | None) -> None:
    """Draw mean over seeds, every seed as a thin line; the peer's mean and range in grey."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=150)
    last = max(row["env_step"] for row in rows)
    if peer is not None:
        label, points = peer
        steps = [step for step in sorted(points) if step <= last]
        means = [sum(points[step]) / len(points[step]) for step in steps]
        axes.plot(steps, means, color=PUBLISHED_COLOR, linestyle="--", label=label)
        low, high = ([pick(points[step]) for step in steps] for pick in (min, max))
        axes.fill_between(steps, low, high, color=PUBLISHED_COLOR, alpha=0.15, linewidth=0)
    for agent in dict.fromkeys(row["agent"] for row in rows):
        by_seed: dict[int, dict[int, float]] = defaultdict(dict)
        for row in rows:
            if row["agent"] == agent:
                by_seed[row["seed"]][row["env_step"]] = row["return_mean"]
        shared = sorted(set.intersection(*(set(curve) for curve in by_seed.values())))
        means = [sum(curve[step] for curve in by_seed.values()) / len(by_seed) for step in shared]
        color = COLORS.get(agent)
        seeds = "1 seed" if len(by_seed) == 1 else f"{len(by_seed)} seeds"
        axes.plot(shared, means, color=color, label=f"{agent}, {seeds}")
        if len(by_seed) > 1:
            for curve in by_seed.values():
                axes.plot(list(curve), list(curve.values()), color=color, alpha=0.3, linewidth=0.8)
    axes.set(xlabel="env steps", ylabel="evaluation return", title=rows[0]["env"])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(picture, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Collect runs, write the CSV and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders; none: draw the CSV again")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of curves.csv, configs and curves.png"
    )
    parser.add_argument("--published", type=Path, help="CSV of published curves")
    parser.add_argument("--published-env", default="HalfCheetah-v4")
    parser.add_argument("--published-algorithm", default="SAC")
    parser.add_argument("--published-label", default="published SAC with LayerNorm (v4), 5 seeds, range")
    arguments = parser.parse_args()
    if arguments.runs:
        rows = collect(arguments.runs)
        write(rows, arguments.runs, arguments.out)
    else:
        with (arguments.out / "curves.csv").open(newline="") as file:
            rows = [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
    if not rows:
        raise SystemExit("the runs have no evaluation yet")
    peer = None
    if arguments.published:
        points = published(arguments.published, arguments.published_env, arguments.published_algorithm)
        peer = (arguments.published_label, points)
    plot(rows, arguments.out / "curves.png", peer)
    final = {(row["agent"], row["seed"]): row for row in rows}
    for (agent, seed), row in final.items():
        print(f"{agent} seed {seed}: {row['return_mean']:,.1f} at {row['env_step']:,} env steps")


def _number(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    main()
