"""`metrics.jsonl`: one JSON object a line, valid at every moment, whatever the disk does."""

import io
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlsuite.runs.files import DISK, FileLayer, write_atomic
from rlsuite.strict import is_number

logger = logging.getLogger(__name__)

DISCARDED_FILE = "metrics.discarded.jsonl"


class MetricsFile:
    """Appends lines to a metrics file. A disk that is full costs lines and one warning, never the run."""

    def __init__(self, path: Path) -> None:
        """Use `path`; it is opened, and what a crash left of a torn last line cut off, at the first line."""
        self.path = path
        self.lost = 0
        self._descriptor: int | None = None
        self._end = 0  # bytes of whole lines; anything beyond is torn

    def append(self, record: Mapping[str, Any]) -> bool:
        """Write `record` as one line; return whether it is in the file. Not finite numbers become null."""
        line = json.dumps({key: finite(value) for key, value in record.items()}, allow_nan=False)
        data = f"{line}\n".encode()
        try:
            descriptor = self._open()
            if os.fstat(descriptor).st_size != self._end:
                os.ftruncate(descriptor, self._end)
            os.lseek(descriptor, self._end, os.SEEK_SET)
            self._write_all(descriptor, data)
        except OSError as error:
            self._give_up(error)
            return False
        self._end += len(data)
        return True

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def rewind(self, step: int, *, fs: FileLayer = DISK) -> int:
        """Move lines later than `step`, and torn ones, to `metrics.discarded.jsonl`; return how many.

        The discarded lines are safe before the file is replaced, so a crash in between loses nothing.

        Raises:
            OSError: the file system refused; the metrics are as they were.
        """
        self.close()
        if not self.path.exists():
            return 0
        kept: list[bytes] = []
        gone: list[bytes] = []
        data = self.path.read_bytes()
        for line in io.BytesIO(data):  # at newlines alone, as `read_metrics` does
            line = line.removesuffix(b"\n")
            record = _parse(line)
            at = None if record is None else record.get("step")
            (kept if is_number(at) and at <= step else gone).append(line)
        if not gone and (not data or data.endswith(b"\n")):
            return 0  # a last line that lacks its newline alone is kept, and would be cut off as torn
        discarded = self.path.with_name(DISCARDED_FILE)
        older = discarded.read_bytes() if discarded.exists() else b""
        if gone:
            write_atomic(discarded, older + _lines(gone), fs=fs)
        write_atomic(self.path, _lines(kept), fs=fs)
        return len(gone)

    def _write_all(self, descriptor: int, data: bytes) -> None:
        while data:  # a disk about to be full may take part of a line
            data = data[os.write(descriptor, data) :]

    def _open(self) -> int:
        if self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._end = _end_of_whole_lines(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor

    def _give_up(self, error: OSError) -> None:
        """Leave whole lines only; the next line is tried again, for space may return."""
        self.lost += 1
        if self.lost == 1:
            logger.warning(
                "metrics are lost while %s cannot be written: %s", self.path, error.strerror or error
            )
        if self._descriptor is not None:
            try:
                os.ftruncate(self._descriptor, self._end)
            except OSError as again:  # `append` cuts before it writes, so the file heals later
                logger.debug("%s keeps a torn line for now: %s", self.path, again)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a metrics file as dicts of numbers and None, each with its "step".

    A torn line, of a run that was killed, is passed over, and so is what no run writes: a line without a
    step, a value that is not a finite number.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for line in file:
            record = _parse(line)
            if record is not None and is_number(record.get("step")):
                yield {key: value for key, value in record.items() if value is None or is_number(value)}


def _end_of_whole_lines(descriptor: int) -> int:
    """Return the offset after the last newline."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    block = 1 << 16
    while end > 0:
        start = max(0, end - block)
        position = os.pread(descriptor, end - start, start).rfind(b"\n")
        if position >= 0:
            return start + position + 1
        end = start
    return 0


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _lines(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def finite(value: Any) -> float | int | None:
    """Return a number as a JSON value: tensors and numpy scalars become Python's, not finite is None."""
    if value is None:
        return None
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None
