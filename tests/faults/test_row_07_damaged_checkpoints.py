"""Row 7: a file of a checkpoint cut short, or a byte of it flipped: named, and the one before is loaded."""

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stand_in import DIGEST, assert_is_state_of, replace_file, state_at

from rlsuite.errors import DataError
from rlsuite.runs import manifest as manifests
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.files import FileLayer

FILES = (
    "manifest.json",
    "agent.safetensors",
    "optim.safetensors",
    "counters.json",
    "rng.json",
    "replay/chunk-0000.safetensors",
    "replay/chunk-0002.safetensors",
)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    replace_file(path, bytes(data))


def cut_short(path: Path) -> None:
    replace_file(path, path.read_bytes()[:-3])


def empty(path: Path) -> None:
    replace_file(path, b"")


def delete(path: Path) -> None:
    path.unlink()


def link_to_a_copy(path: Path) -> None:
    """Right content, wrong kind of file: a link may be pointed elsewhere after it was checked."""
    copy = path.parent / "copy"
    path.rename(copy)
    path.symlink_to(copy)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_the_list_of_files_is_complete(two: tuple[Path, Path]) -> None:
    found = {str(p.relative_to(two[1])) for p in two[1].rglob("*") if p.is_file()}
    assert found == {*FILES, "replay/chunk-0001.safetensors"}


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, empty, delete, link_to_a_copy, make_folder])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_older_checkpoint_loaded(
    two: tuple[Path, Path],
    caplog: pytest.LogCaptureFixture,
    count: Any,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    older, newer = two
    damage(newer / name)
    assert_is_state_of(CheckpointStore(older.parent).load(config_digest=DIGEST), 100)
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert Path(name).name in message and newer.name in message and older.name in message

    damage(older / name if (older / name).exists() else older / "replay/chunk-0001.safetensors")
    with pytest.raises(DataError, match="no usable checkpoint") as caught:
        CheckpointStore(older.parent).load(config_digest=DIGEST)
    assert caught.value.exit_code == 3
    assert newer.name in str(caught.value) and older.name in str(caught.value)
    count("files damaged, noticed and named")


@pytest.mark.parametrize("stride", [41, pytest.param(1, marks=pytest.mark.faults_long)])
@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed(two: tuple[Path, Path], count: Any, name: str, stride: int) -> None:
    """A checkpoint with one byte other is never loaded: each time the one before is."""
    older, newer = two
    whole = (newer / name).read_bytes()
    chance = random.Random(name)
    for position in range(0, len(whole), stride):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << chance.randrange(8)
        replace_file(newer / name, bytes(damaged))
        loaded = CheckpointStore(older.parent).load(config_digest=DIGEST)
        assert loaded is not None
        if loaded.step != 100:  # white space of the manifest for other white space
            assert name == "manifest.json" and json.loads(damaged) == json.loads(whole)
            continue
        count("bytes flipped and noticed")


def test_sizes_and_digests_are_named(two: tuple[Path, Path]) -> None:
    flip_a_byte(two[0] / "rng.json")
    cut_short(two[1] / "rng.json")
    with pytest.raises(
        DataError, match=r"rng.json has \d+ bytes, the manifest says \d+.*rng.json has digest"
    ):
        CheckpointStore(two[0].parent).load(config_digest=DIGEST)


def test_every_byte_of_the_manifest_is_covered(two: tuple[Path, Path]) -> None:
    shutil.rmtree(two[0])
    path = two[1] / "manifest.json"
    original = path.read_bytes()
    believed = json.loads(original)
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 2
        path.write_bytes(changed)
        try:
            manifest = manifests.read(path)
        except manifests.Broken:
            continue
        # A flip that turned a space into other white space, say, is harmless.
        assert json.loads(manifest.to_bytes()) == believed, f"byte {position}"


def test_bad_blocks_under_a_linked_chunk_are_seen_in_both(two: tuple[Path, Path]) -> None:
    """Two checkpoints share the bytes of an unchanged chunk, so damage there ends both, and is seen."""
    shared = two[1] / "replay/chunk-0000.safetensors"
    assert shared.samefile(two[0] / "replay/chunk-0000.safetensors")
    with shared.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(DataError, match=r"chunk-0000\.safetensors has digest"):
        CheckpointStore(two[0].parent).load(config_digest=DIGEST)


def test_a_chunk_that_changes_after_loading_is_refused(two: tuple[Path, Path]) -> None:
    loaded = CheckpointStore(two[0].parent).load(config_digest=DIGEST)
    assert loaded is not None
    flip_a_byte(loaded.path / "replay/chunk-0002.safetensors")
    rows = loaded.chunks()
    assert next(rows)[0] == "chunk-0000"
    with pytest.raises(DataError, match="chunk-0002"):
        list(rows)


def test_known_damage_neither_counts_as_kept_nor_is_kept(two: tuple[Path, Path]) -> None:
    flip_a_byte(two[1] / "rng.json")
    store = CheckpointStore(two[0].parent)
    store.load(config_digest=DIGEST)
    redone = store.save(200, **state_at(200))
    assert sorted(p.name for p in two[0].parent.iterdir()) == [two[0].name, redone.name]


def test_a_folder_that_cannot_be_listed_as_a_run_has_no_checkpoint(tmp_path: Path) -> None:
    for name in (
        "step-1",
        "step-000000000001x",
        "xstep-000000000001",
        ".stage-000000000001-5",
        "step-000000000001-",
    ):
        (tmp_path / name).mkdir()
    assert CheckpointStore(tmp_path, fs=FileLayer()).load(config_digest=None) is None


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
