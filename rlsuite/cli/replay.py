"""Make a stretch of a run again and print every update in it: losses, norms, values."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro import conf

from rlsuite.bounds import AtLeastOne, NotNegative, check_bounds
from rlsuite.command.arguments import check_run, import_modules, parse
from rlsuite.command.helptext import HelpPage

PROG = "rlsuite replay"
PAGE = HelpPage(
    examples=(
        f"{PROG} runs/cheetah --from 398_000 --to 400_000 --every 50",
        f"{PROG} runs/cheetah --from 398_000 --to 400_000 --json > updates.jsonl",
    )
)
WIDTH = 11  # characters of a column


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayArgs:
    """Goes back to the newest checkpoint before a step and makes the same updates again, each a line.

    The run folder stays as it is.
    """

    run: conf.Positional[Path]
    """Run folder."""
    first: Annotated[AtLeastOne, conf.arg(name="from", metavar="STEP")]
    """Env step (offline: update) of the first line."""
    last: Annotated[AtLeastOne, conf.arg(name="to", metavar="STEP")]
    """Env step of the last line."""
    every: AtLeastOne = 1
    """Print every so many updates."""
    seed_index: NotNegative = 0
    """Whose numbers, of a run with several seeds, from 0."""
    json: bool = False
    """One JSON object a line."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, as at the run's start."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)


def run(argv: Sequence[str]) -> int:
    """Replay what the words after `rlsuite replay` say; return 0."""
    args = parse(ReplayArgs, argv, prog=PROG, description=str(ReplayArgs.__doc__), page=PAGE)
    check_run(args.run)
    import_modules(args.imports)

    from rlsuite.training.branching import replay

    heads: tuple[str, ...] = ()
    for number, row in enumerate(replay(args.run, args.first, args.last, args.seed_index)):
        if number % args.every:
            continue
        if args.json:
            print(json.dumps({key: value if value == value else None for key, value in row.items()}))
            continue
        if tuple(row) != heads:  # an update of another kind: a delayed actor, a stage
            heads = tuple(row)
            print("  ".join(head.rjust(WIDTH) for head in heads))
        cells = (f"{v:,}" if isinstance(v, int) else f"{v:.5g}" for v in row.values())
        print("  ".join(cell.rjust(max(WIDTH, len(head))) for cell, head in zip(cells, heads, strict=True)))
    if not heads and not args.json:
        print(f"no update between {args.first:,} and {args.last:,}")
    return 0
