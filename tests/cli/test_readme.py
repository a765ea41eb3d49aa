"""What the README shows works."""

import re
import shlex
from pathlib import Path

import pytest

from rlsuite.bench.d4rl import D4rlLine
from rlsuite.bench.paper import PaperLine
from rlsuite.bench.study import StudyLine
from rlsuite.bench.sweep import SweepLine
from rlsuite.cli import _line, train
from rlsuite.cli.data import MakeLine
from rlsuite.cli.eval import EvalLine
from rlsuite.cli.export import ExportLine
from rlsuite.cli.report import ReportLine
from rlsuite.cli.resume import ResumeLine

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS = [line.partition("#")[0] for line in README.splitlines() if line.startswith("rlsuite ")]


def test_the_loop_runs_and_updates():
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), names)
    assert len(names["metrics"]) > 0
    assert len(names["replay"]) == 400


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses(line, rlsuite, monkeypatch):
    monkeypatch.setattr("rlsuite.offline.load.environment_of", lambda name: "gym:Maze")  # no data are here
    _, command, *words = shlex.split(line)
    if command == "train" and "--dataset" in words:
        parsed, _ = train.parse_line(words[0], words[1:])
        assert parsed.train.dataset in line
    elif command == "train":
        parsed, _ = train.parse_line(words[0], words[1:])
        assert parsed.train.env in line
    elif command == "list":
        assert rlsuite(command, *words).code == 0
    elif command == "data":
        assert words[0] == "make"
        assert _line.parse(MakeLine, words[1:], prog="rlsuite data make").name in line
    elif command == "bench":
        kind = {"d4rl": D4rlLine, "paper": PaperLine, "study": StudyLine}[words[0]]
        assert _line.parse(kind, words[1:], prog="rlsuite bench").agents in line
    elif command == "sweep":
        assert _line.parse(SweepLine, words, prog="rlsuite sweep").agent in line
    elif command == "report":
        assert len(_line.parse(ReportLine, words, prog="rlsuite report").runs) == 2
    else:
        kind = {"resume": ResumeLine, "eval": EvalLine, "export": ExportLine}[command]
        assert str(_line.parse(kind, words, prog="rlsuite").run) in line
