"""Recorder of a run: metrics to `metrics.jsonl` and to loggers, progress to the terminal.

Nothing here may stop a run or change it: a logger that fails is dropped, a full disk costs lines, and no
random number is drawn from any stream of the run.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlsuite.errors import DataError
from rlsuite.runs.metrics import MetricsFile, finite, read_metrics
from rlsuite.runs.runfolder import METRICS_FILE
from rlsuite.training.loggers import Loggers
from rlsuite.training.progress import Status, make_display

CLOCK_KEYS = ("step", "updates", "seconds", "steps_per_second", "updates_per_second")
OWNER_KEY = "seed"
EVAL_RETURN, EVAL_SPREAD, EVAL_LENGTH = "eval/return_mean", "eval/return_std", "eval/length_mean"
RETURN_KEYS = (EVAL_RETURN, "train/return_mean", "train/return")  # shown as the last return

TICK_SECONDS = 0.5  # between looks at the display from `tick`
CURVE_ROWS = 24
CURVE_WIDTH = 40  # characters of the longest bar
PICTURE_WIDTH, PICTURE_HEIGHT = 56, 9  # characters of a curve


class Recorder:
    """Records one run. A context manager: entering starts the display, leaving closes everything."""

    def __init__(
        self,
        folder: Path,
        *,
        loggers: Sequence[str] = (),
        total_steps: int,
        console: bool | None = None,
        after: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Record into the run folder `folder`.

        Args:
            folder: where `metrics.jsonl` and TensorBoard's files go.
            loggers: names in `rlsuite.runs.config.LOGGERS`, or MODULE:CLASS.
            total_steps: env steps of the whole run, for the time left.
            console: None: a live bar on a terminal, plain lines elsewhere; False: nothing; True: the bar.
            after: the step that a resumed run goes on from.
            clock: seconds, from any origin, never going back.

        Raises:
            ConfigError: an unknown logger.
        """
        self.total_steps = total_steps
        self._clock = clock
        self._file = MetricsFile(folder / METRICS_FILE)
        self._loggers = Loggers(folder, loggers, after)
        self._display = make_display(total_steps, console)
        self._started = clock()
        self._before = 0.0  # seconds of earlier sessions of this run
        # Where rates are measured from: step, updates, seconds. None after a resume, until the first look.
        self._mark: tuple[int, int, float] | None = (0, 0, 0.0)
        self._rates = (0.0, 0.0)
        self._returns: dict[int | None, float] = {}  # the last of every seed
        self._earlier_return: float | None = None  # before a resume
        self._of = "return"
        self._next_tick = self._started + TICK_SECONDS

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of this run, earlier sessions included."""
        return self._before + self._clock() - self._started

    @property
    def _last_return(self) -> float | None:
        """The mean over the seeds of their last returns."""
        if not self._returns:
            return self._earlier_return
        return sum(self._returns.values()) / len(self._returns)

    def log(
        self,
        step: int,
        updates: int,
        metrics: Mapping[str, Any],
        *,
        seed: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Write one line of metrics, forward it to the loggers, refresh the display.

        Args:
            step: env steps done (gradient steps offline).
            updates: gradient updates done.
            metrics: numbers by name; what is not finite is written as null.
            seed: whose numbers these are, where several agents are trained together.
            seconds: of the run at which they were so; None is now.

        Raises:
            ValueError: a name in `metrics` is one of `CLOCK_KEYS`.
        """
        clash = metrics.keys() & {*CLOCK_KEYS, OWNER_KEY}
        if clash:
            raise ValueError(f"{sorted(clash)} are written by the recorder: choose other names")
        seconds = self.seconds if seconds is None else seconds
        self._measure(step, updates, seconds)
        clocks = (step, updates, round(seconds, 3), *(round(rate, 2) for rate in self._rates))
        record = dict(zip(CLOCK_KEYS, clocks, strict=True))
        scalars = {name: finite(value) for name, value in metrics.items()}
        owner, prefix = ({}, "") if seed is None else ({OWNER_KEY: seed}, f"seed-{seed}/")
        self._file.append({**record, **owner, **scalars})
        times = {f"time/{key}": record[key] for key in CLOCK_KEYS[1:]}
        self._loggers.log(step, times | {f"{prefix}{name}": scalar for name, scalar in scalars.items()})
        for key in RETURN_KEYS:
            if (value := scalars.get(key)) is not None:
                self._returns[seed] = value
                self._of = "eval return" if key == EVAL_RETURN else "train return"
                break
        self._display.show(self._status(step, updates), milestone=EVAL_RETURN in scalars)

    def tick(self, step: int, updates: int) -> None:
        """Keep the display alive between lines; cheap enough for every step."""
        now = self._clock()
        if self._mark is None:
            self._mark = (step, updates, self.seconds)
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._display.show(self._status(step, updates))

    def video(self, step: int, name: str, path: Path) -> None:
        """Hand a film to the loggers that take one."""
        self._loggers.video(step, name, path)

    def note(self, text: str) -> None:
        """Show one line of text to the user, once."""
        self._display.note(text)

    def rewind(self, step: int) -> int:
        """Move lines later than the checkpoint's `step` to `metrics.discarded.jsonl`; return how many.

        Raises:
            DataError: the metrics of the run cannot be rewritten.
        """
        try:
            return self._file.rewind(step)
        except OSError as error:
            raise DataError(f"cannot rewrite {self._file.path}: {error.strerror or error}") from error

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as plain JSON values."""
        return {"seconds": self.seconds, "last_return": self._last_return}

    def load_state_dict(self, state: Any) -> None:
        """Go on from the state of an earlier session.

        Raises:
            DataError: the state is malformed.
        """
        try:
            before = float(state["seconds"])
            last = None if state["last_return"] is None else float(state["last_return"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"the saved state of the recorder is malformed: {error!r}") from error
        if not math.isfinite(before) or before < 0:
            raise DataError(f"the saved state of the recorder is malformed: seconds = {before}")
        self._before, self._started = before, self._clock()
        self._earlier_return, self._returns = last, {}
        self._mark = None

    def close(self) -> None:
        """Close the file and the loggers; closing twice is fine."""
        self._file.close()
        self._loggers.close()

    def __enter__(self) -> Self:
        self._display.__enter__()
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.__exit__(cls, error, trace)
        self.close()

    def _measure(self, step: int, updates: int, seconds: float) -> None:
        """Renew the rates; a second line at the same place (an evaluation's) keeps those of the first."""
        if self._mark is None:
            self._mark = (step, updates, seconds)
        steps, done, since = step - self._mark[0], updates - self._mark[1], seconds - self._mark[2]
        if since > 0 and (steps > 0 or done > 0):
            self._rates = (steps / since, done / since)
            self._mark = (step, updates, seconds)

    def _status(self, step: int, updates: int) -> Status:
        return Status(
            step=step,
            total_steps=self.total_steps,
            updates=updates,
            steps_per_second=self._rates[0],
            updates_per_second=self._rates[1],
            last_return=self._last_return,
            of=self._of,
        )


def evaluations(metrics_path: Path) -> list[dict[str, Any]]:
    """Return the evaluations in a metrics file, those of several seeds at one step joined."""
    records = read_metrics(metrics_path) if metrics_path.exists() else iter(())
    by_step: dict[Any, list[dict[str, Any]]] = {}
    for record in records:
        if isinstance(record.get(EVAL_RETURN), int | float):
            by_step.setdefault(record["step"], []).append(record)
    return [_joined(together) for together in by_step.values()]


def curve_picture(metrics_path: Path) -> str:
    """Return the evaluations as a small curve of text, returns upwards and env steps to the right.

    The best evaluation is marked with a letter; of a column that holds several the last is drawn, and the
    best always. With fewer than three there is no curve, and the table is returned.
    """
    points = evaluations(metrics_path)
    if len(points) < 3:
        return curve_table(metrics_path)
    steps = [float(point["step"]) for point in points]
    means = [float(point[EVAL_RETURN]) for point in points]
    scale = max(map(abs, means)) or 1.0  # first, for a span of the largest floats is none
    low, high = min(means) / scale, max(means) / scale
    rows = [[" "] * PICTURE_WIDTH for _ in range(PICTURE_HEIGHT)]
    width = steps[-1] - steps[0] or 1.0
    before: int | None = None
    best = max(range(len(means)), key=means.__getitem__)
    for place in [*range(len(means)), best]:
        column = round((PICTURE_WIDTH - 1) * (steps[place] - steps[0]) / width)
        height = (means[place] / scale - low) / (high - low) if high > low else 0.5
        row = (PICTURE_HEIGHT - 1) - round((PICTURE_HEIGHT - 1) * height)
        for line in rows:
            line[column] = " "
        if before is not None and len(means) <= PICTURE_WIDTH and abs(row - before) > 1:
            for between in range(min(row, before) + 1, max(row, before)):
                rows[between][column] = "."  # so that the eye follows a jump
        rows[row][column] = "B" if place == best else "o"
        before = None if place == len(means) - 1 else row
    labels = [_short(max(means)), *[""] * (PICTURE_HEIGHT - 2), _short(min(means))]
    margin = max(map(len, labels))
    drawn = [f"{label:>{margin}} |{''.join(row).rstrip()}" for label, row in zip(labels, rows, strict=True)]
    ends = f"{int(steps[0]):,}", f"{int(steps[-1]):,} env steps"
    axis = " " * margin + " +" + "-" * PICTURE_WIDTH
    below = " " * (margin + 2) + ends[0] + ends[1].rjust(PICTURE_WIDTH - len(ends[0]))
    legend = f"B: best, {_short(means[best])} at {int(steps[best]):,}; last {_short(means[-1])}"
    return "\n".join(["evaluation return", *drawn, axis, below, legend])


def curve_table(metrics_path: Path) -> str:
    """Return the evaluations in a metrics file as a learning curve of text, one line a point.

    Long curves are thinned evenly; the last point is always there. With several seeds a point is their mean
    and its spread that between them.
    """
    points = evaluations(metrics_path)
    if not points:
        return "no evaluation yet"
    every = math.ceil(len(points) / CURVE_ROWS)
    points = points[::-1][::every][::-1]
    means = [float(point[EVAL_RETURN]) for point in points]
    scale = max(map(abs, means)) or 1.0  # first, for a span of the largest floats is none
    low, high = min(0.0, *means) / scale, max(0.0, *means) / scale
    rows = [("env steps", "return", "+-", "length", "")]
    for point, mean in zip(points, means, strict=True):
        filled = round(CURVE_WIDTH * (mean / scale - low) / (high - low)) if high > low else 0
        rows.append(
            (
                f"{int(point['step']):,}",
                f"{mean:,.1f}",
                _shown(point.get(EVAL_SPREAD)),
                _shown(point.get(EVAL_LENGTH)),
                "#" * filled,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        (
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=False)) + "  " + row[4]
        ).rstrip()
        for row in rows
    )


def _joined(together: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the evaluations of several seeds at one step."""
    if len(together) == 1:
        return together[0]
    means = [float(record[EVAL_RETURN]) for record in together]
    return {
        "step": together[0]["step"],
        EVAL_RETURN: statistics.mean(means),  # exact: no sum overflows
        EVAL_SPREAD: statistics.pstdev(means),
        EVAL_LENGTH: statistics.mean(float(record.get(EVAL_LENGTH) or 0) for record in together),
    }


def _short(value: float) -> str:
    return f"{value:,.1f}" if abs(value) < 1e12 else f"{value:.4g}"


def _shown(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, int | float) else "-"
