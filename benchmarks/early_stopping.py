"""Tabulates what early stopping leaves in the replay: episodes that end by themselves, values, returns.

    python benchmarks/early_stopping.py plain=runs/plain run_on_0.25=runs/least --out FOLDER

Reads the metrics of finished runs (any agent, task and number of seeds) and writes `early_stopping.csv`: for
every run, seed and stretch between two evaluations, the episodes that ended by themselves (by failing or in
time; the rest was stopped), these per 10,000 env steps, and what the evaluation at its end says.
"""

import argparse
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    "arm",
    "seed",
    "env_step",
    "episodes",
    "stopped",
    "ended_by_themselves_per_10000",
    "stop_rate",
    "ended_within_30",
    "return_mean",
    "value_error",
)


def stretches(arm: str, records: Sequence[Mapping[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for every evaluation of one seed, of what happened since the one before."""
    episodes, stops, stops_before, step_before = 0.0, 0.0, 0.0, 0
    last: dict[str, Any] = {}
    for record in records:
        last = {**last, **record}
        episodes += record.get("train/episodes", 0)
        stops = record.get("least/stops", stops)
        if "eval/return_mean" not in record:
            continue
        stopped, steps = stops - stops_before, record["step"] - step_before
        ended = (episodes - stopped) / steps * 10_000
        stop_rate, soon = last.get("least/stop_rate", ""), last.get("least/ended_within_30", "")
        results = record["eval/return_mean"], record.get("eval/value_error", "")
        values = (arm, seed, record["step"], episodes, stopped, ended, stop_rate, soon, *results)
        yield dict(zip(COLUMNS, (round(v, 3) if isinstance(v, float) else v for v in values), strict=True))
        episodes, stops_before, step_before = 0.0, stops, record["step"]


def rows_of(arm: str, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all seeds of a run."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seeds = sorted({record.get("seed", 0) for record in records})
    each = {seed: [record for record in records if record.get("seed", 0) == seed] for seed in seeds}
    return [row for seed in seeds for row in stretches(arm, each[seed], seed)]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table of all runs, and print each one's sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="ARM=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    runs = dict(run.partition("=")[::2] for run in args.runs)
    rows = [row for arm, folder in runs.items() for row in rows_of(arm, Path(folder))]
    with (args.out / "early_stopping.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for arm in runs:
        ended = [row["ended_by_themselves_per_10000"] for row in rows if row["arm"] == arm]
        print(f"{arm}: {sum(ended) / len(ended):.0f} episodes in 10,000 env steps ended by themselves")


if __name__ == "__main__":
    main()
