"""Row 12: names with `..`, NUL, links, thousands of letters: refused, nothing touched."""

import os
from pathlib import Path

import pytest
from offline.offline_helpers import episodes_of, write_minari

from rlsuite.errors import ConfigError
from rlsuite.offline.load import load_dataset
from rlsuite.offline.locate import locate
from rlsuite.offline.names import check_name, recipe
from rlsuite.runs import runfolder
from rlsuite.runs.runfolder import LOCK_FILE, RunFolder

REFUSED = "tricks with paths refused"


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\0b", "NUL"),
        ("x" * 256, "longer than the 255 bytes"),
        ("é" * 128, "longer than the 255 bytes"),  # 128 letters, 256 bytes
        ("/".join(["d" * 200] * 25), "longer than 3840 bytes"),
        ("file/run", "is a file"),
        ("file", "is a file"),
        ("file/../file/deep/run", "is a file"),
        ("dangling", "a link to something that does not exist"),
        ("loop", "a link to something that does not exist"),
    ],
)
def test_unusable_paths_are_refused_before_anything_is_touched(
    tmp_path: Path, name: str, message: str, count
) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        RunFolder.create(tmp_path / name, {}, {})
    assert caught.value.exit_code == 2
    assert tree(tmp_path) == before
    assert (tmp_path / "file").read_text() == "precious"
    count(REFUSED)


def test_a_parent_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The superuser may write anywhere, so what the system would answer others is put in its place.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="cannot be written to"):
        RunFolder.create(tmp_path / "a" / "b", {}, {})
    assert tree(tmp_path) == []


def test_a_disk_that_refuses_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(runfolder, "write_atomic", refuse)
    with pytest.raises(ConfigError, match="Read-only file system"):
        RunFolder.create(tmp_path / "run", {}, {})
    assert tree(tmp_path / "run") == []  # the lock is not left behind


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path, count) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK_FILE).symlink_to(precious)
    with pytest.raises(ConfigError, match="cannot write the run folder"):
        RunFolder.create(tmp_path / "run", {}, {})
    assert precious.read_text() == "data"
    count(REFUSED)


TRICKS = [
    "..",
    "../up",
    "D4RL/../../up-v0",
    "/etc/passwd",
    "a//b",
    "a/./b",
    "-v0",
    "a\0b",
    "a\nb",
    "~root/x",
    "x" * 300,
    "D4RL\\pen",
    "",
    "ü-v0",
]


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_with_names_are_refused_before_any_file_is_touched(name, monkeypatch, count):
    def touched(*_args, **_kwargs):
        raise AssertionError("a file was touched")

    for method in ("exists", "is_file", "is_dir", "open", "resolve", "iterdir", "stat"):
        monkeypatch.setattr(Path, method, touched)
    with pytest.raises(ConfigError) as caught:
        check_name(name)
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError):
        recipe(name)
    count(REFUSED)


@pytest.mark.parametrize("name", [t for t in TRICKS if not t.startswith(("/", ".", "~"))])
def test_ids_that_are_tricks_are_refused(roots, name, count):
    with pytest.raises(ConfigError):
        locate(name)
    count(REFUSED)


def test_links_out_of_the_data_folder_are_refused(roots, count):
    outside = write_minari(roots / "outside", episodes_of([3]))
    (roots / "minari" / "tests").mkdir(parents=True)
    (roots / "minari" / "tests" / "toy-v0").symlink_to(outside)
    with pytest.raises(ConfigError, match="leads out of"):
        locate("tests/toy-v0")
    count(REFUSED)
    assert len(load_dataset(str(outside)).rows) == 3  # named by its path it may lie anywhere
