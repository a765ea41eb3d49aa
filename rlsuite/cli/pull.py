"""Download a run from the Hugging Face Hub and check every byte of it."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro import conf

from rlsuite.command.arguments import parse

PROG = "rlsuite pull"
SHOWN_NAMES = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class PullArgs:
    """Fetches a run that `rlsuite push` made, by digest: safetensors, JSON and TOML, and nothing else."""

    repo: Annotated[conf.Positional[str], conf.arg(metavar="USER/NAME")]
    """Repository of the Hub."""
    out: Path | None = None
    """Run folder, new or empty; by default runs/NAME."""
    revision: str | None = None
    """Branch, tag or commit; by default the main branch."""


def run(argv: Sequence[str]) -> int:
    """Pull what the words after `rlsuite pull` say; return 0."""
    args = parse(PullArgs, argv, prog=PROG, description=str(PullArgs.__doc__))

    from rlsuite.hub.transfer import check_repo, pull

    check_repo(args.repo, args.revision)
    out = args.out or Path("runs") / args.repo.rpartition("/")[2]
    bundle, left = pull(args.repo, out, revision=args.revision)
    if left:
        names = ", ".join(left[:SHOWN_NAMES]) + (", ..." if len(left) > SHOWN_NAMES else "")
        print(f"rlsuite: {len(left)} files there belong to no run and were left: {names}", file=sys.stderr)
    print(f"{bundle.agent} on {bundle.env}, {bundle.step:,} env steps, {bundle.size:,} bytes")
    print(f"run folder: {out}; try: rlsuite eval {out}")
    return 0
