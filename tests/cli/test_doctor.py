"""`rlsuite doctor` says what is there, what is not, and what to do about it."""

import importlib.metadata
import json

import pytest

from rlsuite.cli import doctor


@pytest.fixture
def no_picture(monkeypatch):
    """Spare the seconds of a first picture."""
    monkeypatch.setattr(doctor, "PICTURE", "print('works')")


def test_every_topic_is_told_as_lines_and_as_json(no_picture, capsys):
    assert doctor.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert doctor.run(["--json"]) == 0
    topics = json.loads(capsys.readouterr().out)
    assert [line for line in lines if not line.startswith(" ")] == list(topics)
    told = {line.split(maxsplit=1)[0] for line in lines if line.startswith(" ")}
    assert {name.split()[0] for facts in topics.values() for name in facts} == told
    assert topics["versions"]["torch"] == importlib.metadata.version("torch")
    assert topics["pictures"]["drawing"] == "works"


def test_a_package_that_is_missing_names_its_extra(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert dict(doctor.versions())["onnxruntime"] == "not installed: pip install 'rlsuite[export]'"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('gives black pictures')", "gives black pictures"),
        ("raise SystemExit('no driver')", "no driver"),
        ("import os; os._exit(7)", "exit code 7"),
        ("import time; time.sleep(60)", "did not end within 0.5 s"),
    ],
)
def test_drawing_that_fails_is_told_and_never_hangs(monkeypatch, program, said):
    monkeypatch.setattr(doctor, "PICTURE", program)
    monkeypatch.setattr(doctor, "RENDER_SECONDS", 0.5 if "sleep" in program else 30)
    assert dict(doctor.pictures())["drawing"] == said


def test_the_picture_that_is_tried_is_drawn_here():
    assert dict(doctor.pictures())["drawing"] == "works"


def test_without_a_compiler_updates_are_said_to_be_eager(monkeypatch):
    monkeypatch.setattr("rlsuite.agents.compiled.compiler", lambda: None)
    assert "runs are eager" in dict(doctor.updates())["compiled updates"]


def test_a_folder_that_cannot_be_written_is_marked(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "new" / "data"))
    assert "(not made yet, " in dict(doctor.folders())["minari"]
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "CANNOT BE WRITTEN" in dict(doctor.folders())["minari"]
