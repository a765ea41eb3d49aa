"""Row 5: no room, or another refusal of the disk, at every file operation of a save; really full disks."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import stand_in
import whole_runs as runs
from stand_in import DIGEST, CountingLayer, assert_is_state_of, state_at

from rlsuite.errors import DataError
from rlsuite.runs.checkpoint import CheckpointStore, CheckpointWriteError
from rlsuite.runs.files import FileLayer


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_every_operation_failing_in_turn_costs_one_checkpoint(tmp_path: Path, code: int, count: Any) -> None:
    def fail(layer: CountingLayer, name: str, arguments: Any) -> None:
        stand_in.half_write(name, arguments)
        raise OSError(code, os.strerror(code))

    operations = stand_in.operations_of_a_save(tmp_path / "count")
    renamed = operations.index("rename")
    failures = 0
    for number, name in enumerate(operations):
        folder = tmp_path / f"{number:02}-{name}"
        layer = CountingLayer(-1, fail)
        store = CheckpointStore(folder, fs=layer)
        store.save(100, **state_at(100))
        layer.fail_at = layer.count + number
        try:
            store.save(200, **state_at(200))
        except CheckpointWriteError as error:
            failures += 1
            assert error.exit_code == 3
            assert os.strerror(code) in str(error)
            assert f"{error.needed:,} bytes" in str(error) and f"{error.free:,} are free" in str(error)
            assert error.needed > 0
            survived = 100 if number <= renamed else 200
        else:
            # A link that fails is a file written instead; the stage is gone already when it is removed.
            assert name in ("link", "remove"), f"operation {number} ({name}) failed unnoticed"
            survived = 200
        assert stand_in.stages(folder) == []
        assert_is_state_of(CheckpointStore(folder).load(config_digest=DIGEST), survived)
        store.save(300, **state_at(300))
        assert_is_state_of(CheckpointStore(folder).load(config_digest=DIGEST), 300)
    assert failures >= operations.count("write") + 2
    count(f"file operations of a save, failing with {errno.errorcode[code]}", len(operations))


def test_too_little_space_is_seen_before_anything_is_written(tmp_path: Path) -> None:
    class Full(FileLayer):
        free = 10_000

        def free_bytes(self, path: Path) -> int:
            return self.free

        def write(self, path: Path, data: bytes) -> None:
            assert self.free > 10_000, "written although there is no room"
            super().write(path, data)

    layer = Full()
    store = CheckpointStore(tmp_path, fs=layer)
    with pytest.raises(CheckpointWriteError, match="No space left") as caught:
        store.save(100, **state_at(100))
    assert caught.value.free == 10_000 < caught.value.needed
    assert list(tmp_path.iterdir()) == []
    layer.free = 10**9
    store.save(100, **state_at(100))
    assert_is_state_of(store.load(config_digest=DIGEST), 100)


def test_a_stage_that_cannot_even_be_removed_is_ignored_and_removed_later(tmp_path: Path) -> None:
    class ReadOnly(FileLayer):
        broken = False

        def write(self, path: Path, data: bytes) -> None:
            if self.broken:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            super().write(path, data)

        def remove(self, path: Path) -> None:
            if self.broken:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            super().remove(path)

    layer = ReadOnly()
    store = CheckpointStore(tmp_path, fs=layer)
    store.save(100, **state_at(100))
    layer.broken = True
    with pytest.raises(CheckpointWriteError, match="Read-only"):
        store.save(200, **state_at(200))
    assert len(stand_in.stages(tmp_path)) == 1
    assert_is_state_of(store.load(config_digest=DIGEST), 100)
    layer.broken = False
    store.remove_stages()
    assert stand_in.stages(tmp_path) == []


ON_A_SMALL_DISK = """
import shutil, sys, torch
from pathlib import Path
from rlsuite.runs.checkpoint import CheckpointStore, CheckpointWriteError
from stand_in import DIGEST, assert_is_state_of, stages, state_at

disk = Path(sys.argv[1])
store = CheckpointStore(disk / "ckpt")
store.save(100, **state_at(100))
hog = disk / "hog"
for leave in (3 << 20, 1 << 16):  # room for the check and not for the file; room for nothing
    hog.write_bytes(b"x" * (shutil.disk_usage(disk).free - leave))
    big = state_at(200)
    # The check is told nothing of the size of this chunk, so that the write itself meets the full disk.
    big["chunks"] = [type(big["chunks"][0])(name="big", version=1, rows=lambda: {"x": torch.zeros(2 << 20)})]
    try:
        store.save(200, **big)
    except CheckpointWriteError as error:
        assert "No space left" in str(error), error
    else:
        sys.exit("a save of 8 MiB fitted where it cannot")
    assert stages(disk / "ckpt") == []
    assert_is_state_of(store.load(config_digest=DIGEST), 100)
    hog.unlink()
store.save(300, **state_at(300))
assert_is_state_of(CheckpointStore(disk / "ckpt").load(config_digest=DIGEST), 300)
"""


def test_a_disk_that_is_really_full(on_small_disk) -> None:
    on_small_disk(ON_A_SMALL_DISK, "6m")


def test_a_failed_save_in_the_middle_is_counted_and_at_the_end_it_is_an_error(tmp_path, monkeypatch):
    real, calls = CheckpointStore.save, []

    def full_twice(self, step, **kwargs):
        calls.append(step)
        if len(calls) <= 2:
            raise CheckpointWriteError("disk full", needed=10, free=1)
        return real(self, step, **kwargs)

    monkeypatch.setattr(CheckpointStore, "save", full_twice)
    runs.train(tmp_path / "run")
    assert runs.lines(tmp_path / "run")[-1]["ckpt/failed"] == 2
    assert runs.newest(tmp_path / "run").name.endswith("800")

    def full(self, step, **kwargs):
        raise CheckpointWriteError("disk full", needed=10, free=1)

    monkeypatch.setattr(CheckpointStore, "save", full)
    with pytest.raises(DataError, match="disk full"):
        runs.train(tmp_path / "other")
