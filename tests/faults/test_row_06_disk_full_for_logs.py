"""Row 6: no room for metrics; the run goes on, one warning, whole lines only."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlsuite.training.recorder import Recorder


class Disk:
    """Stands before `os.write`: while full, takes half of what it is given, then refuses."""

    def __init__(self) -> None:
        self.full = False
        self.write = os.write

    def __call__(self, descriptor: int, data: bytes) -> int:
        if not self.full:
            return self.write(descriptor, data)
        if len(data) > 20:
            return self.write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("truncation_works", [True, False])
def test_no_torn_line_and_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    truncation_works: bool,
    count: Any,
) -> None:
    disk, cut = Disk(), os.ftruncate

    def ftruncate(descriptor: int, length: int) -> None:
        if disk.full and not truncation_works:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        cut(descriptor, length)

    monkeypatch.setattr(os, "write", disk)
    monkeypatch.setattr(os, "ftruncate", ftruncate)
    path = tmp_path / "metrics.jsonl"
    with Recorder(tmp_path, total_steps=100, console=False) as recorder:
        for step in range(12):
            disk.full = step in (3, 4, 5, 8)
            recorder.log(step, step, {"loss": float(step), "name_that_is_rather_long": 1.0})
            if truncation_works:
                assert path.read_bytes().endswith(b"\n")
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 6, 7, 9, 10, 11]
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text
    count("lines refused by a full disk, none torn", 4)


def test_metrics_that_cannot_even_be_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with Recorder(tmp_path, total_steps=100, console=False) as recorder:
        for step in range(3):
            recorder.log(step, step, {})
    assert len(caplog.records) == 1


ON_A_SMALL_DISK = """
import json, shutil, sys
from pathlib import Path
from rlsuite.training.recorder import Recorder

disk = Path(sys.argv[1])
with Recorder(disk, loggers=("tensorboard",), total_steps=100, console=False) as recorder:
    recorder.log(0, 0, {"loss": 1.0})
    hog = disk / "hog"
    hog.write_bytes(b"x" * shutil.disk_usage(disk).free)
    for step in range(1, 3000):
        recorder.log(step, step, {"loss": 1.0})
    hog.unlink()
    recorder.log(3000, 3000, {"loss": 1.0})
steps = [json.loads(line)["step"] for line in (disk / "metrics.jsonl").read_text().splitlines()]
assert steps[0] == 0 and steps[-1] == 3000, steps
assert len(steps) < 3000, "the disk was never full"
"""


def test_a_disk_that_is_really_full(on_small_disk) -> None:
    assert on_small_disk(ON_A_SMALL_DISK, "1m").count("metrics are lost while") == 1
