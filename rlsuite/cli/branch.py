"""Take runs to a step, bit for bit, then change one thing; both arms are reported as pairs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro import conf

from rlsuite.bounds import AtLeastOne, check_bounds
from rlsuite.command.arguments import check_run, import_modules, parse, wants_help
from rlsuite.command.helptext import HelpPage
from rlsuite.errors import ConfigError

PROG = "rlsuite branch"
PAGE = HelpPage(
    examples=(
        f"{PROG} runs/cheetah --at 400_000 --agent.lr-actor 1e-4",
        f"{PROG} runs/study/sac-HalfCheetah-s* --at 400_000 --agent.tau 0.01 --out runs/tau",
    )
)
OWN = ("--at", "--out", "--import")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BranchArgs:
    """Goes back to a step of each run, from the newest checkpoint before it, and on from there to the end.

    Every further flag is one of `rlsuite train`'s, and changes there. Without any the branch is its parent
    again, bit for bit.
    """

    runs: conf.Positional[tuple[Path, ...]]
    """Run folders of one agent; several give pairs, and an interval."""
    at: AtLeastOne
    """Env step (offline: update) at which the change begins."""
    out: Path | None = None
    """Folder of the branch, of several runs a folder of branches; by default beside the run."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, as at the runs' start."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)
        if not self.runs:
            raise ConfigError(f"name the runs: {PROG} RUN... --at STEP")


def split_changes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words that are the command's own, and those that change the run."""
    mine: list[str] = []
    changes: list[str] = []
    target = mine
    for word in argv:
        if word.startswith("--"):
            flag = word.partition("=")[0].replace("_", "-")
            target = mine if flag in OWN or wants_help([word]) else changes
        target.append(word)
    return mine, changes


def run(argv: Sequence[str]) -> int:
    """Branch what the words after `rlsuite branch` say; return 0, or 75 when interrupted and resumable."""
    mine, change_args = split_changes(argv)
    args = parse(BranchArgs, mine, prog=PROG, description=str(BranchArgs.__doc__), page=PAGE)
    for path in args.runs:
        check_run(path)
    import_modules(args.imports)

    from rlsuite.report.pairs import report_pairs
    from rlsuite.training.branching import branch
    from rlsuite.training.outcome import EXIT_INTERRUPTED

    changes = changes_of(args.runs[0], change_args)
    named = "-".join(f"{key}-{value}" for table in changes.values() for key, value in table.items())
    label = f"at{args.at}" + (f"-{named}" if named else "")
    done: list[tuple[Path, Path]] = []
    for path in args.runs:
        out = args.out or path.absolute().with_name(f"{path.name}-{label[:120]}".replace("/", "-"))
        if args.out is not None and len(args.runs) > 1:
            out = args.out / path.name
        print(f"{path} to step {args.at:,}, then {named or 'nothing changed'}: {out}", flush=True)
        result = branch(path, args.at, out, changes)
        if result.interrupted:
            print(f"interrupted, nothing lost; go on with: rlsuite resume {out}", flush=True)
            return EXIT_INTERRUPTED
        done.append((path, out))
    print(report_pairs(done, args.at), flush=True)
    return 0


def changes_of(path: Path, words_of_changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the fields that a line changes, in the tables "train" and "agent".

    Raises:
        ConfigError: an unknown flag, or a value that it cannot have.
    """
    from rlsuite.training.start import saved_config

    config = saved_config(path, None)
    shape = dataclasses.make_dataclass(
        "Changes",
        [("train", conf.OmitArgPrefixes[type(config.train)]), ("agent", type(config.agent))],  # type: ignore[misc]
        kw_only=True,
        frozen=True,
    )
    before = shape(train=config.train, agent=config.agent)
    after: Any = parse(shape, words_of_changes, prog=PROG, default=before)
    return {
        table: {
            field.name: getattr(new, field.name)
            for field in dataclasses.fields(new)
            if getattr(new, field.name) != getattr(old, field.name)
        }
        for table, old, new in (
            ("train", config.train, after.train),
            ("agent", config.agent, after.agent),
        )
    }
