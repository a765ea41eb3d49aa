"""Say which of two groups of runs is better, by how much, and how many more seeds would decide it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro import conf

from rlsuite.command.arguments import parse
from rlsuite.command.helptext import HelpPage

PROG = "rlsuite compare"
PAGE = HelpPage(
    examples=(
        f"{PROG} runs/sac runs/td3",
        f"{PROG} runs/sac runs/sac-tau --paired --json",
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareArgs:
    """Compares two groups of runs on every environment that both have: effect, interval, seeds needed."""

    first: conf.Positional[Path]
    """Run folder, or a folder of runs that differ in their seeds alone."""
    second: conf.Positional[Path]
    """The same of the other group."""
    score: Literal["final", "mean"] = "final"
    """Of a run: its evaluation at the last step that all have reached, or the mean of all up to there."""
    paired: bool = False
    """Take differences seed by seed: for branches, and wherever equal seeds share their luck."""
    json: bool = False
    """Print one JSON array and nothing else."""


def run(argv: Sequence[str]) -> int:
    """Compare what the words after `rlsuite compare` name; return 0."""
    args = parse(CompareArgs, argv, prog=PROG, description=str(CompareArgs.__doc__), page=PAGE)

    from rlsuite.report.compare import compare, sentences

    comparisons = compare([args.first], [args.second], score=args.score, paired=args.paired)
    if args.json:
        print(json.dumps([comparison.facts() for comparison in comparisons]))
        return 0
    names = args.first.name or str(args.first), args.second.name or str(args.second)
    if names[0] == names[1]:
        names = str(args.first), str(args.second)
    for comparison in comparisons:
        print("\n".join(sentences(comparison, names)))
    return 0
