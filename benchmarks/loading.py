"""How long reading a data set of a million transitions takes, and how much memory beside its columns.

Each file is read in a process of its own: its largest size, less what lay in memory before (Linux). A small
file is read first, for what the first one costs whatever its size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlsuite.cli.data import run as data_command
from rlsuite.report.comparison import write_csv

OBSERVATION, ACTION, EPISODE = 17, 6, 1_000  # HalfCheetah's
CHUNK = 16_384  # rows a chunk of the file
COLUMNS = (
    "file",
    "transitions",
    "episodes",
    "seconds",
    "cpu_seconds",
    "columns_mib",
    "peak_mib",
    "peak_ratio",
)
READER = """
import json, sys, time
from rlsuite.offline.load import load_dataset

def memory(name):  # KiB; not ru_maxrss, which a process takes over from its parent
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

load_dataset(sys.argv[2])  # modules and buffers that the first data set of a process costs, whatever its size
before = memory("VmRSS:")
wall, cpu = time.perf_counter(), time.process_time()
data = load_dataset(sys.argv[1])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = (memory("VmHWM:") - before) / 1024
columns = sum(t.numel() * t.element_size() for t in data.rows.values(True, True)) / 2**20
found = {"transitions": len(data.rows), "episodes": len(data.episodes), "seconds": wall, "cpu_seconds": cpu}
print(json.dumps(found | {"columns_mib": columns, "peak_mib": peak, "peak_ratio": peak / columns}))
"""
SMALL = 2_000  # rows of the data set that a process reads first


def write_flat(path: Path, rows: int, seed: int = 0) -> None:
    """Write random numbers in D4RL's layout, gzip as its files are: episodes of 1,000 that time out."""
    rng = np.random.default_rng(seed)
    sizes = {"observations": OBSERVATION, "next_observations": OBSERVATION, "actions": ACTION}
    options: dict[str, Any] = {"compression": "gzip", "compression_opts": 4}
    with h5py.File(path, "w") as file:
        for name, size in sizes.items():
            column = file.create_dataset(
                name, (rows, size), np.float32, chunks=(min(CHUNK, rows), size), **options
            )
            for start in range(0, rows, CHUNK):
                count = min(CHUNK, rows - start)
                drawn = rng.normal(size=(count, size)).astype(np.float32)
                column[start : start + count] = np.tanh(drawn) * 0.99 if name == "actions" else drawn
        file.create_dataset("rewards", data=rng.normal(size=rows).astype(np.float32), **options)
        file.create_dataset("terminals", data=np.zeros(rows, bool), **options)
        file.create_dataset("timeouts", data=np.arange(rows) % EPISODE == EPISODE - 1, **options)


def read(path: Path, first: Path) -> dict[str, Any]:
    """Read a data set in a process of its own, after the small one `first`, and return what it took."""
    words: list[str | Path] = [sys.executable, "-c", READER, path, first]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Write the files, read each, print and with --out keep the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="more data sets to read")
    parser.add_argument("--out", type=Path, help="CSV file")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        small, flat = Path(folder) / "small.hdf5", Path(folder) / "flat.hdf5"
        write_flat(small, SMALL)
        write_flat(flat, arguments.rows)
        data_command(["convert", str(flat), folder, "--layout", "minari", "--name", "bench/minari-v0"])
        for path in (flat, Path(folder) / "bench" / "minari-v0", *arguments.also):
            rows.append({"file": path.name} | read(path, small))
            one = rows[-1]
            print(
                f"{one['file']}: {one['transitions']:,} transitions in {one['seconds']:.2f} s, columns "
                f"{one['columns_mib']:.0f} MiB, peak {one['peak_ratio']:.2f} of that",
                flush=True,
            )
    if arguments.out:
        write_csv(arguments.out, COLUMNS, rows)


if __name__ == "__main__":
    main()
