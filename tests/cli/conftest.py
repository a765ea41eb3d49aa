"""The command line in this process, and a run folder made by a loop that does not train."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from rlsuite.cli import main as cli
from rlsuite.errors import RLSuiteError
from rlsuite.training import start
from rlsuite.training.loop import TrainResult


@dataclass
class Answer:
    """What one command line left: exit code and both streams."""

    code: int
    out: str
    err: str


@pytest.fixture
def rlsuite(capsys, monkeypatch):
    """Run `rlsuite WORDS` through `main`, as the console script does."""

    def run(*words: str) -> Answer:
        monkeypatch.setattr("sys.argv", ["rlsuite", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return Answer(stop.value.code, captured.out, captured.err)

    return run


@dataclass
class FakeLoop:
    """Stands in for the training loop: keeps its arguments, writes one evaluation, ends as told."""

    result: TrainResult | RLSuiteError = field(default_factory=lambda: TrainResult(False, 10, 5, 2.0, 1.0))
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, agent_class, agent_config, config, folder, *, stop=None, resume=False, hooks=None):
        self.calls.append(
            {"class": agent_class, "agent": agent_config, "train": config, "stop": stop, "resume": resume}
        )
        if isinstance(self.result, RLSuiteError):
            raise self.result
        line = {"step": 10, "eval/return_mean": 1.0, "eval/return_std": 0.0, "eval/length_mean": 7.0}
        folder.metrics.write_text(json.dumps(line) + "\n")
        return self.result


@pytest.fixture
def loop(monkeypatch):
    """Replace the training loop; the lines around it stay real."""
    fake = FakeLoop()
    monkeypatch.setattr(start, "train", fake)
    return fake
