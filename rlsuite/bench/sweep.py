"""Search for hyper-parameters with Optuna: one trial is one run with all its seeds, judged by their mean.

The study lies in `study.log` of the sweep's folder, the runs beside it. A sweep that was stopped or killed
goes on: finished trials stay, a trial that was under way continues in its run folder. Equal values are one
run, however often they are drawn: trials that draw them again are told what it gives.
"""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro import conf

from rlsuite.bench.importance import LEAST_TRIALS, plot_importance
from rlsuite.bench.spaces import args_of, digest_of, example, read_space, suggest
from rlsuite.bounds import AtLeastOne, SeedCount, ThreadCount
from rlsuite.command.helptext import HelpPage
from rlsuite.errors import ConfigError, NumericalError, RLSuiteError
from rlsuite.launch.flags import LaunchFlags
from rlsuite.launch.plan import RunPlan, resolve, task_of
from rlsuite.launch.queue import Launcher, Restarted
from rlsuite.launch.task import INTERRUPTED, POLL_SECONDS, LaunchTask
from rlsuite.runs.config import check_learns
from rlsuite.runs.files import write_atomic
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import METRICS_FILE
from rlsuite.runs.signals import StopFlag
from rlsuite.training.recorder import EVAL_RETURN, OWNER_KEY

STUDY_FILE, TRIALS_FILE, BEST_FILE, IMPORTANCE_FILE = "study.log", "trials.csv", "best.sh", "importance.png"
FOLDER_KEY = "folder"  # of a trial's attributes
STARTUP_TRIALS = 5  # drawn at random, and finished before any is pruned
FAILURES = 5  # runs in a row: a wrong flag fails them all, a bad node or value only some


PAGE = HelpPage(
    topics={
        "search": ("env", "dataset", "trials", "seeds", "steps", "space", "out"),
        "runs": ("evaluations", "prune", "jobs", "threads"),
    },
    required=("env",),
    examples=(
        "rlsuite sweep sac --env Hopper --trials 30 --seeds 2 --steps 100_000 --jobs 2",
        "rlsuite sweep iql --dataset hopper-medium-v2 --steps 50_000 -- --eval-episodes 5",
    ),
)


@dataclass(frozen=True, kw_only=True)
class SweepArgs(LaunchFlags):
    """Searches an agent's hyper-parameters; flags after `--` go to every `rlsuite train`."""

    agent: conf.Positional[str]
    """Agent to tune."""
    env: str = ""
    """Environment, as in rlsuite train; may be empty with a data set that names its own."""
    dataset: str = ""
    """Data set of an offline agent."""
    trials: AtLeastOne = 30
    """Trials in all, those of earlier calls included."""
    seeds: SeedCount = 2
    """Independent agents of each trial, in one process; their mean is the trial's score."""
    steps: AtLeastOne = 100_000
    """Env steps of a run, or updates on a data set."""
    evaluations: AtLeastOne = 10
    """Evaluations of a run; pruning looks at each, the score is the last."""
    threads: ThreadCount = 1
    """CPU threads of each run; 0 takes all cores."""
    prune: bool = True
    """Stop a run whose score is below the median of earlier trials at the same evaluation."""
    space: Path | None = None
    """TOML file of the search space; by default the agent's own, rlsuite/configs/spaces/AGENT.toml."""
    seed: int = 0
    """Of Optuna's sampler; the runs' seeds are 0, 1, ... in every trial."""
    out: Annotated[Path | None, conf.arg(metavar="PATH")] = None
    """Folder of the study; by default runs/sweep-AGENT-ENV. What is finished is kept."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        super().__post_init__()
        if not self.env and not self.dataset:
            raise ConfigError("name what to train on: --env ENV, or --dataset DATA")

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        where = (self.env or self.dataset).replace(":", "-").replace("/", "-")
        return self.out or Path("runs") / f"sweep-{self.agent}-{where}"


@dataclass
class Running:
    """A run under way: its job, its folder, the trials that drew its values, and what they were told."""

    job: Restarted
    path: Path
    seeds: int
    trials: list[Any] = field(default_factory=list)
    told: int = 0  # evaluations
    read: int = 0  # bytes of its metrics at the last look: nothing is parsed until there are more
    ended: bool = False

    def join(self, trial: Any) -> None:
        """Add a trial, and tell it what the others know already."""
        for step, score in scores(self.path, self.seeds)[: self.told]:
            trial.report(score, step)
        self.trials.append(trial)

    def end(self) -> None:
        """Ask the run, once, to save and leave."""
        if not self.ended:
            self.ended = True
            self.job.stop()


def main(args: SweepArgs, extra: Sequence[str] = ()) -> int:
    """Run trials until there are enough; return 0, or 75 when interrupted.

    Args:
        args: what to tune, and how long.
        extra: further flags of `rlsuite train` for every run.

    Raises:
        ConfigError: Optuna is missing, the space is wrong, or the folder holds another study.
        RLSuiteError: `FAILURES` runs failed one after the other.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError('a sweep needs Optuna: pip install "rlsuite[sweep]"') from error
    space = read_space(args.agent, args.space)
    plan = plan_of(args, extra, {name: example(name, entry) for name, entry in space.items()})
    check_learns(plan.config.train)  # wrong flags, and trials that would learn nothing, show now
    args.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(args, space, extra)
    with args.make_launcher() as launcher, StopFlag() as stop:
        sweep = Sweep(args, tuple(extra), space, study, launcher)
        while sweep.goes_on(leaving := bool(stop.stop) or len(sweep.failures) >= FAILURES):
            if sweep.has_room and not leaving:
                sweep.start()
            else:
                sweep.look(leaving)
                time.sleep(POLL_SECONDS)
    write_results(study, args, extra)
    if len(sweep.failures) >= FAILURES:
        raise RLSuiteError(
            f"{len(sweep.failures)} runs in a row failed; the last: {sweep.failures[-1]}. Mend the cause and "
            "give the same command again: it goes on"
        )
    return INTERRUPTED if stop.stop else 0


@dataclass
class Sweep:
    """The trials of a study that are under way, and what became of the last ones.

    Attributes:
        args, extra, space: what is searched, with which flags, and where.
        study: Optuna's.
        launcher: carries the runs out.
        running: runs under way.
        failures: what failed since the last run that did not.
    """

    args: SweepArgs
    extra: tuple[str, ...]
    space: Mapping[str, Any]
    study: Any
    launcher: Launcher
    running: list[Running] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def under_way(self) -> int:
        """Trials whose runs have not ended."""
        return sum(len(run.trials) for run in self.running)

    @property
    def wanted(self) -> int:
        """Trials that are still to be started."""
        from optuna.trial import TrialState

        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return self.args.trials - len(done) - self.under_way

    @property
    def has_room(self) -> bool:
        """Whether a trial is wanted and the launcher has a slot for it."""
        return self.wanted > 0 and self.under_way < (self.launcher.slots or self.args.trials)

    def goes_on(self, leaving: bool) -> bool:
        """Return whether there are runs to wait for, or trials to start where the sweep is not being left."""
        return bool(self.running) or (self.wanted > 0 and not leaving)

    def start(self) -> None:
        """Draw a trial and start its run, or go on with the run that these values have already.

        Where that run is under way, the trial joins it: two processes cannot share a run folder.
        """
        trial = self.study.ask()
        values = {name: suggest(trial, name, entry) for name, entry in self.space.items()}
        plan = plan_of(self.args, self.extra, values)
        path = self.args.folder / f"run-{digest_of(values)}"
        trial.set_user_attr(FOLDER_KEY, path.name)
        shown = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
        )
        print(f"trial {trial.number}: {shown}", flush=True)
        run = next((run for run in self.running if run.path == path), None)
        if run is None:
            log = Path.cwd() / self.args.folder / f"{path.name}.log"
            # A run that is finished already starts again as a command that does nothing, only to be told.
            task = task_of(plan, path, log) or LaunchTask(("list", "agents"), log)
            run = Running(Restarted(self.launcher, path.name, task), path, plan.config.train.seeds)
            self.running.append(run)
        run.join(trial)

    def look(self, leaving: bool) -> None:
        """Tell Optuna what the runs have evaluated, and what became of those that have ended.

        Args:
            leaving: ask all runs to save and leave.
        """
        for run in self.running:
            if leaving:
                run.end()
            follow(run, prune=self.args.prune and not leaving)
        for run in list(self.running):
            code = run.job.poll()
            if code is None:
                continue
            self.running.remove(run)
            if failure := finish(self.study, run, code, interrupted=leaving):
                self.failures.append(failure)
            elif not leaving:
                self.failures.clear()


def open_study(args: SweepArgs, space: Mapping[str, Any], extra: Sequence[str]) -> Any:
    """Open or make the study; trials that were under way are put back at the head of the queue.

    Raises:
        ConfigError: the folder holds a study of other settings.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(args.folder / STUDY_FILE)))
    before = storage.get_n_trials(studies[0]._study_id) if (studies := storage.get_all_studies()) else 0
    # A sampler begins anew with every process: without `before` it would draw the first trials again.
    study = optuna.create_study(
        study_name="sweep",
        storage=storage,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=args.seed + before, n_startup_trials=STARTUP_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS) if args.prune else None,
        load_if_exists=True,
    )
    same = ("agent", "env", "dataset", "seeds", "steps", "evaluations")
    settings = {name: getattr(args, name) for name in same} | {"space": dict(space), "extra": list(extra)}
    text = json.dumps(settings, sort_keys=True)
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", text)
    elif known != text:
        raise ConfigError(
            f"{args.folder} holds a sweep of other settings ({known}), asked for is {text}: "
            "choose another --out"
        )
    for open_trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.enqueue_trial(open_trial.params)
        study.tell(open_trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def plan_of(args: SweepArgs, extra: Sequence[str], values: Mapping[str, Any]) -> RunPlan:
    """Resolve the run of one set of values."""
    shared = ["--steps", str(args.steps), "--seeds", str(args.seeds), "--threads", str(args.threads)]
    shared += ["--eval-every", str(-(-args.steps // args.evaluations))]
    shared += ["--env", args.env] if args.env else []
    shared += ["--dataset", args.dataset] if args.dataset else []
    return resolve(args.agent, [*shared, *args_of(values), *extra])


def scores(path: Path, seeds: int) -> list[tuple[int, float]]:
    """Return (step, mean over seeds) of a run's evaluations; diverged seeds make it minus infinity.

    Args:
        path: the run folder.
        seeds: agents of the run. Each writes a line of its own: a step counts once all are there.
    """
    by_step: dict[int, dict[int | None, float]] = {}
    metrics = path / METRICS_FILE
    for record in read_metrics(metrics) if metrics.exists() else ():
        if EVAL_RETURN in record:
            value = record[EVAL_RETURN]
            each = by_step.setdefault(record["step"], {})
            each[record.get(OWNER_KEY)] = float("-inf") if value is None else value
    whole = ((step, each.values()) for step, each in sorted(by_step.items()) if len(each) == seeds)
    return [(step, sum(values) / seeds) for step, values in whole]


def follow(run: Running, *, prune: bool) -> None:
    """Tell the study the evaluations that are new, and stop the run where its pruner says so."""
    metrics = run.path / METRICS_FILE
    size = metrics.stat().st_size if metrics.exists() else 0
    if size == run.read:
        return
    run.read = size
    for at, (step, score) in enumerate(scores(run.path, run.seeds)[run.told :], run.told):
        run.told = at + 1
        for trial in run.trials:
            trial.report(score, step)
            if prune and trial.should_prune():
                run.end()


def finish(study: Any, run: Running, code: int, *, interrupted: bool) -> str | None:
    """Tell the study how a run ended; an interrupted one stays open. Return what went wrong, if anything did.

    Args:
        study: Optuna's.
        one: the run, with its trials.
        code: its exit code.
        interrupted: whether runs were told to leave for another reason than their scores.
    """
    import optuna

    follow(run, prune=False)
    curve = scores(run.path, run.seeds)
    states = optuna.trial.TrialState
    if interrupted and code == INTERRUPTED:
        return None
    state, value, failure = states.PRUNED, None, None
    if run.ended and code == INTERRUPTED and curve:
        said = f"pruned at {curve[-1][0]:,}, {curve[-1][1]:,.1f}"
    elif code == 0 and curve:
        state, value, said = states.COMPLETE, curve[-1][1], f"{curve[-1][1]:,.1f}"
    elif code == NumericalError.exit_code:  # the worst there is, so that the sampler stays away
        said = f"diverged, see {run.path.name}"
    else:
        how = f"failed with exit code {code}" if code else "ended without an evaluation"
        state, said = states.FAIL, f"{how}, see {run.path}.log"
        failure = f"trial {run.trials[0].number} {said}"
    for trial in run.trials:
        study.tell(trial, value, state=state)
        print(f"trial {trial.number}: {said}", flush=True)
    return failure


def write_results(study: Any, args: SweepArgs, extra: Sequence[str]) -> None:
    """Write all trials and how much each flag mattered, write and print the command of the best trial.

    The command trains what the trial did, to the last flag, in a run folder of its own.
    """
    import optuna

    from rlsuite.report.comparison import write_csv

    states = optuna.trial.TrialState
    trials = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "score": trial.value if trial.value is not None else "",
        }
        | {"run": trial.user_attrs.get(FOLDER_KEY, "")}
        | {name: json.dumps(trial.params.get(name)) for name in names}
        for trial in trials
    ]
    write_csv(args.folder / TRIALS_FILE, ("trial", "state", "score", "run", *names), rows)
    complete = [trial for trial in trials if trial.state == states.COMPLETE]
    if not complete:
        return
    best = study.best_trial
    command = shlex.join(("rlsuite", "train", args.agent, *plan_of(args, extra, best.params).args))
    said = f"best of {len(complete)} complete trials: {best.value:,.1f}, {best.user_attrs.get(FOLDER_KEY)}"
    write_atomic(args.folder / BEST_FILE, f"# {said}\n{command}\n".encode())
    if len(complete) < LEAST_TRIALS:
        print(f"complete trials: {len(complete)}; to say what mattered {LEAST_TRIALS} are needed", flush=True)
    elif len(names) > 1:
        plot_importance(study, args.folder / IMPORTANCE_FILE)
    print(f"{said}\n{command}", flush=True)
