"""Loggers beside metrics.jsonl: one W&B run over resumes, hyper-parameters, CSV, own loggers."""

import os
import struct
import sys
import types
from typing import ClassVar

import pytest
import whole_runs as runs

from rlsuite.errors import ConfigError
from rlsuite.runs.config import TrainConfig
from rlsuite.training.loggers import Loggers
from rlsuite.training.recorder import Recorder


def wandb_records(path):
    """Yield the records of a .wandb file: LevelDB's log format after seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        part, at = part + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # a whole record, or its last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def test_a_resumed_run_is_one_wandb_run_with_its_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_CONSOLE", "off")  # it would go on writing to what pytest has closed by then
    pytest.importorskip("wandb")
    for name in ("WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_TAGS", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_RUN_GROUP", "from-the-shell")
    path = tmp_path / "run"
    options = {"wandb": {"project": "mine", "tags": ["a", "b"]}}
    fields = {"loggers": ("wandb",), "logger_options": options, "warmup_steps": 200}
    runs.train(path, steps=200, **fields)
    runs.train(path, steps=400, resume=True, **fields)
    records, history = [], []
    files = sorted(path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    for file in files:
        for record in wandb_records(file):
            if record.HasField("run"):
                records.append(record.run)
            if record.HasField("history"):
                history.append({"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item})
    assert len({record.run_id for record in records}) == 1
    first = records[0]
    assert (first.project, list(first.tags)) == ("mine", ["a", "b"]) and first.run_group == "from-the-shell"
    config = {item.key: item.value_json for record in records for item in record.config.update}
    assert '"env":"gym:ToyReach-v0"' in config["train"].replace(" ", "") and "hidden" in config["agent"]
    evaluated = [line for line in history if "eval/return_mean" in line]
    assert [line["eval/step"] for line in evaluated] == ["200", "400"]  # each session ends with one


def test_tensorboard_has_the_hyper_parameters_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    path = tmp_path / "run"
    fields = {"loggers": ("tensorboard",), "warmup_steps": 200}
    runs.train(path, steps=200, **fields)
    runs.train(path, steps=400, resume=True, **fields)
    assert [item.name for item in path.iterdir() if "tensorboard" in item.name] == ["tensorboard"]
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert values["train.env"].string_value == "gym:ToyReach-v0"
    assert values["train.batch_size"].number_value == 32
    assert "config/text_summary" in events.Tags()["tensors"]


def test_csv_has_no_line_twice_after_a_resume(tmp_path):
    for after, steps in ((None, (10, 20, 30)), (20, (30, 40))):
        with Recorder(tmp_path, loggers=("csv",), total_steps=40, console=False, after=after) as recorder:
            for step in steps:
                recorder.log(step, step, {"loss/critic": step / 2})
    rows = (tmp_path / "csv" / "scalars" / "loss" / "critic.csv").read_text().split()
    assert rows == ["10,5.0", "20,10.0", "30,15.0", "40,20.0"]


def test_a_resumed_run_is_one_mlflow_run_and_the_next_run_another(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    fields = {"loggers": ("mlflow",), "warmup_steps": 200, "eval_every": 200}
    runs.train(tmp_path / "one", steps=200, **fields)
    config = tmp_path / "one" / "config.toml"  # changed as `rlsuite resume --steps` does
    config.write_text(config.read_text().replace("\nsteps = 200\n", "\nsteps = 400\n"))
    runs.train(tmp_path / "one", steps=400, resume=True, **fields)
    runs.train(tmp_path / "two", steps=200, **fields)
    assert mlflow.active_run() is None and "MLFLOW_TRACKING_URI" not in os.environ
    for name, steps in (("one", [200, 400]), ("two", [200])):
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / name}/mlflow.db")
        (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        assert (run.info.run_name, run.info.status) == (name, "FINISHED")
        assert (run.data.params["train.env"], run.data.params["train.steps"]) == ("gym:ToyReach-v0", "200")
        assert run.data.tags.get("train.steps") == ("400" if name == "one" else None)
        history = client.get_metric_history(run.info.run_id, "eval/return_mean")
        assert [item.step for item in history] == steps
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}  # nothing beside the run folders


class Mine:
    """A logger of the user's own, made as TorchRL's are."""

    made: ClassVar[list] = []

    def __init__(self, exp_name, log_dir, color="grey"):
        self.name, self.color, self.sent, self.hparams, self.files = exp_name, color, [], {}, []
        Mine.made.append(self)

    def log_scalar(self, name, value, step=None):
        self.sent.append((name, value, step))

    def log_hparams(self, values):
        self.hparams = values

    def log_file(self, name, path, step):
        self.files.append((name, path, step))


def test_a_logger_of_the_users_own(tmp_path, monkeypatch):
    module = types.ModuleType("my_loggers")
    module.Mine, Mine.made = Mine, []
    monkeypatch.setitem(sys.modules, "my_loggers", module)
    fields = {"loggers": ("my_loggers:Mine",), "logger_options": {"my_loggers:Mine": {"color": "red"}}}
    runs.train(tmp_path / "run", steps=100, warmup_steps=100, **fields)
    (mine,) = Mine.made
    assert (mine.name, mine.color) == ("run", "red")
    assert mine.hparams["train.env"] == "gym:ToyReach-v0" and mine.hparams["agent.hidden"] == [16, 16]
    assert ("replay/rows", 100.0, 100) in mine.sent
    with Recorder(tmp_path / "run", loggers=("my_loggers:Mine",), total_steps=1, console=False) as recorder:
        recorder.video(7, "eval/video", tmp_path / "a.mp4")
    assert Mine.made[-1].files == [("eval/video", tmp_path / "a.mp4", 7)]
    with pytest.raises(ConfigError, match="a class with a method log_scalar"):
        Loggers(tmp_path, ("subprocess:Popen",))
    with pytest.raises(ConfigError, match="has nothing called Other"):
        Loggers(tmp_path, ("my_loggers:Other",))


def test_names_and_options_of_loggers_are_checked():
    with pytest.raises(ConfigError, match=r'"wandbb" is not a logger\. Did you mean "wandb"'):
        TrainConfig(env="gym:X", loggers=("wandbb",))
    with pytest.raises(ConfigError, match="--logger-option wandb: it is none of --loggers tensorboard"):
        TrainConfig(env="gym:X", logger_options={"wandb": {"project": "x"}})
    with pytest.raises(ConfigError, match="MODULE:CLASS"):
        TrainConfig(env="gym:X", callbacks=("StopWhen",))
