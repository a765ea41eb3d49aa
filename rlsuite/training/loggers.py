"""TensorBoard, W&B, trackio, MLflow, CSV through TorchRL's loggers, and own ones: wanted, never needed."""

import importlib.util
import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import tomli_w

from rlsuite.errors import ConfigError
from rlsuite.runs.config import LOGGERS
from rlsuite.runs.files import write_atomic
from rlsuite.runs.runfolder import CONFIG_FILE, RunFolder
from rlsuite.targets import is_target, load_target

logger = logging.getLogger(__name__)

PROJECT = "rlsuite"
TENSORBOARD_FOLDER, CSV_FOLDER = "tensorboard", "csv"
IDS_FILE = "loggers.json"  # which W&B and MLflow run a run folder is, the same after every resume
HPARAM_METRIC = "eval/return_mean"


class ScalarLogger(Protocol):
    """Methods that are used of `torchrl.record.loggers.Logger`."""

    def log_scalar(self, name: str, value: float, step: int | None = None) -> None:
        """Record one number."""


@dataclass(frozen=True)
class Begin:
    """What a logger begins from.

    Attributes:
        folder: the run folder.
        after: the step that a resumed run goes on from; None for a new run.
        config: the run's configuration, tables nested.
        options: the logger's own, of `--logger-option`.
    """

    folder: Path
    after: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def flat(self) -> dict[str, Any]:
        """The configuration without tables: `agent.lr_actor`, `train.env`, ..."""
        flat: dict[str, Any] = {}
        for key, value in self.config.items():
            flat |= (
                {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
            )
        return flat

    def kept_id(self, name: str, make: Callable[[], str]) -> str:
        """Return the id that a logger has for this run: the one of the first session."""
        ids = self._ids()
        if name not in ids:
            ids[name] = make()
            write_atomic(self.folder / IDS_FILE, (json.dumps(ids) + "\n").encode())
        return ids[name]

    def has_id(self, name: str) -> bool:
        """Return whether a session before this one has kept an id for a logger."""
        return name in self._ids()

    def _ids(self) -> dict[str, str]:
        try:
            ids = json.loads((self.folder / IDS_FILE).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return {k: v for k, v in ids.items() if isinstance(v, str)} if isinstance(ids, dict) else {}


def _tensorboard(begin: Begin) -> ScalarLogger | None:
    if importlib.util.find_spec("tensorboard") is None:
        return None  # it is on by default and optional: its absence is no news
    from torchrl.record.loggers.tensorboard import TensorboardLogger

    made = TensorboardLogger(exp_name=TENSORBOARD_FOLDER, log_dir=str(begin.folder))
    writer = made.experiment.file_writer
    if begin.after is not None:  # what SummaryWriter's purge_step does, which TorchRL's logger does not take
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        for event in (
            Event(step=begin.after + 1, file_version="brain.Event:2"),
            Event(step=begin.after + 1, session_log=SessionLog(status=SessionLog.START)),
        ):
            writer.add_event(event)
    elif begin.config:
        # SummaryWriter.add_hparams would make a run of its own beside ours.
        from torch.utils.tensorboard.summary import hparams

        values = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in begin.flat.items()}
        for summary in hparams(values, {HPARAM_METRIC: 0.0}):
            writer.add_summary(summary)
        made.experiment.add_text("config", f"```toml\n{tomli_w.dumps(begin.config)}```")
    return made


def _wandb(begin: Begin) -> ScalarLogger:
    from torchrl.record.loggers.wandb import WandbLogger

    # Entity, group and tags that are no option are W&B's own variables': WANDB_ENTITY, WANDB_RUN_GROUP, ...
    project = os.environ.get("WANDB_PROJECT", PROJECT)
    return WandbLogger(
        **{
            "exp_name": begin.folder.name,
            "project": project,
            "save_dir": str(begin.folder),
            "id": begin.kept_id("wandb", lambda: secrets.token_hex(4)),
            "config": dict(begin.config),
            "log_env_packages": False,  # meta.json has versions, and no paths of this machine
            **begin.options,
        }
    )


def _trackio(begin: Begin) -> ScalarLogger:
    from torchrl.record.loggers.trackio import TrackioLogger

    return TrackioLogger(**{"exp_name": begin.folder.name, "project": PROJECT, **begin.options})


def _csv(begin: Begin) -> ScalarLogger:
    from torchrl.record.loggers.csv import CSVLogger

    after = begin.after
    for path in (begin.folder / CSV_FOLDER).rglob("*.csv") if after is not None else ():
        lines = path.read_text().splitlines(keepends=True)  # what a resumed run does again is cut off
        path.write_text("".join(line for line in lines if int(line.partition(",")[0]) <= (after or 0)))
    return CSVLogger(exp_name=CSV_FOLDER, log_dir=str(begin.folder))


def _mlflow(begin: Begin) -> ScalarLogger:
    import mlflow
    from torchrl.record.loggers.mlflow import MLFlowLogger

    options: dict[str, Any] = {"exp_name": os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), **begin.options}
    if "tracking_uri" not in options:
        options["tracking_uri"] = os.environ.get("MLFLOW_TRACKING_URI") or _mlflow_file(begin, options)
    known = begin.after is not None and begin.has_id("mlflow")
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")}
    try:
        if known:  # what `start_run` goes on with; TorchRL's logger takes no run
            os.environ["MLFLOW_RUN_ID"] = begin.kept_id("mlflow", str)
        made = MLFlowLogger(**options)  # MLflow writes the address into the environment, of the next run, too
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    begin.kept_id("mlflow", lambda: made.experiment.info.run_id)
    if not known:
        mlflow.set_tag("mlflow.runName", begin.folder.name)
    # A parameter of MLflow has one value for ever: what a later session has otherwise becomes a tag.
    first = mlflow.get_run(made.experiment.info.run_id).data.params
    values = {key: str(value)[:500] for key, value in begin.flat.items()}
    mlflow.log_params({key: value for key, value in values.items() if key not in first})
    mlflow.set_tags({key: value for key, value in values.items() if first.get(key, value) != value})
    return made


def _mlflow_file(begin: Begin, options: dict[str, Any]) -> str:
    """Return the URI of a database in the run folder, beside which artifacts lie, too."""
    folder = begin.folder.absolute()
    options.setdefault("artifact_location", (folder / "mlartifacts").as_uri())
    return f"sqlite:///{folder}/mlflow.db"


FACTORIES: dict[str, Callable[[Begin], ScalarLogger | None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "csv": _csv,
    "mlflow": _mlflow,
}
assert tuple(FACTORIES) == LOGGERS


class Loggers:
    """The loggers of one run. One that fails is dropped with one warning; the run goes on without it."""

    def __init__(self, folder: Path, names: Sequence[str], after: int | None = None) -> None:
        """Start the loggers called `names` (`LOGGERS`, or MODULE:CLASS) for the run folder `folder`.

        `after` is the step that a resumed run goes on from: what was logged later is done again.

        Raises:
            ConfigError: an unknown name.
        """
        self._active: dict[str, ScalarLogger] = {}
        targets = {}
        for name in names:
            if is_target(name):
                targets[name] = load_target(name, "--loggers")
                if not (isinstance(targets[name], type) and hasattr(targets[name], "log_scalar")):
                    raise ConfigError(f"--loggers {name}: name a class with a method log_scalar")
            elif name not in FACTORIES:
                raise ConfigError(f'"{name}" is not a logger; there are {", ".join(FACTORIES)}')
        config = RunFolder(folder).config() if (folder / CONFIG_FILE).is_file() else {}
        options = config.get("train", {}).get("logger_options", {})
        for name in dict.fromkeys(names):
            begin = Begin(folder, after, config, options.get(name, {}))
            self._try(name, self._start, name, targets.get(name), begin)

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the loggers that still work."""
        return tuple(self._active)

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Send every number that is finite to every logger."""
        scalars = {key: float(v) for key, v in metrics.items() if v is not None and math.isfinite(v)}
        for name, target in list(self._active.items()):
            self._try(name, _send, target, step, scalars)

    def video(self, step: int, key: str, path: Path) -> None:
        """Send a film to the loggers that take a file: W&B, and own ones with a method `log_file`."""
        for name, target in list(self._active.items()):
            if name == "wandb":
                self._try(name, _wandb_video, target, step, key, path)
            elif callable(take := getattr(target, "log_file", None)):
                self._try(name, take, key, path, step)

    def close(self) -> None:
        """Let every logger write what it holds back."""
        for name, target in list(self._active.items()):
            self._try(name, _finish, target)
        self._active.clear()

    def _start(self, name: str, cls: Any, begin: Begin) -> None:
        if cls is None:
            made = FACTORIES[name](begin)
        else:  # as TorchRL's loggers are made
            made = cls(exp_name=begin.folder.name, log_dir=str(begin.folder), **begin.options)
            if begin.after is None and callable(take := getattr(made, "log_hparams", None)):
                take(begin.flat)
        if made is not None:
            self._active[name] = made

    def _try(self, name: str, action: Callable[..., None], *arguments: object) -> None:
        try:
            action(*arguments)
        # Other people's code, network and disk behind it: whatever goes wrong there is not worth a run.
        except Exception as error:  # noqa: BLE001
            self._active.pop(name, None)
            logger.warning("the %s logger failed and is left out from now on: %s", name, error)


def _send(target: ScalarLogger, step: int, scalars: Mapping[str, float]) -> None:
    if callable(together := getattr(target, "log_metrics", None)):  # one row in W&B, not one a number
        together(dict(scalars), step=step)
        return
    for key, scalar in scalars.items():
        target.log_scalar(key, scalar, step=step)


def _wandb_video(target: Any, step: int, key: str, path: Path) -> None:
    import wandb

    prefix = key.rpartition("/")[0]
    step_key = f"{prefix}/step" if prefix else "step"
    target.experiment.log({key: wandb.Video(str(path), format="mp4"), step_key: step})


def _finish(target: ScalarLogger) -> None:
    """Close a logger as its experiment is closed: a SummaryWriter, a W&B run, an MLflow run."""
    experiment = getattr(target, "experiment", None)
    for method in ("close", "finish"):
        if callable(end := getattr(experiment, method, None)):
            end()
            return
    if callable(leave := getattr(experiment, "__exit__", None)):
        leave(None, None, None)
