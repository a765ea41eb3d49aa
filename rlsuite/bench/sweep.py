"""Search for hyper-parameters with Optuna: one trial is one run with all its seeds, judged by their mean.

The study lies in `study.log` of the sweep's folder, the runs beside it. A sweep that was stopped or killed
goes on: finished trials stay, a trial that was under way continues in its run folder.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro import conf

from rlsuite.bench.runs import Plan, resolve, task_of
from rlsuite.bench.spaces import digest_of, example, is_whole, read_space, words_of
from rlsuite.errors import ConfigError
from rlsuite.launch.flags import LaunchFlags
from rlsuite.launch.queue import Launcher, Restarted
from rlsuite.launch.task import INTERRUPTED, POLL_SECONDS, Task
from rlsuite.training.metricsfile import read_metrics
from rlsuite.training.runfolder import METRICS_FILE
from rlsuite.training.signals import StopFlag

STUDY_FILE = "study.log"
FOLDER_KEY = "folder"  # of a trial's attributes
STARTUP_TRIALS = 5  # drawn at random, and finished before any is pruned


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
    """A trial under way: its job, its folder, and how many of its evaluations the study knows."""

    trial: Any
    job: Restarted
    path: Path
    told: int = 0
    read: int = 0  # bytes of its metrics at the last look: nothing is parsed until there are more
    ended: bool = False

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
    with line.make_launcher() as launcher, StopFlag() as stop:
        at_once = launcher.slots or line.trials
        while True:
            finished = len(study.get_trials(deepcopy=False, states=done))
            wanted = line.trials - finished - len(running)
            if not running and (wanted <= 0 or stop.stop):
                break
            if wanted > 0 and len(running) < at_once and not stop.stop:
                running.append(start(launcher, study, line, space, extra))
                continue
            if stop.stop:
                for one in running:
                    one.end()
            for one in running:
                follow(study, one, prune=line.prune and not stop.stop)
            for one in list(running):
                if (code := one.job.poll()) is not None:
                    running.remove(one)
                    finish(study, one, code, interrupted=bool(stop.stop))
            time.sleep(POLL_SECONDS)
    write_results(study, line)
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
    launcher: Launcher, study: Any, line: SweepLine, space: Mapping[str, Any], extra: Sequence[str]
) -> Running:
    """Draw a trial and start its run, or go on with the run that these values have already."""
    trial = study.ask()
    values = {name: suggest(trial, name, entry) for name, entry in space.items()}
    plan = plan_of(line, extra, values)
    path = line.folder / f"run-{digest_of(values)}"
    trial.set_user_attr(FOLDER_KEY, path.name)
    log = Path.cwd() / line.folder / f"{path.name}.log"
    task = task_of(plan, path, log) or Task(("list", "agents"), log)  # finished already: only to be told
    shown = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
    print(f"trial {trial.number}: {shown}", flush=True)
    return Running(trial, Restarted(launcher, path.name, task), path)


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


def scores(path: Path) -> list[tuple[int, float]]:
    """Return (step, mean over seeds) of a run's evaluations; diverged seeds make it minus infinity."""
    found: dict[int, list[float]] = {}
    metrics = path / METRICS_FILE
    for record in read_metrics(metrics) if metrics.exists() else ():
        if "eval/return_mean" in record:
            value = record["eval/return_mean"]
            found.setdefault(record["step"], []).append(float("-inf") if value is None else value)
    return [(step, sum(values) / len(values)) for step, values in sorted(found.items())]


def follow(study: Any, one: Running, *, prune: bool) -> None:
    """Tell the study the evaluations that are new, and stop the run where its pruner says so."""
    metrics = one.path / METRICS_FILE
    size = metrics.stat().st_size if metrics.exists() else 0
    if size == one.read:
        return
    one.read = size
    for at, (step, score) in enumerate(scores(one.path)[one.told :], one.told):
        one.told = at + 1
        one.trial.report(score, step)
        if prune and one.trial.should_prune():
            one.end()


def finish(study: Any, one: Running, code: int, *, interrupted: bool) -> None:
    """Tell the study how a run ended; an interrupted one stays open."""
    import optuna

    follow(study, one, prune=False)
    found = scores(one.path)
    states = optuna.trial.TrialState
    if interrupted and code == INTERRUPTED:
        return
    if one.ended and code == INTERRUPTED:
        study.tell(one.trial, state=states.PRUNED)
        print(f"trial {one.trial.number}: pruned at {found[-1][0]:,}, {found[-1][1]:,.1f}", flush=True)
    elif code == 0 and found:
        study.tell(one.trial, found[-1][1])
        print(f"trial {one.trial.number}: {found[-1][1]:,.1f}", flush=True)
    elif code == 4:  # diverged: the worst there is, so that the sampler stays away
        study.tell(one.trial, state=states.PRUNED)
        print(f"trial {one.trial.number}: diverged, see {one.path.name}", flush=True)
    else:
        study.tell(one.trial, state=states.FAIL)
        raise ConfigError(f"trial {one.trial.number} failed with exit code {code}: see {one.path}.log")


def write_results(study: Any, line: SweepLine) -> None:
    """Write `trials.csv`, `best.toml` and `importance.png`, and print the best trial's command."""
    import optuna

    from rlsuite.bench.comparison import write_csv

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
    write_csv(line.folder / "trials.csv", ("trial", "state", "score", "run", *names), rows)
    complete = [trial for trial in trials if trial.state == states.COMPLETE]
    if not complete:
        return
    best = study.best_trial
    flags = " ".join(f"--{name} {value}" for name, value in best.params.items())
    where = f"--env {line.env}" if line.env else f"--dataset {line.dataset}"
    print(f"best of {len(complete)} complete trials: {best.value:,.1f}, {best.user_attrs.get(FOLDER_KEY)}")
    print(f"rlsuite train {line.agent} {where} {flags}", flush=True)
    if len(complete) > 2 and len(names) > 1:
        plot_importance(study, line.folder / "importance.png")


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
