"""Play a run's policy without exploration and print its returns."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro import conf

from rlsuite.command.arguments import check_checkpoint, check_run, check_video, import_modules, parse
from rlsuite.errors import ConfigError

PROG = "rlsuite eval"


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
    """Which checkpoint: last, best (the weights of the best evaluation), or an env step that was kept."""
    same_episodes: bool = False
    """With --checkpoint best: play the very episodes of that evaluation again, and get its return."""
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
        check_checkpoint(self.checkpoint)
        if self.same_episodes and self.checkpoint != "best":
            raise ConfigError("--same-episodes goes with --checkpoint best: other weights had no evaluation")
        if self.video_worlds > self.episodes and not self.same_episodes:
            raise ConfigError(
                f"video_worlds = {self.video_worlds}: must be from 1 to the number of episodes, "
                f"{self.episodes}"
            )
        if self.video is not None:
            check_video(self.video)


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
        same=line.same_episodes,
    )
    if line.json:
        print(json.dumps(found))
        return 0
    steps = ", ".join(f"{step:,}" for step in found.get("steps", [found["step"]]))
    which = "weights of the best evaluation" if line.checkpoint == "best" else "checkpoint"
    print(f"{found['agent']} on {found['env']}, {which} at {steps} env steps")
    changed = [f"{key} = {value}" for key, value in found["env_options"].items()]
    if changed or found["legacy_margin"]:
        print("task    " + ", ".join([*changed, *(["legacy margins"] if found["legacy_margin"] else [])]))
    lengths = found["lengths"]
    for seed, mean in zip(found["seeds"], found.get("each", ()), strict=False):
        print(f"seed {seed}: return {mean:,.1f}")
    print(f"return  {found['return_mean']:,.1f} +- {found['return_std']:,.1f} over {len(lengths)} episodes")
    print(f"length  {found['length_mean']:,.1f}, from {min(lengths):,.0f} to {max(lengths):,.0f} env steps")
    if "value_error" in found:
        print(f"critic bias {found['value_error']:+,.2f}: predicted minus achieved discounted return")
    if line.video is not None:
        print(f"video   {line.video}")
    return 0
