"""What `make demo` gives for ten seeds: the best and the last evaluation of each, and how long it took.

Writes benchmarks/results/demo_seeds.csv after every seed; one that is there already is not run again. Fails
where a last evaluation is below 80 % of its best, or below 1,000.

    python benchmarks/demo_seeds.py [--seeds 0 1 2] [--threads 1]
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rlsuite.runs.machine import versions
from rlsuite.runs.metrics import read_metrics

TABLE = Path(__file__).parent / "results" / "demo_seeds.csv"
COLUMNS = ("seed", "best", "last", "seconds", "cpu_seconds", "train_flags", "versions")
LEAST_SHARE, LEAST_RETURN = 0.8, 1_000.0
COMMAND = ("train", "dsac_t", "--env", "HalfCheetah", "--preset", "demo")


def run(seed: int, flags: list[str]) -> dict[str, str]:
    """Train the demo once in a process of its own; return a row of the table.

    Raises:
        SystemExit: the run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [sys.executable, "-m", "rlsuite", *COMMAND, "--seed", str(seed), "--out", str(out), *flags]
        begun, cpu = time.monotonic(), cpu_seconds()
        code = subprocess.run(words, check=False).returncode
        seconds, used = time.monotonic() - begun, cpu_seconds() - cpu
        if code:
            raise SystemExit(f"seed {seed}: the run ended with exit code {code}")
        returns = [record.get("eval/return_mean") for record in read_metrics(out / "metrics.jsonl")]
    curve = [float(value) for value in returns if value is not None]
    return {
        "seed": str(seed),
        "best": f"{max(curve):.1f}",
        "last": f"{curve[-1]:.1f}",
        "seconds": f"{seconds:.0f}",
        "cpu_seconds": f"{used:.0f}",
        "train_flags": " ".join(flags),
        "versions": json.dumps(versions()),
    }


def cpu_seconds() -> float:
    """Return the CPU time of all child processes that have ended."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def read_table(path: Path) -> dict[int, dict[str, str]]:
    """Return the rows that are there, by seed."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {int(row["seed"]): row for row in csv.DictReader(file)}


def failures(rows: dict[int, dict[str, str]]) -> list[str]:
    """Return a line for every seed that ends below what the demo promises."""
    lines = []
    for seed, row in sorted(rows.items()):
        best, last = float(row["best"]), float(row["last"])
        if last < max(LEAST_RETURN, LEAST_SHARE * best):
            lines.append(f"seed {seed}: last {last:,.1f}, best {best:,.1f}")
    return lines


def main() -> None:
    """Run the seeds that are missing, one after the other, and say which fall short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments, flags = parser.parse_known_args()
    rows = read_table(arguments.out)
    for seed in arguments.seeds:
        if seed in rows:
            continue
        rows[seed] = run(seed, flags)
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(row for _, row in sorted(rows.items()))
        print(f"seed {seed}: best {rows[seed]['best']}, last {rows[seed]['last']}", flush=True)
    if short := failures(rows):
        raise SystemExit("below 80 % of the best, or below 1,000: " + "; ".join(short))
    print(f"all of {len(rows)} seeds end above 1,000 and above 80 % of their best")


if __name__ == "__main__":
    main()
