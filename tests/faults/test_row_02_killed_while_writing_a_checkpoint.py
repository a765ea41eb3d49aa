"""Row 2: killed at every file operation of a save, the one before loads and the next save succeeds."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import stand_in
from stand_in import DIGEST, CountingLayer, assert_is_state_of, state_at

from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.files import FileLayer

KILLED = 9  # exit code of the writer that ends itself


def save_and_die(folder: Path, fail_at: int) -> None:
    """Run in a child: one good save, then one that ends the process at operation `fail_at`."""
    layer = CountingLayer(-1, stand_in.die)
    store = CheckpointStore(folder, fs=layer)
    store.save(100, **state_at(100))
    layer.fail_at = layer.count + fail_at
    store.save(200, **state_at(200))


def test_killed_at_every_file_operation_of_a_save(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: Any
) -> None:
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
        count("file operations of a save, killed at")


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
