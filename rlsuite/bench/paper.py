"""Our agents in the regime of the STAC paper (arXiv 2601.00737), over its published curves.

One evaluation episode every 1,000 env steps. Every run is a run folder of its own, so what is finished stays
and what was interrupted goes on.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from rlsuite.bounds import Bounds, NotNegative, ThreadCount
from rlsuite.errors import ConfigError
from rlsuite.launch.flags import LaunchFlags
from rlsuite.launch.plan import RunPlan, resolve, run_here, tasks_of
from rlsuite.launch.queue import run_all, worst
from rlsuite.presets import load_preset
from rlsuite.registry import env_names, plain_env_name
from rlsuite.report.comparison import BLOCK_STEPS, our_curves, published_curves, report
from rlsuite.runs.runfolder import RunFolder

PUBLISHED_VARIABLE = "RLSUITE_PUBLISHED"  # environment variable with the path of the published curves
EVAL_EVERY, EVAL_EPISODES = 1_000, 1  # the paper's


class Contender(NamedTuple):
    """What the paper calls an algorithm, as an agent and a preset of ours; None: not in the paper."""

    agent: str
    preset: str
    published: str | None


CONTENDERS = {
    "stac": Contender("stac", "default", "STAC"),
    "estac": Contender("stac", "estac", "ESTAC"),
    "sac": Contender("sac", "stac_paper", "SAC"),
}


@dataclass(frozen=True, kw_only=True)
class PaperArgs(LaunchFlags):
    """Trains agents as the STAC paper did and plots them over its published curves, seed by seed."""

    task: str
    """Environment, as in the published file, with or without gym: Swimmer-v4, LunarLander-v3, ..."""
    agents: str = "stac,sac"
    """Contenders, separated by commas: stac, estac, sac (the paper's, with LayerNorm), or any other agent."""
    steps: Annotated[int, Bounds(BLOCK_STEPS)] = 300_000
    """Env steps of every run."""
    seeds: NotNegative = 3
    """Runs of each contender: seeds 0, 1, ..."""
    threads: ThreadCount = 1
    """CPU threads of a run; 0 takes all cores."""
    out: Path | None = None
    """Folder of the runs, tables and the picture; by default runs/paper-TASK. What is finished is kept."""
    published: Path | None = None
    """CSV of published curves (env, algorithm, seed, env_step, mean_return, mean_value_error); by default the
    file that RLSUITE_PUBLISHED names, and without either ours are plotted alone."""
    include: tuple[Path, ...] = ()
    """Runs made elsewhere, to plot beside or instead of (--seeds 0) those made here."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        super().__post_init__()
        if not self.names:
            raise ConfigError(f"agents = {self.agents!r} names none: for example --agents stac,sac")

    @property
    def names(self) -> list[str]:
        """The contenders, each once."""
        return list(dict.fromkeys(name for name in self.agents.replace(" ", "").split(",") if name))


def contender(name: str) -> Contender:
    """Return what `name` stands for: one of `CONTENDERS`, or an agent in its default preset."""
    return CONTENDERS.get(name, Contender(name, "default", None))


def env_id(task: str) -> str:
    """Return what `--env` says for a task of the published file: `gym:` before what is no task of ours."""
    ours = {name for name, _ in env_names()}
    return task if ":" in task or task in ours or plain_env_name(task) in ours else f"gym:{task}"


def main(args: PaperArgs, extra: Sequence[str] = ()) -> int:
    """Train what is missing, then report; return 0, or the exit code of the run that was interrupted.

    Args:
        line: what to compare.
        extra: further flags of `rlsuite train` for every run.
    """
    out = args.out or Path("runs") / f"paper-{args.task.replace(':', '-')}"
    named = os.environ.get(PUBLISHED_VARIABLE)
    published = args.published or (Path(named) if named else None)
    if published is not None and not published.is_file():
        raise ConfigError(f"there is no file {published}: give --published the CSV of published curves")
    plans = {(name, seed): plan(name, seed, args, extra) for seed in range(args.seeds) for name in args.names}
    if code := carry_out({f"{name}-s{seed}": wanted for (name, seed), wanted in plans.items()}, out, args):
        return code
    runs: dict[str, list[Path]] = {name: [] for name in args.names}
    for name, seed in plans:
        runs[name].append(out / f"{name}-s{seed}")
    for path in args.include:
        runs[owner(path, args.names)].append(path)
    out.mkdir(parents=True, exist_ok=True)
    pairs = []
    for name in args.names:
        theirs, algorithm = None, contender(name).published
        if published is not None and algorithm is not None:
            theirs = published_curves(published, args.task, algorithm)
        pairs.append((our_curves(name, runs[name], args.task), theirs))
    print("\n".join(report(pairs, args.task, out)))
    print(f"tables and picture: {out}", flush=True)
    return 0


def carry_out(plans: Mapping[str, RunPlan], out: Path, args: PaperArgs) -> int:
    """Train what is missing: one after the other in this process, unless a launcher or --jobs is named."""
    if args.launcher == "local" and args.jobs in (None, 1):
        return next((code for name, wanted in plans.items() if (code := run_here(wanted, out / name))), 0)
    with args.make_launcher() as launcher:
        return worst(run_all(tasks_of(plans, out), launcher))


def plan(name: str, seed: int, args: PaperArgs, extra: Sequence[str]) -> RunPlan:
    """Resolve one run of a contender."""
    agent, preset, _ = contender(name)
    env = env_id(args.task)
    argv = ["--env", env, "--preset", preset, "--steps", str(args.steps), "--seed", str(seed)]
    argv += ["--threads", str(args.threads), "--eval-every", str(EVAL_EVERY)]
    argv += ["--eval-episodes", str(EVAL_EPISODES)]
    # The paper's options of the task, for agents that it does not have, too.
    options = load_preset("stac", "default", env)[0].get("env_options", {})
    for key, value in options.items():
        argv += ["--env-option", f"{key}={json.dumps(value)}"]
    return resolve(agent, [*argv, *extra])


def owner(path: Path, names: Sequence[str]) -> str:
    """Return which contender a run belongs to, by its agent and preset.

    Raises:
        ConfigError: to none.
    """
    config = RunFolder.open(path).config()
    for name in names:
        if contender(name)[:2] == (config["agent_name"], config["preset"]):
            return name
    made_by = f"{config['agent_name']} with preset {config['preset']}"
    raise ConfigError(f"--include {path}: {made_by} is none of {', '.join(names)}")
