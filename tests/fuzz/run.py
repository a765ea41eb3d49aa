"""Fuzz the readers with atheris: `make fuzz`, or `python tests/fuzz/run.py --cpu-minutes 20 config policy`.

Every target gets its share of the CPU time in a process of its own: on a busy machine that takes longer by a
clock, and is as much fuzzing. An error that is not one of ours is a
finding: its input is kept in `tests/fuzz/findings/TARGET/` (one for every line of code that raised), where
`test_targets.py` tries it for ever after. A crash or a hang of the interpreter is one, too. The counts go to
benchmarks/results/fuzz.csv: `usable` is files that were used as a whole, `refused` those refused or passed
over in part.
"""

import argparse
import csv
import hashlib
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FINDINGS = HERE / "findings"
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.csv"
COUNTS = ("seconds", "cpu_seconds", "executions", "usable", "refused", "findings")
COLUMNS = ("target", *COUNTS, "crashes", "python", "machine")
MAX_BYTES = 400  # of one input: a choice takes one to three bytes
CRASHES = 5  # of one target, after which it is left
SLOWEST = 60  # seconds by a clock that one of CPU time may take
START_SECONDS = 600  # to import torch and to make a target ready, on a busy machine
HANG_SECONDS = 20  # one input, file and all, takes milliseconds
STATS_EVERY = 50  # executions between looks at the clock and notes of the counts


def fuzz(name: str, cpu_seconds: float, notes: Path, corpus: Path) -> None:
    """Fuzz one target in this process, and end the process when it has taken so much CPU time."""
    import atheris

    with atheris.instrument_imports(include=["rlsuite"]):
        from targets import prepared
    logging.disable(logging.WARNING)
    counts: dict[str, float] = dict.fromkeys(COUNTS, 0)
    found: set[str] = set()

    with prepared(name) as target:
        started, cpu = time.monotonic(), time.process_time()  # what was made ready is not fuzzing
        last = notes.with_suffix(".input")

        def one(data: bytes) -> None:
            if counts["executions"] % STATS_EVERY == 0:
                counts["seconds"] = time.monotonic() - started
                counts["cpu_seconds"] = time.process_time() - cpu
                notes.write_text(json.dumps(counts))
                if counts["cpu_seconds"] > cpu_seconds:
                    os._exit(0)
            last.write_bytes(data)  # what a crash of the interpreter was caused by
            counts["executions"] += 1
            try:
                counts["usable" if target(data) else "refused"] += 1
            except BaseException as error:  # noqa: BLE001  # whatever comes is the finding
                frames = traceback.extract_tb(error.__traceback__)
                own = [f for f in frames if "rlsuite" in f.filename] or frames
                place = f"{type(error).__name__} {Path(own[-1].filename).name}:{own[-1].lineno}"
                if place not in found:
                    found.add(place)
                    counts["findings"] += 1
                    keep(name, data)
                    print(f"FINDING {name}: {place}: {error!s:.300}", flush=True)

        corpus.mkdir(parents=True, exist_ok=True)
        for seed in (b"", bytes(range(64)), bytes(200), os.urandom(300)):
            (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
        options = [f"-max_len={MAX_BYTES}", f"-timeout={HANG_SECONDS}", "-rss_limit_mb=8192", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={corpus}/../", str(corpus)], one)
        atheris.Fuzz()


def keep(name: str, data: bytes) -> Path:
    """Put an input among the findings."""
    path = FINDINGS / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def in_a_child(name: str, cpu_seconds: float, work: Path) -> dict[str, str | int | float]:
    """Fuzz one target in children until its time is over; a child that crashed is a finding, and replaced."""
    total: dict[str, float] = dict.fromkeys((*COUNTS, "crashes"), 0)
    attempt = 0
    while (left := cpu_seconds - total["cpu_seconds"]) > 1 and total["crashes"] < CRASHES:
        attempt += 1
        notes = work / f"{name}-{attempt}.json"
        words = [sys.executable, __file__, "--child", name, "--seconds", str(left), "--notes", str(notes)]
        try:
            limit = START_SECONDS + SLOWEST * left
            code = subprocess.run(words, cwd=work, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            code = -int(signal.SIGKILL)
        if notes.exists():
            for key, value in json.loads(notes.read_text()).items():
                total[key] += value
        if code != 0:
            total["crashes"] += 1
            last = notes.with_suffix(".input")
            place = keep(name, last.read_bytes()) if last.exists() else None
            print(f"CRASH {name}: exit code {code}, input {place}", flush=True)
            if not total["executions"]:
                raise SystemExit(f"{name} does not even start")
    return {"target": name, **{key: round(value) for key, value in total.items()}}


def write_results(rows: list[dict[str, str | int | float]], path: Path) -> None:
    """Write the counts; rows of targets that were not fuzzed now stay."""
    old: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="") as file:
            old = list(csv.DictReader(file))
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    done = {row["target"] for row in rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([row for row in old if row["target"] not in done] + [row | machine for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="names; all by default")
    parser.add_argument("--cpu-minutes", type=float, default=20.0, help="of all targets together")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--notes", type=Path)
    line = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]
    if line.child:
        fuzz(line.child, line.seconds, line.notes, line.notes.parent / "corpus" / line.child)
        return
    from targets import TARGETS

    names = line.targets or sorted(TARGETS)
    unknown = [name for name in names if name not in TARGETS]
    if unknown or line.cpu_minutes <= 0:
        parser.error(
            f"no such target: {unknown}; there are {sorted(TARGETS)}"
            if unknown
            else "--cpu-minutes must be above 0"
        )
    rows = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        for name in names:
            rows.append(in_a_child(name, line.cpu_minutes * 60 / len(names), Path(work)))
            print(rows[-1], flush=True)
            write_results(rows, line.out)
    sys.exit(any(row["findings"] or row["crashes"] for row in rows))


if __name__ == "__main__":
    main()
