"""DSAC-T on Pendulum against the run that its authors published: returns, temperature, running spread.

    rlsuite train dsac_t --env gym:Pendulum-v1 --preset paper --out RUN
    python benchmarks/pendulum.py RUN --out FOLDER

The authors' repository has one run of this setting (one seed, the same critic loss). Its first evaluation
above -200 is at iteration 6,300, and its evaluations from 8,000 on average -160.5.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import torch

from rlsuite.bench.curves import copy_origin
from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.mapping import config_from_dict
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import METRICS_FILE, RunFolder
from rlsuite.training.assembly import build
from rlsuite.training.online import train_steps

AUTHORS_ALPHA = {2_000: 2.014, 4_000: 1.501, 6_000: 1.139, 8_000: 0.879, 10_000: 0.680}
ALPHA_TOLERANCE = 0.15
RETURN_FROM, RETURN_GATE = 8_000, -250.0  # iterations; mean of the evaluations from there on
FIRST_SPREAD = (0.60, 0.78)  # of the first critic after the first update; the authors' run has 0.659
COLUMNS = ("iteration", "env_step", "return_mean", "return_std", "alpha", "spread")


def trace(path: Path) -> list[dict[str, Any]]:
    """Return iteration, env step, return, temperature and spread of every evaluation of a run."""
    return [
        {
            "iteration": record["updates"],
            "env_step": record["step"],
            "return_mean": round(record["eval/return_mean"], 3),
            "return_std": round(record["eval/return_std"], 3),
            "alpha": record.get("alpha"),
            "spread": record.get("q/spread"),
        }
        for record in read_metrics(path / METRICS_FILE)
        if "eval/return_mean" in record and record["updates"]
    ]


def first_spread(path: Path) -> float:
    """Run the start of a run again, to its first update, and return the first critic's running spread."""
    config = config_from_dict(RunFolder.open(path).config(), lambda name: agent_class(name).Config)
    torch.set_num_threads(1)  # small nets, one world: a second thread only waits
    if not isinstance(config.train, TrainConfig):
        raise SystemExit(f"{path} is an offline run")
    run = build(agent_class(config.agent_name), config.agent, config.train)
    while not run.clock.updates:
        train_steps(run, 1)
    spread: float = run.agent.get_buffer("spread")[0].item()
    run.env.close()
    run.eval_env.close()
    return spread


def checks(rows: list[dict[str, Any]], spread: float) -> list[tuple[str, float, bool]]:
    """Return each gate's name, our value and whether it holds."""
    late = [row["return_mean"] for row in rows if row["iteration"] >= RETURN_FROM]
    mean = sum(late) / len(late)
    found = [(f"mean return from iteration {RETURN_FROM:,} on > {RETURN_GATE}", mean, mean > RETURN_GATE)]
    for iteration, alpha in AUTHORS_ALPHA.items():
        row = min(rows, key=lambda row: abs(row["iteration"] - iteration))
        near = abs(row["alpha"] / alpha - 1) <= ALPHA_TOLERANCE
        found.append((f"alpha at {iteration:,} within 15 % of {alpha}", row["alpha"], near))
    low, high = FIRST_SPREAD
    found.append((f"spread after the first update in [{low}, {high}]", spread, low <= spread <= high))
    return found


def main() -> None:
    """Write the trace, print the gates, and exit 1 when one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = trace(arguments.run)
    arguments.out.mkdir(parents=True, exist_ok=True)
    copy_origin(arguments.run, arguments.out)
    with (arguments.out / "trace.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    gates = checks(rows, first_spread(arguments.run))
    report = [f"{'holds' if holds else 'FAILS':5}  {value:9.3f}  {name}" for name, value, holds in gates]
    above = next((row["iteration"] for row in rows if row["return_mean"] > -200), None)
    report.append(f"first evaluation above -200 at iteration {above}")
    (arguments.out / "gates.txt").write_text("\n".join(report) + "\n")
    print("\n".join(report))
    raise SystemExit(not all(holds for *_, holds in gates))


if __name__ == "__main__":
    main()
