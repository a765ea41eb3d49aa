"""TensorBoard, Weights & Biases and trackio through TorchRL's loggers: wanted, never needed."""

import importlib.util
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rlsuite.errors import ConfigError

logger = logging.getLogger(__name__)

PROJECT = "rlsuite"
TENSORBOARD_FOLDER = "tensorboard"


class ScalarLogger(Protocol):
    """Methods that are used of `torchrl.record.loggers.Logger`."""

    def log_scalar(self, name: str, value: float, step: int | None = None) -> None:
        """Record one number."""


def _tensorboard(folder: Path, after: int | None) -> ScalarLogger | None:
    if importlib.util.find_spec("tensorboard") is None:
        return None  # it is on by default and optional: its absence is no news
    from torchrl.record.loggers.tensorboard import TensorboardLogger

    made = TensorboardLogger(exp_name=TENSORBOARD_FOLDER, log_dir=str(folder))
    if after is not None:  # what SummaryWriter's purge_step does, which TorchRL's logger does not take
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        for event in (
            Event(step=after + 1, file_version="brain.Event:2"),
            Event(step=after + 1, session_log=SessionLog(status=SessionLog.START)),
        ):
            made.experiment.file_writer.add_event(event)
    return made


def _wandb(folder: Path, after: int | None) -> ScalarLogger:
    from torchrl.record.loggers.wandb import WandbLogger

    return WandbLogger(exp_name=folder.name, project=PROJECT, save_dir=str(folder))


def _trackio(folder: Path, after: int | None) -> ScalarLogger:
    from torchrl.record.loggers.trackio import TrackioLogger

    return TrackioLogger(exp_name=folder.name, project=PROJECT)


FACTORIES: dict[str, Callable[[Path, int | None], ScalarLogger | None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}


class Loggers:
    """The loggers of one run. One that fails is dropped with one warning; the run goes on without it."""

    def __init__(self, folder: Path, names: Sequence[str], after: int | None = None) -> None:
        """Start the loggers called `names` (keys of `FACTORIES`) for the run folder `folder`.

        `after` is the step that a resumed run goes on from: what was logged later is done again.

        Raises:
            ConfigError: an unknown name.
        """
        self._active: dict[str, ScalarLogger] = {}
        for name in names:
            if name not in FACTORIES:
                raise ConfigError(f'"{name}" is not a logger; there are {", ".join(FACTORIES)}')
        for name in dict.fromkeys(names):
            self._try(name, self._start, name, folder, after)

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the loggers that still work."""
        return tuple(self._active)

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Send every number that is finite to every logger."""
        scalars = {key: float(v) for key, v in metrics.items() if v is not None and math.isfinite(v)}
        for name, target in list(self._active.items()):
            self._try(name, _send, target, step, scalars)

    def close(self) -> None:
        """Let every logger write what it holds back."""
        for name, target in list(self._active.items()):
            self._try(name, _finish, target)
        self._active.clear()

    def _start(self, name: str, folder: Path, after: int | None) -> None:
        made = FACTORIES[name](folder, after)
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
    for key, scalar in scalars.items():
        target.log_scalar(key, scalar, step=step)


def _finish(target: ScalarLogger) -> None:
    """Close a logger by whichever of the usual methods its experiment has (a SummaryWriter, a W&B run)."""
    experiment = getattr(target, "experiment", None)
    for method in ("close", "finish"):
        if callable(end := getattr(experiment, method, None)):
            end()
            return
