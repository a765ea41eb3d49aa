"""Write a run's policy as one file that needs nothing of ours: ONNX or torch.export."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro import conf

from rlsuite.command.arguments import check_checkpoint, check_run, import_modules, parse
from rlsuite.errors import ConfigError

PROG = "rlsuite export"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportArgs:
    """Writes the evaluation policy of a run, its normaliser and the action's range as one graph."""

    run: conf.Positional[Path]
    """Run folder."""
    format: Literal["onnx", "torch"] = "onnx"
    """onnx, for ONNX Runtime, or torch: an archive that torch.export.load reads."""
    out: Path | None = None
    """File to write; by default AGENT-ENV.onnx or .pt2 in the run folder. Facts go to a .json beside it."""
    checkpoint: str = "last"
    """Which checkpoint: last, best (the weights of the best evaluation), or an env step that was kept."""
    seed_index: int = 0
    """Which agent of a run with several seeds, from 0."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, as at the run's start."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_checkpoint(self.checkpoint)
        if self.seed_index < 0:
            raise ConfigError(f"seed_index = {self.seed_index}: agents are counted from 0")


def run(argv: Sequence[str]) -> int:
    """Export what the words after `rlsuite export` say; return 0."""
    args = parse(ExportArgs, argv, prog=PROG, description=str(ExportArgs.__doc__))
    check_run(args.run)
    import_modules(args.imports)

    from rlsuite.training.export import export

    made = export(args.run, args.format, args.out, which=args.checkpoint, seed_index=args.seed_index)
    facts = made.facts
    where = f"{facts['agent']} on {facts['env']}, {facts['env_steps']:,} env steps, seed {facts['seed']}"
    print(f"{made.path}: {where}")
    print(f"acts like the policy within {made.difference:.1e} of half the action's range")
    return 0
