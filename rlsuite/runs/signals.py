"""Asking a run to stop: signals set a flag, the loop reads it at its next step boundary."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

EXIT_SIGINT = 130  # 128 + SIGINT, the shell's convention

_SHOW_CURSOR = "\x1b[?25h"  # a live progress display hides it


class StopFlag:
    """Context manager that turns SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 into the attribute `stop`.

    A second SIGINT leaves the process at once with exit code 130: nothing is saved, and what was being
    written stays an unnamed stage that the next start removes. Outside the main thread (where Python
    forbids handlers) the context does nothing. Old handlers are restored on exit.

    Attributes:
        stop: name of the first signal received ("SIGTERM"), None while there was none.
    """

    # Slurm sends one of the last two; not every system has them.
    SIGNALS = tuple(
        getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.stop: str | None = None
        self._interrupts = 0
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            # None means a handler installed from C, which Python can neither describe nor put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                _leave_at_once()
        if self.stop is None:
            self.stop = signal.Signals(number).name


def _leave_at_once() -> None:
    # Straight to the file descriptor: the interrupted code may hold the lock of a buffered stream.
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None and stream.isatty():
                os.write(stream.fileno(), _SHOW_CURSOR.encode())
                break
        except (OSError, ValueError):  # closed or without descriptor: there is no terminal to repair
            continue
    os._exit(EXIT_SIGINT)
