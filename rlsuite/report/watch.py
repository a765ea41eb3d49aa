"""A report that follows runs while they train: written again when they have logged, until all have ended."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlsuite.errors import ConfigError
from rlsuite.report.study import NO_EVALUATION, find_runs
from rlsuite.report.write import write_report
from rlsuite.runs.runfolder import RunFolder


def watch_report(runs: Sequence[Path], out: Path, *, videos: bool = False, every: int = 30) -> Iterator[str]:
    """Write the report of some runs again and again; yield what it says in short, a line each.

    Runs that appear below the folders are taken up. Once no process writes to any of the runs, or the
    user interrupts it, it ends with a page that no longer loads itself again.

    Args:
        runs, out, videos: as of `write_report`.
        every: seconds between two looks at the runs, and between two loads of the page.

    Raises:
        ConfigError: as of `write_report`, but runs without an evaluation are waited for.
        DataError: as of `write_report`.
    """
    seen: dict[Path, int] = {}
    try:
        while training(runs):
            if (now := sizes(runs)) != seen:
                seen = now
                try:
                    yield from write_report(runs, out, videos=videos, refresh=every)
                except ConfigError as error:
                    if NO_EVALUATION not in str(error):
                        raise
                    yield f"waiting: {error}"
            time.sleep(every)
    except KeyboardInterrupt:
        yield "no longer watched"
    yield from write_report(runs, out, videos=videos)


def training(runs: Sequence[Path]) -> bool:
    """Return whether a process writes to any of the runs."""
    return any(RunFolder(run).in_use() for run in find_runs(runs))


def sizes(runs: Sequence[Path]) -> dict[Path, int]:
    """Return how many bytes of metrics each run has."""
    metrics = {run: RunFolder(run).metrics for run in find_runs(runs)}
    return {run: path.stat().st_size if path.exists() else 0 for run, path in metrics.items()}
