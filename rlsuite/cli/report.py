"""Show any number of runs as one page: curves over seeds, statistics with intervals, and their origin."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tyro import conf

from rlsuite.command.arguments import parse
from rlsuite.errors import ConfigError

PROG = "rlsuite report"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportArgs:
    """Writes report.html, curves.png, curves.svg and the tables as CSV; runs may still be training."""

    runs: conf.Positional[tuple[Path, ...]]
    """Run folders, or folders that have run folders below them."""
    out: Path = Path("runs/report")
    """Folder of the report; what an earlier report left there is replaced."""
    videos: bool = False
    """Record an evaluation episode of each agent and environment that has no video (extra `video`)."""

    def __post_init__(self) -> None:
        """Raise ConfigError where there is nothing to report."""
        if not self.runs:
            raise ConfigError(f"name the runs: {PROG} RUN...")


def run(argv: Sequence[str]) -> int:
    """Report on what the words after `rlsuite report` name; return 0."""
    args = parse(ReportArgs, argv, prog=PROG, description=str(ReportArgs.__doc__))

    from rlsuite.report.write import write_report

    for text in write_report(args.runs, args.out, videos=args.videos):
        print(text)
    return 0
