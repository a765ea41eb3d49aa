"""Choose among runs by recorded data: fitted Q evaluation, TD errors, and what the choice was worth."""

from collections.abc import Sequence

from rlsuite.command.arguments import check_checkpoint, check_run, parse

PROG = "rlsuite choose"


def run(argv: Sequence[str]) -> int:
    """Judge the runs that the words after `rlsuite choose` name; return 0."""
    from rlsuite.bench.choose import PAGE, ChooseArgs, main

    args = parse(ChooseArgs, argv, prog=PROG, description=str(ChooseArgs.__doc__), page=PAGE)
    check_checkpoint(args.checkpoint)
    for path in args.runs:
        check_run(path)
    return main(args)
