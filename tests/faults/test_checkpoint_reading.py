"""Fault tests 7, 8 and 9: damaged files, files that carry code, files of another shape or format."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from stand_in import DIGEST, assert_is_state_of, edit_manifest, replace_file, state_at

from rlsuite.errors import DataError
from rlsuite.training import manifest as manifests
from rlsuite.training.checkpoint import CheckpointStore, Loaded
from rlsuite.training.files import FileLayer

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


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two checkpoints, of steps 100 and 200."""
    store = CheckpointStore(tmp_path)
    return store.save(100, **state_at(100)), store.save(200, **state_at(200))


def test_the_list_of_files_is_complete(two: tuple[Path, Path]) -> None:
    found = {str(p.relative_to(two[1])) for p in two[1].rglob("*") if p.is_file()}
    assert found == {*FILES, "replay/chunk-0001.safetensors"}


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, empty, delete, link_to_a_copy, make_folder])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_older_checkpoint_loaded(
    two: tuple[Path, Path], caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None]
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


class Payload:
    """Unpickling this writes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.canary, "executed"))


def sign_again(path: Path, name: str) -> None:
    """Make the manifest of checkpoint `path` true for the present content of its file `name`."""
    data = (path / name).read_bytes()

    def change(body: dict[str, Any]) -> None:
        body["files"][name]["size"] = len(data)
        body["files"][name]["sha256"] = manifests.hashlib.sha256(data).hexdigest()

    edit_manifest(path, change)


def only(two: tuple[Path, Path]) -> Path:
    shutil.rmtree(two[0])
    return two[1]


def refused(path: Path) -> str:
    """Load, read everything, and return the error's text."""
    with pytest.raises(DataError) as caught:
        loaded = CheckpointStore(path.parent).load(config_digest=DIGEST)
        assert loaded is not None
        list(loaded.chunks())
    assert caught.value.exit_code == 3
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["agent.safetensors", "replay/chunk-0001.safetensors", "rng.json", "manifest.json"]
)
@pytest.mark.parametrize("pickled", ["plain", "torch"])
def test_a_pickle_with_a_true_digest_is_refused_and_not_executed(
    two: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, name: str, pickled: str
) -> None:
    path, canary = only(two), tmp_path_factory.mktemp("canary") / "canary"
    (path / name).unlink()
    if pickled == "plain":
        (path / name).write_bytes(pickle.dumps(Payload(canary)))
    else:
        torch.save({"weights": Payload(canary)}, path / name)
    if name != "manifest.json":
        sign_again(path, name)
    message = refused(path)
    assert Path(name).name in message
    assert not canary.exists()
    pickle.loads(pickle.dumps(Payload(canary)))  # the payload does work: had it run, we would know
    assert canary.read_text() == "executed"


BAD_NAMES = (
    "../x.json",
    "../../x.safetensors",
    "/etc/x.json",
    "replay/../../x.json",
    "replay/../agent.safetensors",
    "a/b.json",
    "replay/sub/x.safetensors",
    "./agent.safetensors",
    "replay//x.safetensors",
    "agent.pkl",
    "agent.pt",
    "agent.safetensors\n",
    "agent\0.json",
    "..json",
    "",
    "manifest.json",
    "x" * 300 + ".json",
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_or_hold_code_are_refused(two: tuple[Path, Path], name: str) -> None:
    path = only(two)
    for place in (path.parent / "x.json", path.parent / "x.safetensors", path / "x.json"):
        place.write_bytes(b"{}")
    edit_manifest(path, lambda body: body["files"].update({name: body["files"]["rng.json"]}))
    message = refused(path)
    assert "names the file" in message and repr(name)[:40] in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", "200"),
        ("step", -1),
        ("step", 1.5),
        ("step", True),
        ("step", 100),
        ("format", None),
        ("format", "1"),
        ("score", "high"),
        ("score", [1]),
        ("score", True),
        ("config_digest", 5),
        ("files", []),
        ("files", None),
        ("files", {"rng.json": 5}),
        ("files", {"rng.json": {"size": "3", "sha256": "0" * 64}}),
        ("files", {"rng.json": {"size": 3, "sha256": "0" * 63}}),
        ("files", {"rng.json": {"size": 3, "sha256": 7}}),
        ("files", {"rng.json": {"size": 10**30, "sha256": "0" * 64}}),
        ("files", {"rng.json": {"size": 3, "sha256": "0" * 64, "version": "x"}}),
    ],
)
def test_a_manifest_with_wrong_types_is_refused(two: tuple[Path, Path], field: str, value: object) -> None:
    path = only(two)
    edit_manifest(path, lambda body: body.update({field: value}))
    assert path.name in refused(path)


@pytest.mark.parametrize(
    "text", [b"", b"[1]", b"5", b"null", b"{", b"\xff\xfe", b"[" * 200_000, b'{"format": 1}']
)
def test_a_manifest_that_is_no_object_is_refused(two: tuple[Path, Path], text: bytes) -> None:
    path = only(two)
    (path / "manifest.json").write_bytes(text)
    assert "manifest.json" in refused(path)


def test_a_giant_manifest_is_refused_before_it_is_read(two: tuple[Path, Path]) -> None:
    path = only(two)
    with (path / "manifest.json").open("r+b") as file:
        file.truncate(manifests.MAX_MANIFEST_BYTES + 1)  # sparse: takes no disk
    assert "more than the" in refused(path)


def test_a_replay_folder_that_is_a_link_is_refused(two: tuple[Path, Path], tmp_path_factory: Any) -> None:
    path = only(two)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "replay"
    (path / "replay").rename(elsewhere)
    (path / "replay").symlink_to(elsewhere)
    assert "replay is a link" in refused(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 4,
        (2**63).to_bytes(8, "little") + b"{}",  # a header longer than any memory
        (60).to_bytes(8, "little")
        + b'{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}     ',  # no data
        (2).to_bytes(8, "little") + b"{}" + b"trailing bytes",
        safetensors_bytes({"x": torch.zeros(4)})[:-4],
    ],
)
def test_safetensors_that_lie_about_their_sizes_are_refused(two: tuple[Path, Path], data: bytes) -> None:
    path = only(two)
    replace_file(path / "agent.safetensors", data)
    sign_again(path, "agent.safetensors")
    assert "agent.safetensors is not a safetensors file" in refused(path)


def test_a_newer_format_is_refused_and_both_are_named(two: tuple[Path, Path]) -> None:
    newer = manifests.FORMAT + 1
    edit_manifest(two[1], lambda body: body.update(format=newer))
    store = CheckpointStore(two[0].parent)
    with pytest.raises(
        DataError, match=rf"format {newer}, this release reads up to format {manifests.FORMAT}"
    ):
        store.load(config_digest=DIGEST)
    # Nor does pruning stumble over it.
    store.save(300, **state_at(300))
    assert store.steps() == [200, 300]


def test_an_older_format_without_a_way_is_refused_and_both_are_named(two: tuple[Path, Path]) -> None:
    edit_manifest(two[1], lambda body: body.update(format=0))
    with pytest.raises(DataError, match=rf"format 0, this release reads format {manifests.FORMAT}"):
        CheckpointStore(two[0].parent).load(config_digest=DIGEST)


def test_the_fixture_of_the_first_format_still_loads(tmp_path: Path) -> None:
    """Written by the first release and never again: a later format must migrate it."""
    shutil.copytree(Path(__file__).parent / "format_1", tmp_path / "ckpt")
    loaded = CheckpointStore(tmp_path / "ckpt").load(config_digest=DIGEST)
    assert isinstance(loaded, Loaded)
    assert_is_state_of(loaded, 100)


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
