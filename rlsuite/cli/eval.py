"""Play a run's policy without exploration and print its returns."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro import conf

from rlsuite.bounds import Bounds, EnvCount, check_bounds
from rlsuite.command.arguments import (
    check_checkpoint,
    check_run,
    check_video,
    import_modules,
    option_values,
    parse,
)
from rlsuite.command.helptext import HelpPage
from rlsuite.errors import ConfigError

PROG = "rlsuite eval"


PAGE = HelpPage(
    topics={
        "policy and episodes": (
            "checkpoint",
            "episodes",
            "seed",
            "seed_index",
            "same_episodes",
            "agent_option",
            "import",
        ),
        "output": ("video", "video_envs", "json"),
    },
    examples=(
        f"{PROG} runs/pendulum --checkpoint best --episodes 20",
        f"{PROG} runs/pendulum --checkpoint best --same-episodes    # its return, to the last digit",
        f"{PROG} runs/pendulum --checkpoint best --episodes 9 --video film.mp4 --video-envs 9",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalArgs:
    """Plays deterministic episodes with the policy of a run and prints mean, std and lengths."""

    run: conf.Positional[Path]
    """Run folder."""
    episodes: EnvCount = 10
    """Episodes, each in its own env, all of them counted."""
    seed: Annotated[int | None, Bounds(0)] = None
    """Seed of the initial states; by default one that training never used."""
    seed_index: Annotated[int | None, Bounds(0)] = None
    """Which agent of a run with several seeds, from 0; by default all of them."""
    checkpoint: str = "last"
    """Which checkpoint: last, best (the weights of the best evaluation), or an env step that was kept."""
    same_episodes: bool = False
    """With --checkpoint best: play the very episodes of that evaluation again, and get its return."""
    video: Path | None = None
    """mp4 file for the first episode (needs the extra `video`)."""
    video_envs: Annotated[int, Bounds(1, 1_024), conf.arg(aliases=["--video-worlds"])] = 1
    """Episodes that the video shows side by side, e.g. 9."""
    agent_option: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(metavar="KEY=VALUE")] = ()
    """Another value of a field of the agent that its policy reads, e.g. strength=8 of famo2o; may be given
    several times."""
    json: bool = False
    """Print one JSON object and nothing else."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, as at the run's start."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)
        check_checkpoint(self.checkpoint)
        if self.same_episodes and self.checkpoint != "best":
            raise ConfigError("--same-episodes goes with --checkpoint best: other weights had no evaluation")
        if self.video_envs > self.episodes and not self.same_episodes:
            raise ConfigError(
                f"video_envs = {self.video_envs}: must be from 1 to the number of episodes, {self.episodes}"
            )
        if self.video is not None:
            check_video(self.video)


def run(argv: Sequence[str]) -> int:
    """Evaluate what the words after `rlsuite eval` say; return 0."""
    args = parse(EvalArgs, argv, prog=PROG, description=str(EvalArgs.__doc__), page=PAGE)
    check_run(args.run)
    import_modules(args.imports)

    from rlsuite.training.evaluate import evaluate_run

    metrics = evaluate_run(
        args.run,
        episodes=args.episodes,
        seed=args.seed,
        video=args.video,
        which=args.checkpoint,
        seed_index=args.seed_index,
        video_envs=args.video_envs,
        same=args.same_episodes,
        agent_options=option_values(args.agent_option, "--agent-option"),
    )
    if args.json:
        print(json.dumps(metrics))
        return 0
    steps = ", ".join(f"{step:,}" for step in metrics.get("steps", [metrics["step"]]))
    which = "weights of the best evaluation" if args.checkpoint == "best" else "checkpoint"
    print(f"{metrics['agent']} on {metrics['env']}, {which} at {steps} env steps")
    changed = [f"{key} = {value}" for key, value in metrics["env_options"].items()]
    if changed or metrics["legacy_margin"]:
        print("task    " + ", ".join([*changed, *(["legacy margins"] if metrics["legacy_margin"] else [])]))
    lengths = metrics["lengths"]
    for seed, mean in zip(metrics["seeds"], metrics.get("each", ()), strict=False):
        print(f"seed {seed}: return {mean:,.1f}")
    print(
        f"return  {metrics['return_mean']:,.1f} +- {metrics['return_std']:,.1f} over {len(lengths)} episodes"
    )
    print(f"length  {metrics['length_mean']:,.1f}, from {min(lengths):,.0f} to {max(lengths):,.0f} env steps")
    if won := metrics.get("success"):
        print(f"success {sum(won):,.0f} of {len(won):,} episodes")
    if "value_error" in metrics:
        print(f"critic bias {metrics['value_error']:+,.2f}: predicted minus achieved discounted return")
    if args.video is not None:
        print(f"video   {args.video}")
    return 0
