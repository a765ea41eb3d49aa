"""Standard output that may fail: a reader that leaves, a full disk or a closed stream end no command."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger(__name__)


class Console:
    """A text stream that goes silent, with one warning, where the one below it fails.

    Args:
        stream: what is written to; None is a stream that was closed before the start.

    Attributes:
        lost: what was to be written could not be, and not because a reader had enough (`| head`).
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost = False

    def write(self, text: str) -> int:
        """Write `text` where that is possible; return its length."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError) as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what is held back, where that is possible."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._fail(error)

    def isatty(self) -> bool:
        """Return whether a terminal shows it."""
        return self._stream is not None and self._stream.isatty()

    @property
    def encoding(self) -> str:
        """Encoding of the stream below."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _fail(self, error: Exception) -> None:
        stream, self._stream = self._stream, None
        reader_left = isinstance(error, OSError) and error.errno == errno.EPIPE
        self.lost = self.lost or not reader_left
        with contextlib.suppress(OSError, ValueError):  # what is held back would fail again at the very end
            below = stream.fileno()
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, below)
            os.close(descriptor)
        if not reader_left:
            logger.warning("standard output fails (%s): going on without it", error)
        else:
            logger.info("nobody reads standard output any more: going on without it")


@contextlib.contextmanager
def lenient_streams() -> Iterator[Console]:
    """Put a `Console` in place of standard output; letters that a stream cannot show become "?"."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")
    before, console = sys.stdout, Console(sys.stdout)
    sys.stdout = console
    try:
        yield console
        console.flush()
    finally:
        sys.stdout = before
