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

from rlsuite.bench.spaces import digest_of, example, is_whole, read_space, words_of
from rlsuite.errors import ConfigError, NumericalError, RLSuiteError
from rlsuite.launch.flags import LaunchFlags
from rlsuite.launch.plan import Plan, resolve, task_of
from rlsuite.launch.queue import Launcher, Restarted
from rlsuite.launch.task import INTERRUPTED, POLL_SECONDS, Task
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import METRICS_FILE
from rlsuite.runs.signals import StopFlag
from rlsuite.training.recorder import EVAL_RETURN, OWNER_KEY

STUDY_FILE, TRIALS_FILE = "study.log", "trials.csv"
BEST_FILE, IMPORTANCE_FILE = "best.sh", "importance.png"
FOLDER_KEY = "folder"  # of a trial's attributes
STARTUP_TRIALS = 5  # drawn at random, and finished before any is pruned
FAILURES = 5  # runs in a row: a wrong flag fails them all, a bad node or value only some


@dataclass(frozen=True, kw_only=True)
class SweepLine(LaunchFlags):
    """Searches an agent's hyper-parameters; flags after `--` go to every `rlsuite train`."""

    agent: conf.Positional[str]
    """Agent to tune."""
    env: str = ""
    """Environment, as in rlsuite train; may be empty with a data set that names its own."""
    dataset: str = ""
    """Data set of an offline agent."""
    trials: int = 30
    """Trials in all, those of earlier calls included."""
    seeds: int = 2
    """Independent agents of each trial, in one process; their mean is the trial's score."""
    steps: int = 100_000
    """Env steps of a run, or updates on a data set."""
    evaluations: int = 10
    """Evaluations of a run; pruning looks at each, the score is the last."""
    threads: int = 1
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
        for name in ("trials", "seeds", "steps", "evaluations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        if not self.env and not self.dataset:
            raise ConfigError("name what to train on: --env ENV, or --dataset DATA")

    @property
    def folder(self) -> Path:
        """Where the study lies."""
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


def main(line: SweepLine, extra: Sequence[str] = ()) -> int:
    """Run trials until there are enough; return 0, or 75 when interrupted.

    Args:
        line: what to tune, and how long.
        extra: further flags of `rlsuite train` for every run.

    Raises:
        ConfigError: Optuna is missing, the space is wrong, or the folder holds another study.
        RLSuiteError: `FAILURES` runs failed one after the other.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError('a sweep needs Optuna: pip install "rlsuite[sweep]"') from error
    space = read_space(line.agent, line.space)
    plan_of(
        line, extra, {name: example(name, entry) for name, entry in space.items()}
    )  # wrong flags show now
    line.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(line, space, extra)
    states = optuna.trial.TrialState
    done = (states.COMPLETE, states.PRUNED)
    running: list[Running] = []
    failures: list[str] = []  # since the last run that did not fail
    with line.make_launcher() as launcher, StopFlag() as stop:
        at_once = launcher.slots or line.trials
        while True:
            leaving = bool(stop.stop) or len(failures) >= FAILURES
            finished = len(study.get_trials(deepcopy=False, states=done))
            under_way = sum(len(one.trials) for one in running)
            wanted = line.trials - finished - under_way
            if not running and (wanted <= 0 or leaving):
                break
            if wanted > 0 and under_way < at_once and not leaving:
                start(running, launcher, study, line, space, extra)
                continue
            if leaving:
                for one in running:
                    one.end()
            for one in running:
                follow(one, prune=line.prune and not leaving)
            for one in list(running):
                if (code := one.job.poll()) is not None:
                    running.remove(one)
                    failure = finish(study, one, code, interrupted=leaving)
                    if failure:
                        failures.append(failure)
                    elif not leaving:
                        failures.clear()
            time.sleep(POLL_SECONDS)
    write_results(study, line, extra)
    if len(failures) >= FAILURES:
        raise RLSuiteError(
            f"{len(failures)} runs in a row failed; the last: {failures[-1]}. Mend the cause and give the "
            "same command again: it goes on"
        )
    return INTERRUPTED if stop.stop else 0


def open_study(line: SweepLine, space: Mapping[str, Any], extra: Sequence[str]) -> Any:
    """Open or make the study; trials that were under way are put back at the head of the queue.

    Raises:
        ConfigError: the folder holds a study of other settings.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(line.folder / STUDY_FILE)))
    before = storage.get_n_trials(found[0]._study_id) if (found := storage.get_all_studies()) else 0
    # A sampler begins anew with every process: without `before` it would draw the first trials again.
    study = optuna.create_study(
        study_name="sweep",
        storage=storage,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=line.seed + before, n_startup_trials=STARTUP_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS) if line.prune else None,
        load_if_exists=True,
    )
    same = ("agent", "env", "dataset", "seeds", "steps", "evaluations")
    settings = {name: getattr(line, name) for name in same} | {"space": dict(space), "extra": list(extra)}
    text = json.dumps(settings, sort_keys=True)
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", text)
    elif known != text:
        raise ConfigError(
            f"{line.folder} holds a sweep of other settings ({known}), asked for is {text}: "
            "choose another --out"
        )
    for open_trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.enqueue_trial(open_trial.params)
        study.tell(open_trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def start(
    running: list[Running],
    launcher: Launcher,
    study: Any,
    line: SweepLine,
    space: Mapping[str, Any],
    extra: Sequence[str],
) -> None:
    """Draw a trial and start its run, or go on with the run that these values have already.

    Where that run is under way, the trial joins it: two processes cannot share a run folder.
    """
    trial = study.ask()
    values = {name: suggest(trial, name, entry) for name, entry in space.items()}
    plan = plan_of(line, extra, values)
    path = line.folder / f"run-{digest_of(values)}"
    trial.set_user_attr(FOLDER_KEY, path.name)
    shown = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
    print(f"trial {trial.number}: {shown}", flush=True)
    one = next((one for one in running if one.path == path), None)
    if one is None:
        log = Path.cwd() / line.folder / f"{path.name}.log"
        task = task_of(plan, path, log) or Task(("list", "agents"), log)  # finished already: only to be told
        one = Running(Restarted(launcher, path.name, task), path, plan.config.train.seeds)
        running.append(one)
    one.join(trial)


def suggest(trial: Any, name: str, entry: Mapping[str, Any]) -> Any:
    """Draw one value."""
    if "choices" in entry:
        return trial.suggest_categorical(name, entry["choices"])
    draw = trial.suggest_int if is_whole(entry) else trial.suggest_float
    return draw(name, entry["low"], entry["high"], log=bool(entry.get("log")))


def plan_of(line: SweepLine, extra: Sequence[str], values: Mapping[str, Any]) -> Plan:
    """Resolve the run of one set of values."""
    words = ["--steps", str(line.steps), "--seeds", str(line.seeds), "--threads", str(line.threads)]
    words += ["--eval-every", str(-(-line.steps // line.evaluations))]
    words += ["--env", line.env] if line.env else []
    words += ["--dataset", line.dataset] if line.dataset else []
    return resolve(line.agent, [*words, *words_of(values), *extra])


def scores(path: Path, seeds: int) -> list[tuple[int, float]]:
    """Return (step, mean over seeds) of a run's evaluations; diverged seeds make it minus infinity.

    Args:
        path: the run folder.
        seeds: agents of the run. Each writes a line of its own: a step counts once all are there.
    """
    found: dict[int, dict[int | None, float]] = {}
    metrics = path / METRICS_FILE
    for record in read_metrics(metrics) if metrics.exists() else ():
        if EVAL_RETURN in record:
            value = record[EVAL_RETURN]
            each = found.setdefault(record["step"], {})
            each[record.get(OWNER_KEY)] = float("-inf") if value is None else value
    whole = ((step, each.values()) for step, each in sorted(found.items()) if len(each) == seeds)
    return [(step, sum(values) / seeds) for step, values in whole]


def follow(one: Running, *, prune: bool) -> None:
    """Tell the study the evaluations that are new, and stop the run where its pruner says so."""
    metrics = one.path / METRICS_FILE
    size = metrics.stat().st_size if metrics.exists() else 0
    if size == one.read:
        return
    one.read = size
    for at, (step, score) in enumerate(scores(one.path, one.seeds)[one.told :], one.told):
        one.told = at + 1
        for trial in one.trials:
            trial.report(score, step)
            if prune and trial.should_prune():
                one.end()


def finish(study: Any, one: Running, code: int, *, interrupted: bool) -> str | None:
    """Tell the study how a run ended; an interrupted one stays open. Return what went wrong, if anything did.

    Args:
        study: Optuna's.
        one: the run, with its trials.
        code: its exit code.
        interrupted: whether runs were told to leave for another reason than their scores.
    """
    import optuna

    follow(one, prune=False)
    found = scores(one.path, one.seeds)
    states = optuna.trial.TrialState
    if interrupted and code == INTERRUPTED:
        return None
    state, value, failure = states.PRUNED, None, None
    if one.ended and code == INTERRUPTED and found:
        said = f"pruned at {found[-1][0]:,}, {found[-1][1]:,.1f}"
    elif code == 0 and found:
        state, value, said = states.COMPLETE, found[-1][1], f"{found[-1][1]:,.1f}"
    elif code == NumericalError.exit_code:  # the worst there is, so that the sampler stays away
        said = f"diverged, see {one.path.name}"
    else:
        how = f"failed with exit code {code}" if code else "ended without an evaluation"
        state, said = states.FAIL, f"{how}, see {one.path}.log"
        failure = f"trial {one.trials[0].number} {said}"
    for trial in one.trials:
        study.tell(trial, value, state=state)
        print(f"trial {trial.number}: {said}", flush=True)
    return failure


def write_results(study: Any, line: SweepLine, extra: Sequence[str]) -> None:
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
    write_csv(line.folder / TRIALS_FILE, ("trial", "state", "score", "run", *names), rows)
    complete = [trial for trial in trials if trial.state == states.COMPLETE]
    if not complete:
        return
    best = study.best_trial
    command = shlex.join(("rlsuite", "train", line.agent, *plan_of(line, extra, best.params).words))
    said = f"best of {len(complete)} complete trials: {best.value:,.1f}, {best.user_attrs.get(FOLDER_KEY)}"
    (line.folder / BEST_FILE).write_text(f"# {said}\n{command}\n", encoding="utf-8")
    print(f"{said}\n{command}", flush=True)
    if len(complete) > 2 and len(names) > 1:
        plot_importance(study, line.folder / IMPORTANCE_FILE)


def plot_importance(study: Any, path: Path) -> None:
    """Draw how much each flag mattered (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255)."""
    import matplotlib
    import optuna

    matplotlib.use("Agg")
    from matplotlib import pyplot

    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    figure, axes = pyplot.subplots(figsize=(6, 0.5 * len(shares) + 1), dpi=150)
    axes.barh(list(shares)[::-1], list(shares.values())[::-1], color="#0072b2")
    axes.set(xlabel="importance")
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
