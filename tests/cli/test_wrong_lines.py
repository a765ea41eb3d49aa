"""Wrong command lines made from the commands' own fields: a sample here, all of them with `-m long`."""

import random
from pathlib import Path

import pytest
import wrong_lines


@pytest.mark.parametrize("count", [30, pytest.param(wrong_lines.COUNT, marks=pytest.mark.long)])
def test_wrong_lines_end_with_one_line_and_leave_nothing(tmp_path, monkeypatch, count):
    monkeypatch.chdir(tmp_path)
    wrong_lines.make_run(Path("run"))
    lines = wrong_lines.wrong_lines("run", "run/config.toml", random.Random(count), count)
    assert len(lines) == count
    assert not wrong_lines.failures(lines, (tmp_path,))


def test_the_check_sees_what_is_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert wrong_lines.outcome(("list", "agents"), (tmp_path,)).problem == "exit code 0"
