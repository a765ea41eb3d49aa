"""Measures what it is worth to tell critics the factors of the physics that actors do not see.

Two runs of SAC on the same task, whose actuator's gain every episode draws anew: critics are told it, or
nobody is. Evaluations draw gains, too. Words after `--` go to both `rlsuite train`.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from curves import collect

COLUMNS = ("critics", "env", "seed", "env_step", "updates", "return_mean", "return_std")


def main() -> None:
    """Train both, write every evaluation as CSV, print the mean of each over evaluations and seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="InvertedPendulum")
    parser.add_argument("--vary", default="vary_gain=[0.2, 3.0]")
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--runs", type=Path, required=True, help="folder of both runs, new")
    parser.add_argument("--out", type=Path, required=True, help="folder of curves.csv")
    parser.add_argument("more", nargs="*", help="further words for rlsuite train, after --")
    line = parser.parse_args()
    rows = []
    for critics, told in (("told", "true"), ("not told", "false")):
        run = line.runs / critics.replace(" ", "_")
        words = [
            "train",
            "sac",
            "--env",
            line.env,
            "--env-option",
            line.vary,
            "--env-option",
            f"vary_told={told}",
        ]
        words += ["--steps", str(line.steps), "--seeds", "3", "--threads", "1", "--compile", "off"]
        words += ["--warmup-steps", "500", "--eval-every", "500", "--eval-episodes", "20"]
        words += ["--agent.hidden", "64", "64", "--out", str(run), *line.more]
        subprocess.run([sys.executable, "-m", "rlsuite", *words], check=True)
        rows += [{"critics": critics, **row} for row in collect([run])]
    line.out.mkdir(parents=True, exist_ok=True)
    with (line.out / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    for critics in ("told", "not told"):
        returns = {seed: [] for seed in sorted({row["seed"] for row in rows})}  # type: dict[int, list[float]]
        for row in rows:
            if row["critics"] == critics:
                returns[row["seed"]].append(row["return_mean"])
        means = ", ".join(f"{sum(each) / len(each):,.1f}" for each in returns.values())
        print(f"critics {critics}: mean return over all evaluations, seed by seed: {means}")


if __name__ == "__main__":
    main()
