"""Write a report: tables, curves, videos where wanted, and the page over them."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from rlsuite.errors import ConfigError
from rlsuite.report.page import write_page
from rlsuite.report.study import read_study
from rlsuite.report.tables import LEAST_SEEDS, counted, draw, summaries, write_tables


def write_report(runs: Sequence[Path], out: Path, *, videos: bool = False) -> list[str]:
    """Write a report of some runs into `out` and return what it says in short, a line each.

    Args:
        runs: run folders, or folders that have run folders below them.
        out: made where it is missing; what an earlier report left there is replaced.
        videos: record an evaluation episode of each agent and environment that has no video.

    Raises:
        ConfigError: there is nothing to report, or a package is missing.
    """
    for package in ("matplotlib", "plotly"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f'a report needs {package}: pip install "rlsuite[report]"')
    study = read_study(runs)
    out.mkdir(parents=True, exist_ok=True)
    write_tables(study, out)
    draw(study, out)
    if videos:
        from rlsuite.report.videos import record_videos

        record_videos(study)
    page = write_page(study, out)
    lines = []
    for row in summaries(study):
        interval = f" [{row['low']:,.1f}, {row['high']:,.1f}]" if row["seeds"] >= LEAST_SEEDS else ""
        score = f"IQM {row['iqm']:,.1f}{interval}, {counted(row['seeds'], 'seed')}"
        lines.append(f"{row['env']}: {row['group']} at {row['env_steps']:,}: {score}")
    return [*lines, f"report: {page}"]
