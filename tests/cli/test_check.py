"""`rlsuite check env` as a command: lines, exit codes, mistakes."""

import sys
from pathlib import Path

import pytest

from rlsuite import extensions

TEMPLATE = (Path(__file__).parents[2] / "examples" / "templates" / "task" / "my_slide.py").read_text()
SIGN_UP = '\nfrom rlsuite import registry\n\nregistry.register_task("Mine", __name__)\n'


def test_the_command_prints_findings_and_says_so_in_its_exit_code(rlsuite, tmp_path, monkeypatch):
    monkeypatch.setattr(extensions, "_registered", {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "fine.py").write_text(TEMPLATE + SIGN_UP)
    wrong = TEMPLATE.replace('torch.cat((fields["qpos"], fields["qvel"]), dim=-1)', 'fields["qpos"]')
    (tmp_path / "wrong.py").write_text(wrong + SIGN_UP.replace("Mine", "Wrong"))
    good = rlsuite("check", "env", "Mine", "--import", "fine")
    assert (good.code, good.out, good.err) == (0, "Mine keeps the contract\n", "")
    bad = rlsuite("check", "env", "Wrong", "--import", "wrong")
    assert bad.code == 5
    assert bad.out.startswith("wrong.observation: returns a view of qpos") and bad.out.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("env", "HalfCheeta"), 'Did you mean "HalfCheetah"?'),
        (("env", "Hopper", "--env-option", "colour=3"), "colour"),
        (("task", "Hopper"), "task"),
        (("env",), "missing"),
    ],
)
def test_mistakes_are_one_line(rlsuite, words, message):
    answer = rlsuite("check", *words)
    assert answer.code == 2
    assert message.lower() in answer.err.lower() and answer.err.count("\n") == 1
