"""Write a report: tables, curves, videos where wanted, and the page over them."""

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rlsuite.errors import ConfigError, DataError
from rlsuite.report.page import PAGE_FILE, write_page
from rlsuite.report.study import read_study
from rlsuite.report.tables import LEAST_SEEDS, counted, draw, summaries, write_tables
from rlsuite.runs.files import make_folders, remove_empty


def write_report(
    runs: Sequence[Path], out: Path, *, videos: bool = False, refresh: int | None = None
) -> list[str]:
    """Write a report of some runs into `out`, whole or not at all; return what it says in short, a line each.

    Args:
        runs: run folders, or folders that have run folders below them.
        out: made where it is missing; what an earlier report left there is replaced.
        videos: record an evaluation episode of each agent and environment that has no video.
        refresh: seconds after which a browser loads the page again; None: never.

    Raises:
        ConfigError: there is nothing to report, or a package is missing.
        DataError: the disk refused; what an earlier report left is as it was.
    """
    missing = [package for package in ("jinja2", "matplotlib") if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f'a report needs {" and ".join(missing)}: pip install "rlsuite[report]"')
    study = read_study(runs)
    made: list[Path] = []
    try:
        made = make_folders(out)
        with tempfile.TemporaryDirectory(dir=out, prefix=".report-") as folder:
            stage = Path(folder)
            write_tables(study, stage)
            draw(study, stage)
            if videos:
                from rlsuite.report.videos import record_videos

                record_videos(study)
            write_page(study, stage, refresh)
            for file in sorted(stage.iterdir()):
                file.replace(out / file.name)
    except OSError as error:
        remove_empty(made)
        raise DataError(
            f"the report cannot be written to {out}: {error.strerror or error}; nothing of it is left"
        ) from error
    lines = []
    for row in summaries(study):
        interval = f" [{row['low']:,.1f}, {row['high']:,.1f}]" if row["seeds"] >= LEAST_SEEDS else ""
        score = f"IQM {row['iqm']:,.1f}{interval}, {counted(row['seeds'], 'seed')}"
        lines.append(f"{row['env']}: {row['group']} at {row['env_steps']:,}: {score}")
    return [*lines, f"report: {out / PAGE_FILE}"]
