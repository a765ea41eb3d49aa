"""Metrics on disk, loggers, progress and the learning curve in text."""

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from rlsuite.errors import ConfigError, DataError
from rlsuite.runs.metrics import MetricsFile, read_metrics
from rlsuite.training import loggers as logger_module
from rlsuite.training import progress
from rlsuite.training.recorder import Recorder, curve_table


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeLogger:
    """Stands for a TorchRL logger; fails at the call numbered `fail_at`."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.sent: list[tuple[str, float, int | None]] = []
        self.closed = 0
        self.fail_at = fail_at
        self.experiment = self

    def log_scalar(self, name: str, value: float, step: int | None = None) -> None:
        if self.fail_at is not None and len(self.sent) >= self.fail_at:
            raise ConnectionError("no network")
        self.sent.append((name, value, step))

    def close(self) -> None:
        self.closed += 1


def recorder(folder: Path, **changes: Any) -> Recorder:
    return Recorder(folder, **{"total_steps": 1000, "console": False, **changes})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_has_the_clocks_first_and_then_the_metrics(tmp_path: Path) -> None:
    clock = FakeClock()
    with recorder(tmp_path, clock=clock) as record:
        clock.now += 4
        record.log(200, 100, {"loss/critic": torch.tensor(0.5), "rows": np.int64(7), "n": 3})
        clock.now += 1
        record.log(300, 150, {})
        record.log(300, 150, {"eval/return_mean": 1.0})
    first, second, third = lines(tmp_path)
    assert list(first.items()) == [
        ("step", 200),
        ("updates", 100),
        ("seconds", 4.0),
        ("steps_per_second", 50.0),
        ("updates_per_second", 25.0),
        ("loss/critic", 0.5),
        ("rows", 7),
        ("n", 3),
    ]
    assert (second["steps_per_second"], second["updates_per_second"], second["seconds"]) == (100.0, 50.0, 5.0)
    # An evaluation at the same place measured nothing new.
    assert third["steps_per_second"] == 100.0


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with recorder(tmp_path) as record:
        record.log(1, 0, {"a": float("nan"), "b": float("inf"), "c": torch.tensor(float("-inf")), "d": None})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert [lines(tmp_path)[0][key] for key in "abcd"] == [None] * 4


def test_metrics_may_not_take_the_names_of_the_clocks(tmp_path: Path) -> None:
    with recorder(tmp_path) as record, pytest.raises(ValueError, match="seconds"):
        record.log(1, 0, {"seconds": 3.0})


def test_lines_are_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    record = recorder(tmp_path)
    record.log(1, 0, {})
    assert len(lines(tmp_path)) == 1
    record.close()
    record.close()


def test_seconds_and_last_return_go_on_after_a_resume(tmp_path: Path) -> None:
    clock = FakeClock()
    first = recorder(tmp_path, clock=clock)
    clock.now += 30
    first.log(100, 50, {"eval/return_mean": 12.0})
    state = json.loads(json.dumps(first.state_dict()))
    first.close()
    clock.now += 5000  # the pause between the sessions is not training
    second = recorder(tmp_path, clock=clock)
    second.load_state_dict(state)
    second.tick(104, 52)
    clock.now += 2
    second.log(144, 72, {})
    second.close()
    assert lines(tmp_path)[-1]["seconds"] == 32.0
    # Neither the steps of the first session nor its time count for the speed of the second.
    assert lines(tmp_path)[-1]["steps_per_second"] == 20.0
    assert second.state_dict()["last_return"] == 12.0


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"seconds": "x", "last_return": None},
        {"seconds": -1, "last_return": 0},
        {"seconds": float("nan"), "last_return": 0},
    ],
)
def test_a_malformed_state_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    with recorder(tmp_path) as record, pytest.raises(DataError, match="recorder is malformed"):
        record.load_state_dict(state)


def test_rewind_moves_later_and_torn_lines_aside(tmp_path: Path) -> None:
    record = recorder(tmp_path)
    for step in (10, 20, 30, 40):
        record.log(step, step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "upd')
    assert record.rewind(20) == 3
    record.log(30, 30, {"loss": 33})
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert lines(tmp_path)[-1]["loss"] == 33
    aside = (tmp_path / "metrics.discarded.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in aside[:2]] == [30, 40]
    assert aside[2] == '{"step": 50, "upd'
    assert record.rewind(25) == 1
    record.close()
    assert len((tmp_path / "metrics.discarded.jsonl").read_text().splitlines()) == 4


def test_rewind_of_nothing_changes_nothing(tmp_path: Path) -> None:
    record = recorder(tmp_path)
    assert record.rewind(0) == 0
    assert list(tmp_path.iterdir()) == []
    record.log(10, 1, {})
    assert record.rewind(10) == 0
    assert not (tmp_path / "metrics.discarded.jsonl").exists()
    record.close()


@pytest.mark.parametrize(
    ("data", "kept", "moved"),
    [
        (b'{"step": 10}\n{"step": 20}', [10, 20], 0),  # lacks its newline alone
        (b'{"step":\r10}\n{"step": 30}\n', [10], 1),  # one line, to `read_metrics` too
        (b'{"step": 10}\r{"step": 20}\n', [], 1),
    ],
)
def test_rewind_takes_for_a_line_what_the_reader_does(tmp_path: Path, data, kept, moved) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(data)
    file = MetricsFile(path)
    assert file.rewind(20) == moved
    assert (tmp_path / "metrics.discarded.jsonl").exists() == bool(moved)
    assert file.append({"step": 30})
    file.close()
    assert [line["step"] for line in read_metrics(path)] == [*kept, 30]


@pytest.mark.parametrize("torn", ["", "x" * 200_000])
def test_a_torn_last_line_is_cut_off_before_the_next_one(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + torn if torn else '{"step": 1}\n{"st')
    file = MetricsFile(path)
    assert file.append({"step": 2})
    file.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_readers_pass_over_lines_that_are_not_objects(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n[1]\n{"step": 2}\n{"step"')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


def test_tensorboard_files_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with recorder(tmp_path, loggers=("tensorboard",)) as record:
        record.log(10, 5, {"loss/critic": 0.25, "bad": float("nan")})
        record.log(20, 10, {"loss/critic": 0.125})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/critic")] == [(10, 0.25), (20, 0.125)]
    assert "bad" not in events.Tags()["scalars"]


def test_tensorboard_is_left_out_silently_where_it_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger_module.importlib.util, "find_spec", lambda name: None)
    with recorder(tmp_path, loggers=("tensorboard",)) as record:
        record.log(1, 1, {"a": 1.0})
    assert caplog.records == []
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_logger_that_fails_is_dropped_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = FakeLogger(), FakeLogger(fail_at=7)

    def broken(begin: logger_module.Begin) -> FakeLogger:
        raise RuntimeError("not logged in")

    monkeypatch.setattr(
        logger_module,
        "FACTORIES",
        {"wandb": lambda begin: bad, "tensorboard": lambda begin: good, "trackio": broken},
    )
    with recorder(tmp_path, loggers=("wandb", "tensorboard", "trackio")) as record:
        for step in range(5):
            record.log(step, step, {"loss": 1.0, "none": None})
    assert len(lines(tmp_path)) == 5
    assert sum(name == "loss" for name, _, _ in good.sent) == 5
    assert len(bad.sent) == 7
    assert (good.closed, bad.closed) == (1, 0)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 2
    assert any("trackio logger failed" in w and "not logged in" in w for w in warnings)
    assert any("wandb logger failed" in w and "no network" in w for w in warnings)


def test_an_unknown_logger_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='"tensorbord" is not a logger'):
        recorder(tmp_path, loggers=("tensorbord",))


def test_plain_lines_come_every_ten_seconds_and_at_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    display = progress.Plain(clock)
    status = progress.Status(
        step=250, total_steps=1000, updates=125, steps_per_second=50, updates_per_second=25, last_return=12.34
    )
    display.show(status)
    assert capsys.readouterr().out == ""
    display.show(status, milestone=True)
    assert capsys.readouterr().out == (
        "250/1,000 steps  125 updates  50 steps/s  25 updates/s  return 12.3  left 0:00:15\n"
    )
    clock.now += 9
    display.show(status)
    assert capsys.readouterr().out == ""
    clock.now += 2
    display.show(status)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_closed_pipe_ends_the_display_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Closed())
    with recorder(tmp_path, console=None) as record:
        record.log(10, 1, {"eval/return_mean": 1.0})
        record.log(20, 1, {"eval/return_mean": 1.0})
    assert len(lines(tmp_path)) == 2
    assert [r.getMessage() for r in caplog.records] == ["progress is no longer shown: [Errno 32] Broken pipe"]


def test_the_live_bar_shows_the_numbers() -> None:
    screen = io.StringIO()
    display = progress.Live(100, Console(file=screen, force_terminal=True, width=160))
    status = progress.Status(
        step=50, total_steps=100, updates=25, steps_per_second=5, updates_per_second=2, last_return=None
    )
    with display:
        display.show(status)
        display.note("[bold] is text")
        display.show(status, milestone=True)
    shown = screen.getvalue()
    assert "50/100 steps" in shown and "return -" in shown and "left 0:00:10" in shown
    assert "[bold] is text" in shown


@pytest.mark.parametrize(
    ("console", "kind"), [(False, progress.Silent), (None, progress.Plain), (True, progress.Live)]
)
def test_the_display_follows_the_terminal(console: bool | None, kind: type) -> None:
    assert type(progress.make_display(10, console)) is kind  # under pytest stdout is no terminal


def test_the_curve_prints_every_evaluation(tmp_path: Path) -> None:
    assert curve_table(tmp_path / "metrics.jsonl") == "no evaluation yet"
    with recorder(tmp_path) as record:
        for step, mean in ((0, -100.0), (1000, 0.0), (2000, 300.0)):
            record.log(step, step, {"loss": 1.0})
            record.log(
                step, step, {"eval/return_mean": mean, "eval/return_std": 2.5, "eval/length_mean": 1000}
            )
        record.log(3000, 1, {"eval/return_mean": float("nan")})
    rows = curve_table(tmp_path / "metrics.jsonl").splitlines()
    assert rows[0].split() == ["env", "steps", "return", "+-", "length"]
    assert [row.split()[:4] for row in rows[1:]] == [
        ["0", "-100.0", "2.5", "1,000.0"],
        ["1,000", "0.0", "2.5", "1,000.0"],
        ["2,000", "300.0", "2.5", "1,000.0"],
    ]
    assert [row.count("#") for row in rows[1:]] == [0, 10, 40]


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_curve_of_the_largest_numbers_has_its_points(tmp_path: Path, seeds: int) -> None:
    most = sys.float_info.max
    with recorder(tmp_path) as record:
        for step, mean in ((0, -most), (1000, 0.0), (2000, most)):
            for _ in range(seeds):
                record.log(step, step, {"eval/return_mean": mean, "eval/length_mean": most})
    rows = curve_table(tmp_path / "metrics.jsonl").splitlines()
    assert [row.count("#") for row in rows[1:]] == [0, 20, 40]


def test_a_long_curve_is_thinned_and_ends_with_the_last_point(tmp_path: Path) -> None:
    with recorder(tmp_path) as record:
        for step in range(101):
            record.log(step, step, {"eval/return_mean": 5.0})
    rows = curve_table(tmp_path / "metrics.jsonl").splitlines()
    assert 10 < len(rows) <= 26
    assert rows[-1].split()[0] == "100"
