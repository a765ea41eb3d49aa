"""Ray Tune over our runs: evaluations are told, bad trials stop and save, killed ones go on."""

import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from rlsuite.errors import ConfigError
from rlsuite.runs.checkpoint import CheckpointStore

pytest.importorskip("ray.tune", exc_type=ImportError)
EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = (
    "--warmup-steps",
    "50",
    "--eval-episodes",
    "1",
    "--checkpoint-every",
    "50",
    "--agent.hidden",
    "16",
    "16",
)


@pytest.fixture
def example(monkeypatch, tmp_path, cluster):
    """The example, its runs in a folder of the test."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    module = importlib.import_module("ray_tune")
    monkeypatch.setattr(module, "FOLDER", tmp_path / "tune")
    yield module
    del sys.modules["ray_tune"]


@pytest.mark.long
def test_the_example_reports_every_evaluation_and_goes_on_after_a_kill(example):
    def kill() -> None:  # the run of the first trial, once it has saved
        while not (found := [p for p in example.FOLDER.glob("run-*/ckpt") if CheckpointStore(p).steps()]):
            time.sleep(0.01)
        os.kill(json.loads((found[0].parent / "run.lock").read_text())["pid"], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    grid = example.main(trials=3, steps=400, rungs=4, extra=(*SMALL, "--batch-size", "16"))
    assert len(grid) == 3 and not grid.errors
    logs = [path.read_text() for path in example.FOLDER.glob("run-*.log")]
    assert sum(log.count("resuming") for log in logs) == 1
    best = grid.get_best_result()
    assert best.metrics["env_step"] in (100, 200, 300, 400)
    whole = [one for one in grid if one.metrics["env_step"] == 400]
    assert whole  # ASHA lets the best go on
    for one in whole:
        assert len(set(one.metrics_dataframe["env_step"])) == 4
    assert set(best.config) == set(example.domains("sac"))


def test_wrong_flags_show_before_any_trial(tmp_path):
    from rlsuite.bench.tune import domains, trainable

    with pytest.raises(ConfigError, match="agnet"):
        trainable("sac", ["--env", "gym:Pendulum-v1", "--agnet.gamma", "0.9"], tmp_path)
    with pytest.raises(ConfigError, match="no search space"):
        domains("bc")
