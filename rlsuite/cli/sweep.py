"""Search an agent's hyper-parameters: several seeds a trial, pruning, resumable."""

from collections.abc import Sequence

from rlsuite.cli.bench import split_extra
from rlsuite.command.arguments import parse

PROG = "rlsuite sweep"


def run(argv: Sequence[str]) -> int:
    """Sweep as the words after `rlsuite sweep` say; return 0, or 75 when interrupted and resumable."""
    from rlsuite.bench.sweep import SweepArgs, main

    args, extra = split_extra(argv)
    return main(parse(SweepArgs, args, prog=PROG, description=str(SweepArgs.__doc__)), extra)
