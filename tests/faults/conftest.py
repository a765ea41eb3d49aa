"""What the rows share, and the counts they leave: kills survived, bytes flipped, bad inputs refused.

The counts are printed at the end of the tests and, where RLSUITE_FAULT_COUNTS names a file, added to that CSV
(`make faults`): one line a row, form and kind of count, replaced by a later run of the same.
"""

import collections
import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import whole_runs as runs
from stand_in import state_at

from rlsuite.runs.checkpoint import CheckpointStore

COLUMNS = ("row", "form", "tests_passed", "tests_skipped", "what", "count")
ROW = re.compile(r"test_row_(\d\d)_(\w+)\.py")

_counts: collections.Counter[tuple[str, str]] = collections.Counter()
_tests: collections.Counter[tuple[str, str]] = collections.Counter()


def row_of(path: str) -> str:
    """Return "07 damaged checkpoints" for a path to a file of that row; empty for another file."""
    found = ROW.search(path)
    return f"{found[1]} {found[2].replace('_', ' ')}" if found else ""


@pytest.fixture
def count(request):
    """Count what a test has seen happen, once it has: `count("bytes flipped and noticed", 3)`.

    Tests that passed are another column: not every one of them refuses, resets or survives something.
    """

    def add(what: str, number: int = 1) -> None:
        _counts[row_of(str(request.path)), what] += number

    return add


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory):
    """A run of DSAC-T in a process of its own that nothing happened to."""
    path = tmp_path_factory.mktemp("unbroken") / "run"
    child = runs.start("train", "dsac_t", *runs.flags(), "--out", path)
    assert child.wait(120) == 0, child.stdout.read()
    return path


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two checkpoints, of steps 100 and 200."""
    store = CheckpointStore(tmp_path)
    return store.save(100, **state_at(100)), store.save(200, **state_at(200))


def pytest_runtest_logreport(report):
    row = row_of(report.nodeid)
    if row and (report.when == "call" or report.skipped):
        _tests[row, report.outcome] += 1


def pytest_terminal_summary(terminalreporter, config):
    rows = sorted({row for row, _ in (*_tests, *_counts)})
    if not rows:
        return
    form = "short" if "not faults_long" in config.option.markexpr else "long"
    terminalreporter.section("faults")
    found = []
    for row in rows:
        tests = _tests[row, "passed"], _tests[row, "skipped"]
        own = {what: number for (at, what), number in sorted(_counts.items()) if at == row}
        shown = "".join(f"; {what}: {number}" for what, number in own.items())
        failed = f", {_tests[row, 'failed']} FAILED" if _tests[row, "failed"] else ""
        skipped = f", {tests[1]} skipped" if tests[1] else ""
        terminalreporter.line(f"{row}: {tests[0]} tests passed{failed}{skipped}{shown}")
        found += [(row, form, *tests, what, number) for what, number in (own or {"": 0}).items()]
    path = os.environ.get("RLSUITE_FAULT_COUNTS")
    if path and not any(outcome == "failed" for _, outcome in _tests):
        add_counts(Path(path), found)


def add_counts(path: Path, found: list[tuple[str, str, int, int, str, int]]) -> None:
    """Write counts, keeping those of other rows and forms."""
    old: list[list[str]] = []
    if path.exists():
        with path.open(newline="") as file:
            old = list(csv.reader(file))[1:]
    done = {(row, form) for row, form, *_ in found}
    kept = [line for line in old if tuple(line[:2]) not in done]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted([*kept, *(list(map(str, line)) for line in found)]))


@pytest.fixture
def on_small_disk(tmp_path):
    """Run a program with a small tmpfs at its first argument; return what it says on stderr."""

    def run(program: str, size: str) -> str:
        mount = f"mount -t tmpfs -o size={size} tmpfs {tmp_path}"
        allowed = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False)
        if allowed.returncode != 0:
            pytest.skip("no file system may be mounted here")
        shell = f'{mount} && exec "$0" -c "$1" "$2"'
        result = subprocess.run(
            ["unshare", "-m", "sh", "-c", shell, sys.executable, program, tmp_path],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert result.returncode == 0, result.stderr
        return result.stderr

    return run
