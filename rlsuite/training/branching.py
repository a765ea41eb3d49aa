"""Branch a run: the same run to a step, bit for bit, then with other settings; and replay a stretch of one.

Both follow from checkpoints that hold everything: a copy of the newest one at or before the step goes on with
the run's own settings until there. Where none was kept, the run is made again from its beginning.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlsuite.errors import ConfigError, DataError, Interrupted
from rlsuite.registry import agent_class
from rlsuite.runs import manifest as manifests
from rlsuite.runs.checkpoint import MANIFEST_FILE, CheckpointStore
from rlsuite.runs.files import write_atomic
from rlsuite.runs.mapping import RunConfig, config_to_dict
from rlsuite.runs.metrics import MetricsFile
from rlsuite.runs.runfolder import BEST_FOLDER, CHECKPOINT_FOLDER, METRICS_FILE, RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import NOT_DIGESTED, Run, run_digest
from rlsuite.training.callbacks import Callbacks, Hooks, load_callbacks
from rlsuite.training.loop import TrainResult
from rlsuite.training.outcome import goal
from rlsuite.training.start import resume_joined, saved_config, train

CHANGEABLE = ("batch_size", "n_step", "mixed_precision", *NOT_DIGESTED)
"""Fields of the run that may change in its middle; all of the agent's may, as far as its weights fit."""
FIXED = ("compile", "then_online")


class Origin(NamedTuple):
    """What a branch begins from: a checkpoint's step and folder; 0 and None for the run's beginning."""

    step: int
    path: Path | None


def origin(run: Path, at: int) -> Origin:
    """Return the newest checkpoint of a run at or before a step that verifies."""
    store = CheckpointStore(RunFolder.open(run).checkpoints)
    for step in reversed([step for step in store.steps() if step <= at]):
        with contextlib.suppress(DataError):
            loaded = store.load(config_digest=None, step=step)
            if loaded is not None:
                return Origin(step, loaded.path)
    return Origin(0, None)


def check_step(run: Path, config: RunConfig, at: int) -> None:
    """Raise ConfigError for a step that a run cannot be taken to."""
    if not 0 < at < goal(config.train):
        raise ConfigError(f"step {at:,}: {run} goes from 0 to {goal(config.train):,}; name one in between")
    if getattr(config.train, "ranks", 1) != 1:
        raise ConfigError(f"{run} was trained by several processes: only runs of one can be branched")


def copy_run(run: Path, config: RunConfig, out: Path, begin: Origin, at: int) -> None:
    """Make a run folder that stands where `run` stood at a checkpoint, as if it had come there itself."""
    came_from = {"run": str(run.absolute()), "at": at, "checkpoint": begin.step}
    parent = RunFolder.open(run)
    train_fields = {"seed": config.train.seed, "device": config.train.device, "branch": came_from}
    with RunFolder.create(out, config_to_dict(config), train_fields) as folder:
        if begin.path is None:
            return
        # Files of a checkpoint never change: a second name is a copy.
        shutil.copytree(begin.path, folder.checkpoints / f"step-{begin.step:012d}", copy_function=_link)
        best = CheckpointStore(run / BEST_FOLDER).steps()
        if best and best[-1] <= begin.step:
            shutil.copytree(run / BEST_FOLDER, out / BEST_FOLDER, copy_function=_link)
        if parent.metrics.exists():
            shutil.copyfile(parent.metrics, out / METRICS_FILE)
            MetricsFile(out / METRICS_FILE).rewind(begin.step)
            (out / "metrics.discarded.jsonl").unlink(missing_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def branch(
    run: Path, at: int, out: Path, changes: Mapping[str, Mapping[str, Any]], console: bool | None = None
) -> TrainResult:
    """Take a copy of a run to a step, change its settings, and train it to its end.

    Args:
        run: the parent's folder, which stays as it is.
        at: env steps (offline: updates); of several envs the first vector step at or after it.
        out: the branch's folder, new or empty.
        changes: other values of fields, in the tables "train" and "agent"; none gives the parent again.
        console: as in `Hooks`.

    Raises:
        ConfigError: a step or a field that cannot be had.
        DataError: the changed agent's weights are of other shapes.
        Interrupted: a signal came before the step was reached; nothing is left of the branch.
    """
    parent = saved_config(run, None)
    check_step(run, parent, at)
    config = changed(parent, changes)
    begin = origin(run, at)
    stage = out.with_name(f".{out.name}.branch")
    shutil.rmtree(stage, ignore_errors=True)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f'"{out}" is not empty: choose another --out')
    try:
        copy_run(run, parent, stage, begin, at)
        if begin.step < at:
            _play(parent, stage, Hooks(Callbacks(load_callbacks(parent.train.callbacks)), console, pause=at))
            if CheckpointStore(stage / CHECKPOINT_FOLDER).steps()[-1] < at:
                raise Interrupted(f"interrupted before step {at:,}: give the same command again")
        with RunFolder.open(stage) as folder:
            restamp(folder, config)
            (reached,) = CheckpointStore(folder.checkpoints).steps()
        if out.exists():
            out.rmdir()
        stage.rename(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    hooks = Hooks(Callbacks(load_callbacks(config.train.callbacks)), console)
    try:
        return resume_joined(out, config, extended=False, hooks=hooks)
    except DataError:
        if CheckpointStore(out / CHECKPOINT_FOLDER).steps() == [reached]:  # the weights do not fit
            shutil.rmtree(out)
        raise


def changed(config: RunConfig, changes: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """Return a configuration with other values.

    Raises:
        ConfigError: a field that decides what the run was until then, or a value that it cannot have.
    """
    for name in changes.get("train", {}):
        if name not in CHANGEABLE or name in FIXED:
            allowed = ", ".join(name for name in CHANGEABLE if name not in FIXED)
            raise ConfigError(
                f"{name} decides what the run is from its beginning: change fields of the agent, or {allowed}"
            )
    try:
        return dataclasses.replace(
            config,
            train=dataclasses.replace(config.train, **changes.get("train", {})),
            agent=dataclasses.replace(config.agent, **changes.get("agent", {})),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def restamp(folder: RunFolder, config: RunConfig) -> None:
    """Give the newest checkpoint of a locked run folder, and the folder, to another configuration."""
    store = CheckpointStore(folder.checkpoints)
    loaded = store.load(config_digest=None)
    assert loaded is not None
    store.keep_only(loaded.path)
    digest = run_digest(agent_class(config.agent_name), config.agent, config.train)
    manifest = dataclasses.replace(manifests.read(loaded.path / MANIFEST_FILE), config_digest=digest)
    write_atomic(loaded.path / MANIFEST_FILE, manifest.to_bytes())  # a new file: the parent's stays
    folder.replace_config(config_to_dict(config))


def _play(config: RunConfig, path: Path, hooks: Hooks) -> None:
    """Go on with a copied run."""
    with RunFolder.open(path) as folder, StopFlag() as stop:
        cls = agent_class(config.agent_name)
        train(cls, config.agent, config.train, folder, stop=stop, resume=True, hooks=hooks)


class _Done(Exception):
    """The last update that was asked for has been seen."""


def replay(run: Path, first: int, last: int, seed_index: int = 0) -> Iterator[dict[str, float]]:
    """Yield every update of a run between two env steps, made again: its metrics, and the norms of all parts.

    Args:
        run: the folder, which stays as it is.
        first, last: env steps (offline: updates), both included.
        seed_index: whose numbers, of a run with several seeds.

    Raises:
        ConfigError: the steps are none of the run's.
        DataError: the disk has no room for a copy of the checkpoint, beside the run for as long as it takes.
    """
    config = saved_config(run, None)
    if not 0 < first <= last <= goal(config.train):
        end = goal(config.train)
        raise ConfigError(f"steps {first:,} to {last:,}: name two that follow, of the run's {end:,}")
    check_step(run, config, min(first, goal(config.train) - 1))
    if not 0 <= seed_index < config.train.seeds:
        raise ConfigError(f"seed index {seed_index}: the run has {config.train.seeds} seed(s), from 0")
    quiet: dict[str, Any] = {
        "eval_every": 0,
        "checkpoint_every": 0,
        "loggers": (),
        "logger_options": {},
        "callbacks": (),
    }
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **quiet))
    rows: list[dict[str, float]] = []

    def trace(run: Run, metrics: Mapping[str, Tensor]) -> None:
        step = run.clock.env_steps + (0 if hasattr(run, "env") else 1)  # offline the clock moves afterwards
        if step > last:
            raise _Done
        if step >= first:
            rows.append({"step": step, "update": run.clock.updates, **_numbers(run, metrics, seed_index)})

    with tempfile.TemporaryDirectory(dir=run.absolute().parent, prefix=".replay-") as folder:
        copy = Path(folder) / "run"
        try:
            copy_run(run, config, copy, origin(run, first - 1), first)
        except ConfigError as error:  # a folder that is made for it alone: only the disk can refuse
            reason = getattr(error.__cause__, "strerror", None) or error
            raise DataError(f"no room beside {run} for a copy of its checkpoint: {reason}") from error
        with contextlib.suppress(_Done):
            _play(config, copy, Hooks(console=False, trace=trace))
    yield from rows


def _numbers(run: Run, metrics: Mapping[str, Tensor], seed_index: int) -> dict[str, float]:
    """Return one seed's metrics of an update and the norms of its weights."""
    measured = dict(metrics)
    for part in run.agent.parts():
        weights = [parameter.detach() for parameter in part.module.parameters()]
        of_seed = [w[seed_index] if run.agent.lead else w for w in weights]
        if of_seed:
            measured[f"weight_norm/{part.name}"] = torch.stack([w.norm() for w in of_seed]).norm()
    return {
        name: float(value[seed_index] if value.dim() else value)
        for name, value in measured.items()
        if name != "priority"
    }
