"""Run folders: what is written into them and how they are read."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from rlsuite.errors import ConfigError
from rlsuite.runs import machine, runfolder
from rlsuite.runs.files import FileLayer, write_atomic
from rlsuite.runs.runfolder import RunFolder, default_run_path

CONFIG = {
    "agent_name": "sac",
    "preset": None,
    "train": {"env": "HalfCheetah", "steps": 1000, "loggers": ("tensorboard",), "limit": None},
    "agent": {"gamma": 0.99, "lr": 3e-4, "auto": True},
}


def test_config_and_meta_are_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a-very-secret-key")
    monkeypatch.setattr(sys, "argv", ["rlsuite", "train", "sac", "--env", "HalfCheetah"])
    path = tmp_path / "runs" / "first"
    with RunFolder.create(path, CONFIG, {"seed": 3, "engine": "native"}):
        pass
    run = RunFolder.open(path)
    assert run.config() == {
        "agent_name": "sac",
        "train": {"env": "HalfCheetah", "steps": 1000, "loggers": ["tensorboard"]},
        "agent": {"gamma": 0.99, "lr": 3e-4, "auto": True},
    }
    meta = run.meta()
    assert set(meta["versions"]) == {"python", *machine.PACKAGES}
    assert meta["command"] == "rlsuite train sac --env HalfCheetah"
    assert (meta["seed"], meta["engine"], meta["cpu_count"]) == (3, "native", os.cpu_count())
    assert {"started", "threads", "device_name", "platform"} <= set(meta)
    assert "a-very-secret-key" not in (path / "meta.json").read_text() + (path / "config.toml").read_text()
    assert sorted(p.name for p in path.iterdir()) == ["config.toml", "meta.json"]
    assert (run.checkpoints, run.metrics) == (path / "ckpt", path / "metrics.jsonl")


def test_a_replaced_config_is_read_back_and_a_refusal_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with RunFolder.create(tmp_path, CONFIG, {}) as run:
        run.replace_config({**CONFIG, "agent": {"gamma": 0.9}})
        monkeypatch.setattr(runfolder, "write_atomic", refuse)
        with pytest.raises(ConfigError, match="No space left"):
            run.replace_config(CONFIG)
    assert RunFolder.open(tmp_path).config()["agent"] == {"gamma": 0.9}


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="rlsuite resume"):
        RunFolder.create(tmp_path, CONFIG, {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_and_one_with_a_left_over_lock_are_used(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("")
    with RunFolder.create(tmp_path, CONFIG, {}):
        pass
    assert (tmp_path / "config.toml").is_file()


def test_opening_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run folder"):
        RunFolder.open(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="is not a run folder"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(("name", "read"), [("config.toml", RunFolder.config), ("meta.json", RunFolder.meta)])
def test_a_spoilt_file_is_named(tmp_path: Path, name: str, read) -> None:
    with RunFolder.create(tmp_path, CONFIG, {}) as run:
        (tmp_path / name).write_text("{{{")
        with pytest.raises(ConfigError, match=name):
            read(run)
        (tmp_path / name).write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match=name):
            read(run)


def test_meta_that_is_not_an_object_is_refused(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, CONFIG, {}) as run:
        (tmp_path / "meta.json").write_text(json.dumps([1]))
        with pytest.raises(ConfigError, match="not an object"):
            run.meta()


@pytest.mark.parametrize(
    ("agent", "env", "start"),
    [
        ("sac", "HalfCheetah", "sac-HalfCheetah-s7-"),
        ("sac", "gym:Pendulum-v1", "sac-gym-Pendulum-v1-s7-"),
        ("sac", "../../etc/passwd", "sac-..-..-etc-passwd-s7-"),
        ("..", "..", "run-s7-"),
        ("a\0b", "c d\n", "a-b-c-d--s7-"),
    ],
)
def test_generated_names_are_safe(tmp_path: Path, agent: str, env: str, start: str) -> None:
    path = default_run_path(agent, env, 7, tmp_path)
    assert path.parent == tmp_path
    assert path.name.startswith(start)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*-s7-\d{8}T\d{6}Z", path.name)


def test_generated_names_are_short_and_new(tmp_path: Path) -> None:
    first = default_run_path("x" * 5000, "y", 0, tmp_path)
    assert len(first.name) < 200
    first.mkdir()
    for _ in range(3):  # the clock may tick between two calls; a second name is new either way
        path = default_run_path("x" * 5000, "y", 0, tmp_path)
        assert not path.exists()
        path.mkdir()


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    class NoRename(FileLayer):
        def rename(self, source: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"older")
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new", fs=NoRename())
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
