"""Agents on environments with seeds, from one command to one page.

Every run is a run folder of its own, so what is finished stays and what was interrupted goes on. Where a
study stands is read from its folders alone: any shell can ask, while it runs and after it was killed.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from rlsuite.bench.d4rl import names
from rlsuite.bounds import AtLeastOne, Bounds, SeedCount, ThreadCount
from rlsuite.command.helptext import HelpPage
from rlsuite.errors import ConfigError, DataError
from rlsuite.launch.flags import LaunchFlags
from rlsuite.launch.plan import LOG_FOLDER, RunPlan, pending, resolve, seed_groups, task_of
from rlsuite.launch.queue import run_all, worst
from rlsuite.launch.task import INTERRUPTED, LaunchTask, in_use
from rlsuite.report.sequential import decided, running_interval
from rlsuite.report.statistics import LEVEL
from rlsuite.report.study import seed_curves
from rlsuite.report.write import write_report
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.config import TrainConfig, updates_of
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import CHECKPOINT_FOLDER, CONFIG_FILE, METRICS_FILE

REPORT_FOLDER = "report"
FAILED_SUFFIX = ".failed"  # beside a log: the exit code of a run that failed
STATES = ("finished", "running", "interrupted", "failed", "waiting")


PAGE = HelpPage(
    topics={
        "what is compared": ("agents", "envs", "seeds", "steps", "out"),
        "runs": ("jobs", "threads", "launcher"),
        "until it is decided": ("until_decided", "max_seeds", "turn"),
        "report": ("report", "videos", "status"),
    },
    required=("envs",),
    examples=(
        "rlsuite bench study --agents sac,td3 --envs Hopper,Walker2d --seeds 4 --jobs 4",
        "rlsuite bench study --agents dsac_t,dsac_t:paper --envs HalfCheetah --status",
        "rlsuite bench study --agents sac,td3 --envs Hopper --until-decided --max-seeds 20 --jobs 4",
    ),
)


@dataclass(frozen=True, kw_only=True)
class StudyArgs(LaunchFlags):
    """Trains every agent on every environment with several seeds, and reports them on one page.

    The same command goes on with a study that was stopped or killed.
    """

    agents: str = "dsac_t,sac,td3"
    """Agents, separated by commas; AGENT:PRESET takes a preset."""
    envs: str = ""
    """Environments, separated by commas: HalfCheetah,gym:Pendulum-v1."""
    seeds: SeedCount = 4
    """Seeds 0, 1, ... of every pair."""
    seeds_per_run: AtLeastOne = 1
    """Seeds that share a process and a run folder."""
    steps: Annotated[int | None, Bounds(1)] = None
    """Env steps of every run; by default the preset's."""
    threads: ThreadCount = 1
    """CPU threads of each run; 0 takes all cores."""
    out: Path = Path("runs/study")
    """Folder of the runs, logs and the report."""
    report: bool = True
    """Write the page at the end, of what has an evaluation by then."""
    videos: bool = False
    """With a video of each agent and environment on it, as `rlsuite report --videos`."""
    until_decided: bool = False
    """Of two agents: add seeds to every environment until the interval of their difference leaves zero."""
    max_seeds: SeedCount = 20
    """With --until-decided: seeds of every agent at which it ends undecided."""
    turn: AtLeastOne = 1
    """With --until-decided: seeds added at a time, e.g. half of --jobs."""
    status: bool = False
    """Only say where the study stands."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        super().__post_init__()
        if not names(self.agents) or not names(self.envs):
            raise ConfigError("give --agents and --envs at least one name each, e.g. --envs gym:Pendulum-v1")
        if self.until_decided and len(names(self.agents)) != 2:
            raise ConfigError(f"--until-decided compares two agents, and --agents {self.agents} are not two")
        if self.until_decided and (self.seeds_per_run != 1 or self.max_seeds < self.seeds):
            raise ConfigError(
                f"--until-decided: a run has one seed (--seeds-per-run 1), and --max-seeds {self.max_seeds} "
                f"must not be below --seeds {self.seeds}"
            )


class Pair(NamedTuple):
    """One agent on one environment."""

    agent: str
    env: str


class Progress(NamedTuple):
    """Progress of one run.

    Attributes:
        state: one of `STATES`.
        steps: env steps of its newest line of metrics.
        goal: env steps at its end.
    """

    state: str
    steps: int
    goal: int


def main(args: StudyArgs, extra: Sequence[str] = ()) -> int:
    """Train what is missing, then report; return 0, or the exit code of what did not finish.

    Args:
        line: what to train on what.
        extra: further flags of `rlsuite train` for every run.

    Raises:
        ConfigError: a name is unknown, or a run folder holds something else.
    """
    if args.until_decided and not args.status:
        plans, codes = until_decided(args, extra)
    else:
        plans, codes = plans_of(args, extra), {}
        if args.status:
            print(table(plans, args), flush=True)
            return 0
        codes = run_plans(plans, args)
    print(f"\n{table(plans, args)}", flush=True)
    runs = [args.out / name for group in plans.values() for name in group if evaluated(args.out / name)]
    if runs and args.report:
        for text in write_report(runs, args.out / REPORT_FOLDER, videos=args.videos):
            print(text)
    return worst(codes)


Plans = dict[Pair, dict[str, RunPlan]]


def plans_of(args: StudyArgs, extra: Sequence[str]) -> Plans:
    """Return the runs of every pair."""
    return {
        Pair(agent, env): pair_plans(agent, env, args, extra)
        for agent in names(args.agents)
        for env in names(args.envs)
    }


def run_plans(plans: Plans, args: StudyArgs) -> dict[str, int]:
    """Carry out what is not finished; return exit codes by name."""
    tasks: dict[str, LaunchTask] = {}
    for group in plans.values():
        for name, plan in group.items():
            if (task := task_of(plan, args.out / name, log_of(args, name))) is not None:
                tasks[name] = task
                failed_file(args, name).unlink(missing_ok=True)
    codes: dict[str, int] = {}
    if tasks:
        print(f"{table(plans, args)}\n", flush=True)

        def told(name: str, code: int) -> None:
            if code not in (0, INTERRUPTED):
                failed_file(args, name).write_text(f"{code}\n")

        with args.make_launcher() as launcher:
            (args.out / LOG_FOLDER).mkdir(parents=True, exist_ok=True)
            codes = run_all(tasks, launcher, told)
    return codes


def until_decided(args: StudyArgs, extra: Sequence[str]) -> tuple[Plans, dict[str, int]]:
    """Add seeds to every environment until it is decided or has `max_seeds`; return what was run, and codes.

    A study that goes on looks again at every number of seeds, and decides as before. The level is shared out
    over the environments: the chance that any of them is decided wrongly is at most 5 %.
    """
    first, second = names(args.agents)
    level = 1 - (1 - LEVEL) / len(names(args.envs))
    whole = plans_of(dataclasses.replace(args, seeds=args.max_seeds), extra)
    left, plans, codes = list(names(args.envs)), Plans(), dict[str, int]()
    for count in [*range(args.seeds, args.max_seeds, args.turn), args.max_seeds]:
        turn = {
            pair: dict(itertools.islice(group.items(), count))
            for pair, group in whole.items()
            if pair.env in left
        }
        plans |= turn
        codes |= run_plans(turn, args)
        if worst(codes):
            break
        for env in list(left):
            sides = [final_scores(plans[Pair(agent, env)], args) for agent in (first, second)]
            interval = running_interval(sides[0] - sides[1], level)
            bounds = f"[{interval.low:+,.1f}, {interval.high:+,.1f}]"
            print(f"{env}, {count} seeds: {first} - {second} = {interval.value:+,.1f} {bounds}", flush=True)
            if decided(interval):
                left.remove(env)
                print(f"{env}: decided, {first if interval.value > 0 else second} is better", flush=True)
        if not left:
            break
    else:
        print(f"not decided with {args.max_seeds} seeds: {', '.join(left)}", flush=True)
    return plans, codes


def final_scores(plans: Mapping[str, RunPlan], args: StudyArgs) -> np.ndarray:
    """Return the last evaluation of every run of a pair, by seed.

    Raises:
        DataError: a run has none.
    """
    curves = [curve for name in plans for curve in seed_curves(args.out / name)]
    if len(curves) != len(plans):
        raise DataError(f"runs in {args.out} without an evaluation: give them --eval-every above 0")
    return np.array([curve.returns[-1] for curve in sorted(curves, key=lambda curve: curve.seed)])


def pair_plans(agent: str, env: str, args: StudyArgs, extra: Sequence[str]) -> dict[str, RunPlan]:
    """Resolve the runs of one pair, by the names of their folders.

    Raises:
        ConfigError: a wrong name or flag, or runs too short to learn anything.
    """
    agent, _, preset = agent.partition(":")
    shared = ["--env", env, "--threads", str(args.threads)]
    shared += ["--preset", preset] if preset else []
    shared += ["--steps", str(args.steps)] if args.steps is not None else []
    label = f"{agent}-{preset}" if preset else agent
    sizes = [min(args.seeds_per_run, args.seeds - at) for at in range(0, args.seeds, args.seeds_per_run)]
    where = env.replace(":", "-").replace("/", "-")
    plans = {
        f"{label}-{where}-{named}": resolve(agent, [*shared, *seed_words, *extra])
        for named, seed_words in seed_groups(0, sizes).items()
    }
    train = next(iter(plans.values())).config.train
    if isinstance(train, TrainConfig) and updates_of(train) < 1:
        raise ConfigError(
            f"{label} on {env}: {train.steps:,} env steps end before the first update, warmup_steps = "
            f"{train.warmup_steps:,}; take more --steps, or end the line with: -- --warmup-steps "
            f"{train.steps // 5}"
        )
    return plans


def log_of(args: StudyArgs, name: str) -> Path:
    """Return the log file of a run."""
    return args.out / LOG_FOLDER / f"{name}.log"


def failed_file(args: StudyArgs, name: str) -> Path:
    """Return where the exit code of a failed run is kept."""
    return log_of(args, name).with_suffix(FAILED_SUFFIX)


def evaluated(path: Path) -> bool:
    """Return whether a run has an evaluation that a report can show."""
    metrics = path / METRICS_FILE
    return metrics.exists() and any(r.get("eval/return_mean") is not None for r in read_metrics(metrics))


def progress(plan: RunPlan, args: StudyArgs, name: str) -> Progress:
    """Read where a run stands.

    Raises:
        ConfigError: the folder holds a run with other settings.
    """
    path, goal = args.out / name, plan.config.train.steps
    steps = CheckpointStore(path / CHECKPOINT_FOLDER).steps()
    done = max([steps[-1] if steps else 0, newest_step(path / METRICS_FILE)])
    if in_use(LaunchTask((), log_of(args, name), path), elsewhere=True):
        return Progress("running", done, goal)
    if not (path / CONFIG_FILE).is_file():
        return Progress("failed" if failed_file(args, name).exists() else "waiting", 0, goal)
    if pending(plan, path) is None:
        return Progress("finished", goal, goal)
    return Progress("failed" if failed_file(args, name).exists() else "interrupted", done, goal)


def newest_step(metrics: Path) -> int:
    """Return the env steps of the last whole line of metrics."""
    last = 0
    for text in metrics.read_text("utf-8").splitlines()[-2:] if metrics.exists() else ():
        try:
            last = int(json.loads(text)["step"])
        except (ValueError, KeyError, TypeError):  # a line that is being written
            continue
    return last


def table(plans: Mapping[Pair, Mapping[str, RunPlan]], args: StudyArgs) -> str:
    """Return what is done and what is left: a row for every pair, runs by their state."""
    heads = ("agent", "environment", *STATES, "env steps")
    rows: list[tuple[str, ...]] = []
    total = dict.fromkeys(STATES, 0)
    for (agent, env), group in plans.items():
        standing = [progress(plan, args, name) for name, plan in group.items()]
        counts = {state: sum(run.state == state for run in standing) for state in STATES}
        for state, count in counts.items():
            total[state] += count
        steps = f"{sum(run.steps for run in standing):,} of {sum(run.goal for run in standing):,}"
        rows.append((agent, env, *(str(counts[state] or "-") for state in STATES), steps))
    rows.append(("all", "", *(str(total[state] or "-") for state in STATES), ""))
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    filled = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
    for group in plans.values():
        for name in group:
            if (failed := failed_file(args, name)).exists():
                filled.append(f"{name}: exit code {failed.read_text().strip()}, see {log_of(args, name)}")
    return "\n".join(filled)
