"""Play a run's policy without exploration and print its returns."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro import conf

from rlsuite.command.arguments import check_run, import_modules, parse
from rlsuite.errors import ConfigError

PROG = "rlsuite eval"
NAMED_CHECKPOINTS = ("best", "last")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalLine:
    """Plays deterministic episodes with the policy of a run and prints mean, spread and lengths."""

    run: conf.Positional[Path]
    """Run folder."""
    episodes: int = 10
    """Episodes, each in its own world, all of them counted."""
    seed: int | None = None
    """Seed of the initial states; by default one that training never used."""
    seed_index: int | None = None
    """Which agent of a run with several seeds, from 0; by default all of them."""
    checkpoint: str = "last"
    """Which checkpoint: last, best (by evaluation in training), or an env step that was kept."""
    video: Path | None = None
    """mp4 file for the first episode (needs the extra `video`)."""
    video_worlds: int = 1
    """Episodes that the video shows side by side, e.g. 9."""
    json: bool = False
    """Print one JSON object and nothing else."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, as at the run's start."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        if self.episodes < 1:
            raise ConfigError(f"episodes = {self.episodes}: must be at least 1")
        if self.checkpoint not in NAMED_CHECKPOINTS and not self.checkpoint.isdecimal():
            raise ConfigError(f'checkpoint = "{self.checkpoint}" is neither best, last nor an env step')


def run(argv: Sequence[str]) -> int:
    """Evaluate what the words after `rlsuite eval` say; return 0."""
    line = parse(EvalLine, argv, prog=PROG, description=str(EvalLine.__doc__))
    check_run(line.run)
    import_modules(line.imports)

    from rlsuite.training.evaluate import evaluate_run

    found = evaluate_run(
        line.run,
        episodes=line.episodes,
        seed=line.seed,
        video=line.video,
        which=line.checkpoint,
        seed_index=line.seed_index,
        video_worlds=line.video_worlds,
    )
    if line.json:
        print(json.dumps(found))
        return 0
    print(f"{found['agent']} on {found['env']}, checkpoint at {found['step']:,} env steps")
    changed = [f"{key} = {value}" for key, value in found["env_options"].items()]
    if changed or found["legacy_margin"]:
        print("task    " + ", ".join([*changed, *(["legacy margins"] if found["legacy_margin"] else [])]))
    lengths = found["lengths"]
    for seed, mean in zip(found["seeds"], found.get("each", ()), strict=False):
        print(f"seed {seed}: return {mean:,.1f}")
    print(f"return  {found['return_mean']:,.1f} +- {found['return_std']:,.1f} over {len(lengths)} episodes")
    print(f"length  {found['length_mean']:,.1f}, from {min(lengths):,.0f} to {max(lengths):,.0f} env steps")
    if "value_error" in found:
        print(f"value   {found['value_error']:+,.2f}: what the critics promised above what came")
    if line.video is not None:
        print(f"video   {line.video}")
    return 0
