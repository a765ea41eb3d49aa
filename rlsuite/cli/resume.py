"""Go on with a run where it stopped, or extend it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro import conf

from rlsuite.command.arguments import check_run, import_modules, parse

PROG = "rlsuite resume"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeArgs:
    """Goes on from the newest checkpoint that verifies; the result is that of the unbroken run."""

    run: conf.Positional[Path]
    """Run folder."""
    steps: int | None = None
    """New total of env steps; more than the run had extends it."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, as at the run's start."""


def run(argv: Sequence[str]) -> int:
    """Resume what the words after `rlsuite resume` say; return 0, or 75 when interrupted and resumable."""
    args = parse(ResumeArgs, argv, prog=PROG, description=str(ResumeArgs.__doc__))
    check_run(args.run)
    import_modules(args.imports)

    from rlsuite.hub.bundle import check_resumable
    from rlsuite.training.start import resume

    check_resumable(args.run)
    return resume(args.run, args.steps)
