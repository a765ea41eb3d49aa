"""Ray Tune over our runs: a trainable for its schedulers and searchers, and our search spaces as its domains.

    tune.Tuner(trainable("sac", ["--env", "Hopper"], "runs/tune"), param_space=domains("sac"), ...)

A trial is `rlsuite train` in a process of its own, with a run folder named after its values; a second trial
with the same values at the same time is told what the first one's run gives. Every evaluation
is reported (`env_step`, `return_mean`). A trial that Tune stops saves and leaves; one that fails and is
started again, or that Tune restores, goes on from its newest checkpoint. Schedulers that copy one trial's
state into another (population-based training) have nothing to copy: the checkpoints are ours.
"""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from rlsuite.bench.spaces import args_of, digest_of, is_whole, read_space
from rlsuite.bench.sweep import scores
from rlsuite.errors import ConfigError
from rlsuite.launch.plan import resolve, task_of
from rlsuite.launch.task import LEAVE_SECONDS, LOCK_SECONDS, POLL_SECONDS, in_use, leave, spawn


def is_ours(lock: IO[str]) -> bool:
    """Return whether this trial may start the run; others of its values follow it until its process ends.

    The lock goes with the trial's process, however that ends.
    """
    return lock_descriptor(lock.fileno(), blocking=False)


def _tune() -> Any:
    try:
        return importlib.import_module("ray.tune")
    except ImportError as error:
        raise ConfigError('Ray Tune is not installed: pip install "rlsuite[ray]"') from error


def domains(agent: str, path: Path | None = None) -> dict[str, Any]:
    """Return a search space as Tune's domains.

    Args:
        agent: whose own it is (`rlsuite/configs/spaces`), where none is named.
        path: TOML file of another one.

    Raises:
        ConfigError: there is none, an entry means nothing, or Tune is not installed.
    """
    tune = _tune()
    space = {}
    for name, entry in read_space(agent, path).items():
        if "choices" in entry:
            space[name] = tune.choice(entry["choices"])
            continue
        low, high, log = entry["low"], entry["high"], entry.get("log", False)
        if is_whole(entry):
            space[name] = (tune.lograndint if log else tune.randint)(low, high + 1)  # theirs is exclusive
        else:
            space[name] = (tune.loguniform if log else tune.uniform)(low, high)
    return space


def trainable(
    agent: str, args: Sequence[str], folder: str | Path, *, metric: str = "return_mean"
) -> Callable[[Mapping[str, Any]], None]:
    """Return a trainable function for `tune.Tuner`.

    Args:
        agent: to train.
        words: flags of `rlsuite train` that all trials share; a trial's own values follow them.
        folder: of all runs, seen by every worker under this path.
        metric: what evaluations are reported as: their mean over episodes and seeds.

    Raises:
        ConfigError: a flag is wrong, or Tune is not installed.
    """
    tune = _tune()
    resolve(agent, args)
    root = Path(folder).absolute()

    def trial(drawn: Mapping[str, Any]) -> None:
        values = {name: value.item() if hasattr(value, "item") else value for name, value in drawn.items()}
        path = root / f"run-{digest_of(values)}"
        log = root / f"{path.name}.log"
        plan = resolve(agent, [*args, *args_of(values)])
        process, told, code = None, 0, None
        root.mkdir(parents=True, exist_ok=True)
        patience = 0.0  # until then a process whose trial has died may save and leave
        with path.with_suffix(".turn").open("w") as lock:
            try:
                while True:
                    if process is not None:
                        code = process.poll()
                    elif is_ours(lock):
                        patience = patience or time.monotonic() + LOCK_SECONDS
                        task = task_of(plan, path, log)
                        if task is None:  # finished, and only to be told
                            code = 0
                        elif not in_use(task) or time.monotonic() > patience:
                            process = spawn(task)
                    # After the look at the process: nothing that it wrote is missed.
                    curve = scores(path, plan.config.train.seeds)
                    for step, score in curve[told:]:
                        tune.report({"env_step": step, metric: score})
                    told = max(told, len(curve))
                    if code is not None:
                        break
                    time.sleep(POLL_SECONDS)
            finally:
                if process is not None and process.poll() is None:
                    leave(process, LEAVE_SECONDS)
        if code:
            raise RuntimeError(f"the run ended with exit code {code}, see {log}")

    return trial
