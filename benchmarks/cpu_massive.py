"""Races the preset `cpu_massive` against the classic regime, by CPU time, one thread a run.

Every evaluation is a row: return, env steps, updates, CPU seconds of the process and its finished children,
wall seconds. A run ends at its first evaluation at or above the goal. Words after `--` go to `rlsuite train`.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsuite import Callback
from rlsuite.training.callbacks import Evaluation, Start

CLOCK_FILE = "cpu.csv"
COLUMNS = ("agent", "regime", "env", "seed", "env_step", "updates", "return_mean", "cpu_seconds", "seconds")


class CpuClock(Callback):
    """Writes a line into the run folder's `cpu.csv` at every evaluation, and ends the run at the goal.

    Args:
        at_least: the goal, a mean return.
        cpu_limit: CPU seconds after which the run ends without it.
    """

    def __init__(self, at_least: float, cpu_limit: float = float("inf")) -> None:
        self.goal, self.limit = float(at_least), float(cpu_limit)
        self.spent = (0.0, 0.0)  # CPU and wall seconds before this process
        self.best = -float("inf")

    def on_start(self, start: Start) -> None:
        """Open the table."""
        self.path, self.began = start.folder / CLOCK_FILE, time.monotonic()
        if not start.step:
            self.path.write_text("env_step,updates,return_mean,cpu_seconds,seconds\n", "utf-8")

    def clocks(self) -> tuple[float, float]:
        """Return CPU and wall seconds of the run so far, start of Python included in the first."""
        return self.spent[0] + sum(os.times()[:4]), self.spent[1] + time.monotonic() - self.began

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Write the line."""
        cpu, wall = self.clocks()
        self.best = max(self.best, evaluation.return_mean)
        line = f"{evaluation.step},{evaluation.updates},{evaluation.return_mean:.1f},{cpu:.1f},{wall:.1f}\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def stop(self) -> bool | str:
        """End at the goal, or where the CPU time is spent."""
        if self.best >= self.goal:
            return f"reached {self.goal:,.0f}"
        return self.clocks()[0] > self.limit and f"{self.limit:,.0f} CPU seconds are spent"

    def state_dict(self) -> dict[str, Any]:
        """Return the clocks, so that a resumed run goes on counting."""
        return {"spent": list(self.clocks()), "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self.spent, self.best = (float(state["spent"][0]), float(state["spent"][1])), float(state["best"])


def main() -> None:
    """Train once and add the run's rows to the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="sac")
    parser.add_argument("--env", default="HalfCheetah")
    parser.add_argument("--regime", default="cpu_massive", choices=("cpu_massive", "classic"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--goal", type=float, default=3_000.0, help="mean return that ends the run")
    parser.add_argument("--cpu-limit", type=float, default=1_800.0, help="CPU seconds that end it, too")
    parser.add_argument("--run", type=Path, required=True, help="run folder, new")
    parser.add_argument("--out", type=Path, help="folder of curves.csv, which grows")
    parser.add_argument("more", nargs="*", help="further words for rlsuite train, after --")
    line = parser.parse_args()
    regime = ["--preset", "cpu_massive"] if line.regime == "cpu_massive" else ["--steps", "100000"]
    callback = f"cpu_massive:CpuClock,at_least={line.goal},cpu_limit={line.cpu_limit}"
    words = ["train", line.agent, "--env", line.env, *regime, "--seed", str(line.seed), "--threads", "1"]
    words += ["--callbacks", callback, "--out", str(line.run), *line.more]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    code = subprocess.run([sys.executable, "-m", "rlsuite", *words], check=False, env=environment).returncode
    with (line.run / CLOCK_FILE).open(newline="") as file:
        rows = [
            {"agent": line.agent, "regime": line.regime, "env": line.env, "seed": line.seed, **row}
            for row in csv.DictReader(file)
        ]
    if line.out is not None and rows:
        line.out.mkdir(parents=True, exist_ok=True)
        table = line.out / "curves.csv"
        fresh = not table.exists()
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if fresh:
                writer.writeheader()
            writer.writerows(rows)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
