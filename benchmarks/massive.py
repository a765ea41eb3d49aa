"""Wall-clock time to a return in the massive regime: trains with the preset `massive` and reads the curve.

Everything after `--` goes to `rlsuite train`: `--engine warp --device cpu --num-envs 8` tries the whole path
without a GPU.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from rlsuite.bench.curves import collect, plot, write

GOALS = {"HalfCheetah": 10_000.0, "Walker2d": 4_000.0, "Ant": 4_000.0, "Humanoid": 5_000.0}  # returns


def main() -> None:
    """Train, write the curve as CSV and picture, and say when the goal was reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="dsac_t")
    parser.add_argument("--env", default="HalfCheetah", choices=sorted(GOALS))
    parser.add_argument("--run", type=Path, required=True, help="run folder, new")
    parser.add_argument("--out", type=Path, required=True, help="folder of curves.csv and curves.png")
    parser.add_argument("more", nargs="*", help="further words for rlsuite train, after --")
    line = parser.parse_args()
    words = [
        "train",
        line.agent,
        "--env",
        line.env,
        "--preset",
        "massive",
        "--out",
        str(line.run),
        *line.more,
    ]
    code = subprocess.run([sys.executable, "-m", "rlsuite", *words], check=False).returncode
    if code:
        raise SystemExit(code)
    rows = collect([line.run])
    write(rows, [line.run], line.out)
    plot(rows, line.out / "curves.png", None)
    goal = GOALS[line.env]
    reached = next((row for row in rows if row["return_mean"] >= goal), None)
    last = rows[-1]
    print(
        f"{last['env_step']:,} env steps in {last['seconds']:,.0f} s, last return {last['return_mean']:,.1f}"
    )
    if reached is None:
        print(f"a return of {goal:,.0f} was not reached")
    else:
        print(f"a return of {goal:,.0f} after {reached['seconds']:,.0f} s, {reached['env_step']:,} env steps")


if __name__ == "__main__":
    main()
