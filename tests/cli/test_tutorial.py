"""The tutorial "your own environment": its code and its first commands, in small, one after the other."""

import re
import sys

import pytest
from shown_commands import ROOT, rlsuite_words, shown_commands

PAGE = ROOT / "docs" / "tutorial_own_env.md"
SMALL = (
    *(
        "--steps",
        "300",
        "--warmup-steps",
        "100",
        "--batch-size",
        "16",
        "--eval-every",
        "150",
        "--threads",
        "1",
    ),
    *("--eval-episodes", "1", "--agent.hidden", "16", "16", "--loggers"),
)


def command(beginning):
    """The words of the first command of the page that begins so."""
    shown = [item.text for item in shown_commands() if item.page.endswith(PAGE.name)]
    return rlsuite_words(next(text for text in shown if text.startswith(beginning)))


def test_from_the_class_to_the_policy(tmp_path, monkeypatch, rlsuite, capsys):
    environment, program = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # --import adds the working folder
    (tmp_path / "cart.py").write_text(environment)
    try:
        checked = rlsuite(*command("rlsuite check env"))
        assert (checked.code, checked.err) == (0, "") and "keeps the contract" in checked.out
        assert rlsuite(*command("rlsuite train sac"), *SMALL).code == 0
        played = rlsuite(*command("rlsuite eval"), "--episodes", "2", "--json")
        assert played.code == 0
        exec(compile(program, PAGE.name, "exec"), {})
        assert float(capsys.readouterr().out) == pytest.approx(0, abs=400)
    finally:
        sys.modules.pop("cart", None)
