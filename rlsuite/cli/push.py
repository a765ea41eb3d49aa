"""Upload a run to the Hugging Face Hub, with a model card."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro import conf

from rlsuite.command.arguments import check_checkpoint, check_run, import_modules, parse
from rlsuite.errors import ConfigError

PROG = "rlsuite push"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PushArgs:
    """Uploads policy, configuration, metrics and a model card; token: HF_TOKEN or `hf auth login`."""

    run: conf.Positional[Path]
    """Run folder."""
    repo: Annotated[str, conf.arg(metavar="USER/NAME")]
    """Repository of the Hub; made if it does not exist."""
    revision: str | None = None
    """Branch; made if it does not exist. By default the main one."""
    private: bool = False
    """Whether a repository that is made here is private."""
    checkpoint: str = "last"
    """Which checkpoint: last, best (the weights of the best evaluation), or an env step that was kept."""
    resumable: bool = False
    """Upload optimisers, replay and random streams, too: larger, and `rlsuite resume` goes on with it."""
    license: str | None = None
    """The Hub's identifier of a licence for the card, e.g. mit; by default it names none."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, as at the run's start."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_checkpoint(self.checkpoint)
        if self.resumable and self.checkpoint == "best":
            raise ConfigError(
                "--resumable --checkpoint best: the best weights are kept without optimisers and replay; "
                "push them alone, or the last checkpoint resumable"
            )


def run(argv: Sequence[str]) -> int:
    """Push what the words after `rlsuite push` say; return 0."""
    args = parse(PushArgs, argv, prog=PROG, description=str(PushArgs.__doc__))
    check_run(args.run)
    import_modules(args.imports)

    from rlsuite.hub.transfer import push

    address = push(
        args.run,
        args.repo,
        which=args.checkpoint,
        revision=args.revision,
        private=args.private,
        resumable=args.resumable,
        license_name=args.license,
    )
    print(address)
    return 0
