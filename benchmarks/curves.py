"""Draws learning curves of finished runs, with their CSV: python benchmarks/curves.py RUN ... --out FOLDER.

The CSV holds every evaluation of every run; next to it lie each run's `config.toml` and `meta.json`, so
that a number leads back to its command, versions, seed and machine.
"""

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pictures

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
    "success",
)


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
                    "success": record.get("eval/success", ""),  # where the environment says so
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


def main() -> None:
    """Collect runs, write the CSV and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of curves.csv, configs and curves.png"
    )
    args = parser.parse_args()
    rows = collect(args.runs)
    if not rows:
        raise SystemExit("the runs have no evaluation yet")
    write(rows, args.runs, args.out)
    pictures.learning_curves(args.out)
    final = {(row["agent"], row["seed"]): row for row in rows}
    for (agent, seed), row in final.items():
        print(f"{agent} seed {seed}: {row['return_mean']:,.1f} at {row['env_step']:,} env steps")


if __name__ == "__main__":
    main()
