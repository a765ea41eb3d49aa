"""Evaluations beside training: the same numbers as between updates, and a process that never stays behind."""

import json
import os
import signal
import time

import psutil
import pytest
import torch
import whole_runs as runs
from safetensors.torch import load_file

import rlsuite
from rlsuite import extensions
from rlsuite.errors import EnvironmentFailure
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.training import beside
from rlsuite.training.callbacks import Callbacks, Hooks

FIELDS = {
    "env": "gym:Pendulum-v1",
    "steps": 800,
    "eval_every": 100,
    "checkpoint_every": 250,
    "log_every": 50,
    "eval_episodes": 2,
}


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch):
    """What other tests of this process asked for by --import is not there any more."""
    monkeypatch.setattr(extensions, "imported", [])


def evaluations(path):
    """What was measured by step and seed, and the updates until then."""
    whole = (path / "metrics.jsonl").read_text().split("\n")[:-1]
    lines = [json.loads(line) for line in whole]
    return [
        (line["step"], line["updates"], line.get("seed"), {k: v for k, v in line.items() if "eval/" in k})
        for line in lines
        if "eval/return_mean" in line
    ]


def weights(path):
    return CheckpointStore(path / "ckpt").load(config_digest=None).tensors["agent"]


def best(path):
    (folder,) = (path / "best").glob("step-*")
    return folder.name, load_file(folder / "agent.safetensors")


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_nothing_depends_on_where_evaluations_are_made(tmp_path, seeds=2):
    between = runs.train(tmp_path / "between", seeds=seeds, **FIELDS)
    result = runs.train(tmp_path / "beside", seeds=seeds, eval_beside=True, **FIELDS)
    assert evaluations(tmp_path / "beside") == evaluations(tmp_path / "between")
    assert len(evaluations(tmp_path / "beside")) == 8 * seeds
    assert same(weights(tmp_path / "beside"), weights(tmp_path / "between"))
    ours, theirs = best(tmp_path / "beside"), best(tmp_path / "between")
    assert ours[0] == theirs[0] and same(ours[1], theirs[1])
    assert (result.best_return, result.final_return) == (between.best_return, between.final_return)


def test_a_resumed_run_is_the_unbroken_one(tmp_path):
    runs.train(tmp_path / "whole", **FIELDS)
    runs.train(tmp_path / "parts", eval_beside=True, **FIELDS | {"steps": 420})
    runs.train(tmp_path / "parts", resume=True, eval_beside=True, **FIELDS)
    ours = [row for row in evaluations(tmp_path / "parts") if row[0] != 420]  # the first part's own last
    theirs = evaluations(tmp_path / "whole")
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    assert ours[:4] == theirs[:4]  # later ones are of other episodes: the first part made one more
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


class StopsAtSecond(rlsuite.Callback):
    def __init__(self):
        self.seen, self.lines = [], []

    def on_log(self, line):
        self.lines.append(line["step"])

    def on_evaluation(self, evaluation):
        self.seen.append((evaluation.step, evaluation.number))

    def stop(self):
        return "twice is enough" if len(self.seen) == 2 else ""


def test_callbacks_are_told_the_step_it_belongs_to_and_may_end_the_run(tmp_path):
    witness = StopsAtSecond()
    result = runs.train(
        tmp_path / "run", eval_beside=True, hooks=Hooks(callbacks=Callbacks([witness])), **FIELDS
    )
    assert witness.seen == [(100, 1), (200, 2), (300, 3)] or witness.seen == [(100, 1), (200, 2)]
    assert result.stopped_by.endswith("twice is enough") and result.env_steps == 252  # the checkpoint's step
    assert witness.lines.index(200) < len(witness.lines) - 1  # written where it was taken


def test_a_process_that_dies_ends_the_run_in_words(tmp_path, monkeypatch):
    ask, asked = beside.Beside.ask, []

    def and_kill(self, *words, **named):
        ask(self, *words, **named)
        asked.append(self._process)
        os.killpg(self._process.pid, signal.SIGKILL)

    monkeypatch.setattr(beside.Beside, "ask", and_kill)
    with pytest.raises(EnvironmentFailure, match=r"exit code -9.*leave out --eval-beside"):
        runs.train(tmp_path / "run", eval_beside=True, **FIELDS)
    assert [process.returncode for process in asked] == [-9]


def test_what_fails_in_there_is_one_line(tmp_path):
    """Toys are this process' own: without --import the other one knows none."""
    with pytest.raises(EnvironmentFailure, match=r"beside training failed: .*ToyReach") as caught:
        runs.train(tmp_path / "run", eval_beside=True, **FIELDS | {"env": "gym:ToyReach-v0"})
    assert "\n" not in str(caught.value)


def test_a_module_of_the_users_that_is_gone_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(extensions, "imported", ["gone_by_now"])
    with pytest.raises(EnvironmentFailure, match=r"beside training failed: ModuleNotFoundError.*gone_by_now"):
        runs.train(tmp_path / "run", eval_beside=True, **FIELDS)


def test_a_killed_run_leaves_no_process_and_modules_are_imported_there_too(tmp_path):
    words = runs.flags(eval_every=50, steps=100_000, checkpoint_every=0)
    process = runs.start("train", "dsac_t", *words, "--eval-beside", "--out", tmp_path / "run")
    metrics, until = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    try:
        # Evaluations are of a toy, which --import made known there.
        while not metrics.exists() or len(evaluations(tmp_path / "run")) < 2:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        (child,) = psutil.Process(process.pid).children()
        assert "rlsuite.training.beside" in child.cmdline()
    finally:
        process.kill()
        process.communicate()
    child.wait(60)
