"""Ray Tune's trainable without Ray: who starts a run, who follows it, and how it is left."""

import json
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from rlsuite.bench import tune

DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); "
    "time.sleep(600)"
)
WORDS = ["--env", "gym:Pendulum-v1", "--seeds", "2", "--steps", "20"]
LIMIT = 30.0  # seconds for what takes moments


class Run:
    """Stands in for a process: writes its evaluations, one seed at a time, as it is told, then ends."""

    def __init__(self, path, code):
        self.path, self.code, self.polls, self.go = path, code, 0, threading.Event()
        path.mkdir(exist_ok=True)

    def poll(self):
        self.polls += 1
        if self.polls <= 4:
            step, seed = (self.polls + 1) // 2 * 10, (self.polls + 1) % 2
            line = {"step": step, "seed": seed, "eval/return_mean": float(step + 2 * seed)}
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            return None
        assert self.go.wait(LIMIT)
        return self.code


@pytest.fixture
def trial(monkeypatch, tmp_path):
    """The trainable over stand-ins; `.runs` are those that began, `.told` what was reported, by thread."""
    found = SimpleNamespace(runs=[], told={}, code=0)

    def spawn(task):
        found.runs.append(Run(task.folder, found.code))
        return found.runs[-1]

    def report(line):
        name = threading.current_thread().name
        found.told.setdefault(name, []).append((line["env_step"], line["return_mean"]))

    def task_of(plan, path, log):
        return SimpleNamespace(folder=path) if not found.runs or found.code else None

    monkeypatch.setattr(tune, "_tune", lambda: SimpleNamespace(report=report))
    monkeypatch.setattr(tune, "spawn", spawn)
    monkeypatch.setattr(tune, "task_of", task_of)
    monkeypatch.setattr(tune, "in_use", lambda task: False)
    monkeypatch.setattr(tune, "POLL_SECONDS", 0.01)
    found.function = tune.trainable("sac", WORDS, tmp_path / "tune")
    return found


def wait_for(what):
    """Wait until something is so."""
    until = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_equal_trials_at_the_same_time_are_one_run_that_both_are_told(trial):
    threads = [
        threading.Thread(target=trial.function, args=({"batch-size": 16},), name=name) for name in "ab"
    ]
    for thread in threads:  # one after the other: the command line's parser is for one thread at a time
        thread.start()
        wait_for(lambda: trial.runs)
    means = [(10, 11.0), (20, 21.0)]  # never one seed's number
    wait_for(lambda: list(trial.told.values()) == [means, means])
    assert len(trial.runs) == 1
    trial.runs[0].go.set()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert len(trial.runs) == 1 and list(trial.told.values()) == [means, means]


def test_a_run_that_fails_is_said(trial):
    trial.code = 5
    failed = []

    def play():
        try:
            trial.function({"batch-size": 16})
        except RuntimeError as error:
            failed.append(str(error))

    thread = threading.Thread(target=play)
    thread.start()
    wait_for(lambda: trial.runs)
    trial.runs[0].go.set()
    thread.join(LIMIT)
    assert len(failed) == 1 and "exit code 5" in failed[0]


def test_a_run_that_does_not_leave_is_killed(trial, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"deaf\n"

    class Stopped(BaseException):
        """What Tune ends a trial with."""

    def sleep(_):
        raise Stopped

    monkeypatch.setattr(tune, "LEAVE_SECONDS", 0.3)
    monkeypatch.setattr(tune, "spawn", lambda task: process)
    monkeypatch.setattr(tune, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with process.stdout, pytest.raises(Stopped):
        trial.function({"batch-size": 16})
    assert process.returncode == -9
