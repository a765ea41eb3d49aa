"""Fault tests 2 and 5: killed, or out of disk, at every file operation of a save."""

import errno
import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import stand_in
from stand_in import DIGEST, CountingLayer, assert_is_state_of, state_at

from rlsuite.training.checkpoint import CheckpointStore, CheckpointWriteError
from rlsuite.training.files import FileLayer

KILLED = 9  # exit code of the writer that ends itself


def save_and_die(folder: Path, fail_at: int) -> None:
    """Run in a child: one good save, then one that ends the process at operation `fail_at`."""
    layer = CountingLayer(-1, stand_in.die)
    store = CheckpointStore(folder, fs=layer)
    store.save(100, **state_at(100))
    layer.fail_at = layer.count + fail_at
    store.save(200, **state_at(200))


def test_killed_at_every_file_operation_of_a_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    operations = stand_in.operations_of_a_save(tmp_path / "count")
    assert {"write", "link", "rename", "sync_folder", "make_folder"} <= set(operations)
    renamed = operations.index("rename")
    context = multiprocessing.get_context("fork")  # a fresh interpreter per operation would take minutes
    for number, name in enumerate(operations):
        folder = tmp_path / f"{number:02}-{name}"
        child = context.Process(target=save_and_die, args=(folder, number))
        child.start()
        child.join(60)
        assert child.exitcode == KILLED, f"operation {number} ({name})"

        caplog.clear()
        store = CheckpointStore(folder)
        survived = 200 if number > renamed else 100
        assert_is_state_of(store.load(config_digest=DIGEST), survived)
        # A folder gets its final name only when it is complete, so there is nothing to warn about.
        assert [r.getMessage() for r in caplog.records] == []

        store.save(300, **state_at(300))
        assert stand_in.stages(folder) == []
        assert_is_state_of(CheckpointStore(folder).load(config_digest=DIGEST), 300)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_every_operation_failing_in_turn_costs_one_checkpoint(tmp_path: Path, code: int) -> None:
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


def test_everything_is_on_the_disk_before_the_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that makes a power cut harmless: no process can test it, so the calls are looked at."""
    events: list[tuple[str, str]] = []

    class Watched(FileLayer):
        def write(self, path: Path, data: bytes) -> None:
            before = len(synced)
            super().write(path, data)
            assert len(synced) == before + 1, f"{path.name} was not synced"
            events.append(("write", path.name))

        def sync_folder(self, path: Path) -> None:
            before = len(synced)
            super().sync_folder(path)
            assert len(synced) == before + 1
            events.append(("sync", path.name.partition("-")[0]))

        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            events.append(("rename", target.name))

        def remove(self, path: Path) -> None:
            if path.name.startswith("step-"):
                events.append(("remove", path.name))
            super().remove(path)

    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor)))
    store = CheckpointStore(tmp_path, keep_last=1, fs=Watched())
    store.save(100, **state_at(100))
    events.clear()
    store.save(200, **state_at(200))
    names = [name for kind, name in events if kind == "write"]
    assert len(names) == 7 and names[-1] == "manifest.json"
    assert [event for event in events if event[0] != "write" or event[1] == "manifest.json"] == [
        ("sync", "replay"),
        ("write", "manifest.json"),
        ("sync", ".stage"),
        ("rename", "step-000000000200"),
        ("sync", tmp_path.name.partition("-")[0]),
        ("remove", "step-000000000100"),
    ]


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
from rlsuite.training.checkpoint import CheckpointStore, CheckpointWriteError
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


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=6m tmpfs {tmp_path}"
    allowed = subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False)
    if allowed.returncode != 0:
        pytest.skip("no file system may be mounted here")
    result = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            f'{mount} && exec "$0" -c "$1" "$2"',
            sys.executable,
            ON_A_SMALL_DISK,
            tmp_path,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == 0, result.stderr


def test_one_warning_when_the_newest_is_not_usable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path, keep_last=4)
    for step in (100, 200, 300, 400):
        path = store.save(step, **state_at(step))
        if step > 200:
            (path / "manifest.json").unlink()  # what a file system without order may leave after a power cut
    with caplog.at_level(logging.WARNING):
        assert_is_state_of(CheckpointStore(tmp_path).load(config_digest=DIGEST), 200)
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "step-000000000400: manifest.json cannot be read" in message
    assert "step-000000000300: manifest.json cannot be read" in message
