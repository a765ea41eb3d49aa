"""What other libraries say on standard error, and what a wrong MUJOCO_GL comes to, in own processes."""

import os
import subprocess
import sys

import pytest

ROBOTICS = "gym:gymnasium_robotics:AdroitHandDoor-v1"


def start(*words, **variables):
    line = [sys.executable, "-m", "rlsuite", *words]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **variables})


def test_notices_of_other_packages_are_not_shown(tmp_path):
    pytest.importorskip("gymnasium_robotics")
    answer = start("train", "d_eta_n", "--env", ROBOTICS, "--out", str(tmp_path / "run"))
    assert answer.returncode == 2
    assert answer.stderr.startswith("rlsuite: ")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("eval", "{run}"), ("train", "sac", "--env", "Reacher", "--out", "{new}")])
def test_a_wrong_backend_of_pictures_is_one_line(tmp_path, words):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    places = {"run": tmp_path / "run", "new": tmp_path / "new"}
    answer = start(*(word.format(**places) for word in words), MUJOCO_GL="bogus")
    assert answer.returncode == 2
    assert "MUJOCO_GL" in answer.stderr and "bogus" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()
