"""Show any number of runs as one page: curves over seeds, statistics with intervals, and their origin."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tyro import conf

from rlsuite.command.arguments import parse
from rlsuite.command.helptext import HelpPage
from rlsuite.errors import ConfigError

PROG = "rlsuite report"


PAGE = HelpPage(
    examples=(
        f"{PROG} runs/cheetah runs/cheetah-td3 --out runs/report",
        f"{PROG} runs --videos",
        f"{PROG} runs --watch",
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportArgs:
    """Writes report.html, curves.png, .svg and .pdf, tables as CSV, Markdown, LaTeX; runs may still train."""

    runs: conf.Positional[tuple[Path, ...]]
    """Run folders, or folders that have run folders below them."""
    out: Path = Path("runs/report")
    """Folder of the report; what an earlier report left there is replaced."""
    videos: bool = False
    """Record an evaluation episode of each agent and environment that has no video (extra `video`)."""

    watch: bool = False
    """Write the page again whenever the runs have logged, until all have ended; a browser follows it."""
    every: int = 30
    """Seconds between two looks at the runs, with --watch."""

    def __post_init__(self) -> None:
        """Raise ConfigError where there is nothing to report."""
        if not self.runs:
            raise ConfigError(f"name the runs: {PROG} RUN...")
        if self.every < 1:
            raise ConfigError(f"--every {self.every}: at least 1 second")


def run(argv: Sequence[str]) -> int:
    """Report on what the words after `rlsuite report` name; return 0."""
    args = parse(ReportArgs, argv, prog=PROG, description=str(ReportArgs.__doc__), page=PAGE)

    from rlsuite.report.watch import watch_report
    from rlsuite.report.write import write_report

    if args.watch:
        for text in watch_report(args.runs, args.out, videos=args.videos, every=args.every):
            print(text, flush=True)
        return 0
    for text in write_report(args.runs, args.out, videos=args.videos):
        print(text)
    return 0
