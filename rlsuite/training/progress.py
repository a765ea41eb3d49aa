"""Progress of a run on the console: a live bar on a terminal, plain lines anywhere else."""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

logger = logging.getLogger(__name__)

PLAIN_SECONDS = 10.0  # between plain lines
LIVE_PER_SECOND = 2  # redraws; more would take time from training on a small machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Numbers that are shown; rates per second, `last_return` None before the first episode or evaluation."""

    step: int
    total_steps: int
    updates: int
    steps_per_second: float
    updates_per_second: float
    last_return: float | None
    of: str = "return"  # "train return" of episodes that explore, "eval return" of evaluations

    def line(self) -> str:
        """Return everything but the bar as one line of text."""
        shown = "-" if self.last_return is None else f"{self.last_return:,.1f}"
        return (
            f"{self.step:,}/{self.total_steps:,} steps  {self.updates:,} updates  "
            f"{self.steps_per_second:,.0f} steps/s  {self.updates_per_second:,.0f} updates/s  "
            f"{self.of} {shown}  left {_duration(self.seconds_left)}"
        )

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at the present speed; None while there is no speed yet."""
        if self.steps_per_second <= 0:
            return None
        return max(0, self.total_steps - self.step) / self.steps_per_second


class Display(Protocol):
    """Shows a `Status`; `milestone` marks one that must not be left out (an evaluation)."""

    def show(self, status: Status, *, milestone: bool = False) -> None:
        """Show `status`."""

    def note(self, text: str) -> None:
        """Show a line of text."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Silent:
    """Shows nothing."""

    def show(self, status: Status, *, milestone: bool = False) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Plain(Silent):
    """One line about every ten seconds and at every milestone, for logs and pipes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock() + PLAIN_SECONDS
        self._open = True

    def show(self, status: Status, *, milestone: bool = False) -> None:
        """Write a line when one is due."""
        now = self._clock()
        if now >= self._next or milestone:
            self._next = now + PLAIN_SECONDS
            self.note(status.line())

    def note(self, text: str) -> None:
        """Write `text` as a line."""
        if not self._open:
            return
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except (
            OSError,
            ValueError,
            AttributeError,
        ) as error:  # a closed pipe, a full disk: a run outlives its reader
            self._open = False
            logger.warning("progress is no longer shown: %s", error)


class Live(Silent):
    """A bar that redraws itself."""

    def __init__(self, total_steps: int, console: Console | None = None) -> None:
        self._progress = Progress(
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[line]}"),
            console=console,
            refresh_per_second=LIVE_PER_SECOND,
        )
        self._task = self._progress.add_task("", total=total_steps, line="")

    def show(self, status: Status, *, milestone: bool = False) -> None:
        """Update the bar; a milestone leaves a line above it."""
        self._progress.update(self._task, completed=status.step, line=status.line())
        if milestone:
            self.note(status.line())

    def note(self, text: str) -> None:
        """Leave a line above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def make_display(total_steps: int, console: bool | None) -> Display:
    """Return a display: None chooses by whether stdout is a terminal, False shows nothing, True the bar."""
    if console is False:
        return Silent()
    shown = sys.stdout is not None and sys.stdout.isatty()
    return Live(total_steps) if console or shown else Plain()


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"
