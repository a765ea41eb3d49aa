"""One study through every launcher: the same results, though each time another run is killed in the middle.

What one launcher breaks off another leaves alone, so that equal results say both: the launcher does not
matter, and neither does a kill.
"""

import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlsuite.cli.main import run as rlsuite
from rlsuite.errors import ConfigError
from rlsuite.launch.flags import make_launcher
from rlsuite.runs.checkpoint import CheckpointStore

TASK = "gym:Pendulum-v1"
SIZE = ("--warmup-steps", "200", "--batch-size", "16", "--eval-every", "200", "--eval-episodes", "1")
RUNS = (f"td3-{TASK.replace(':', '-')}-s0-1", f"sac-{TASK.replace(':', '-')}-s0-1")
CLOCKS = ("seconds", "steps_per_second", "updates_per_second")
LOCAL_SLURM = ("--launcher", "slurm", "--launcher-option", "cluster=local")


def study(out: Path, *launcher: str) -> int:
    """Two agents on one environment with two seeds, which share a process."""
    words = ["--agents", "td3,sac", "--envs", TASK, "--seeds", "2", "--seeds-per-run", "2", "--steps", "400"]
    more = ["--", *SIZE, "--checkpoint-every", "50", "--log-every", "100"]
    return rlsuite(["bench", "study", *words, "--out", str(out), *launcher, *more])


def results(out: Path) -> dict[str, list[dict]]:
    """Return every line of metrics of every run, but for clocks."""
    found = {}
    for name in RUNS:
        lines = [json.loads(line) for line in (out / name / "metrics.jsonl").read_text().splitlines()]
        found[name] = [{key: line[key] for key in line if key not in CLOCKS} for line in lines]
    return found


def strike(run: Path, number: signal.Signals, *, worker: bool) -> threading.Thread:
    """Send a signal, once, to the process of a run or to the worker that started it, after a checkpoint."""

    def watch() -> None:
        while not CheckpointStore(run / "ckpt").steps():
            time.sleep(0.01)
        holder = json.loads((run / "run.lock").read_text())["pid"]
        parent = int(Path(f"/proc/{holder}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent if worker else holder, number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Folder of the study on this machine, whose first run is killed once."""
    out = tmp_path_factory.mktemp("local")
    blow = strike(out / RUNS[0], signal.SIGKILL, worker=False)
    assert study(out, "--jobs", "2") == 0
    blow.join(1)
    return out


def test_a_run_that_is_killed_is_resumed_once_and_nothing_finished_is_repeated(local, capsys):
    logs = [(local / "logs" / f"{name}.log").read_text() for name in RUNS]
    assert [log.count("resuming") for log in logs] == [1, 0]
    assert (local / "report" / "report.html").exists()
    assert study(local, "--no-report") == 0
    said = capsys.readouterr().out
    assert "running, log" not in said and "all                     2" in said


def test_ray_gives_the_same_results_and_a_dead_worker_costs_one_resumed_run(local, tmp_path, capsys, cluster):
    blow = strike(tmp_path / RUNS[1], signal.SIGKILL, worker=True)
    assert study(tmp_path, "--launcher", "ray", "--no-report") == 0
    blow.join(1)
    assert results(tmp_path) == results(local)
    said = capsys.readouterr().out
    assert said.count("goes on") == 1 and f"{RUNS[1]}: lost its worker" in said
    assert "resuming" in (tmp_path / "logs" / f"{RUNS[1]}.log").read_text()


def test_ray_says_what_no_worker_has(cluster, tmp_path):
    with pytest.raises(ConfigError, match="no node of the cluster has cpus=3 and gpus=1"):
        make_launcher(None, "ray", ("cpus=3", "gpus=1"))


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_a_slurm_job_that_is_preempted_goes_on_in_the_queue(local, tmp_path, capsys):
    blow = strike(tmp_path / RUNS[0], signal.SIGUSR2, worker=True)
    assert study(tmp_path, *LOCAL_SLURM, "--no-report") == 0
    blow.join(1)
    assert results(tmp_path) == results(local)
    assert "goes on" not in capsys.readouterr().out  # the queue's doing, not ours
    assert (tmp_path / "logs" / f"{RUNS[0]}.log").read_text().count("resuming") == 1
    assert "resuming" not in (tmp_path / "logs" / f"{RUNS[1]}.log").read_text()
    jobs = tmp_path / "logs" / "slurm"
    assert list(jobs.rglob("*.pkl")) and stat.S_IMODE(jobs.stat().st_mode) == 0o700


@pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is not installed")
def test_submitit_leaves_the_logging_of_others_alone():
    program = """
import logging, os
class Handler(logging.Handler):
    def close(self): print("closed", end=" ")
handler = Handler()
from rlsuite.launch.slurm import import_submitit
print(import_submitit().__name__, "SUBMITIT_LOG_LEVEL" in os.environ)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("submitit False\n"), done.stdout + done.stderr


@pytest.mark.long
def test_a_study_that_is_killed_with_all_it_has_goes_on_at_once(local, tmp_path):
    begin = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_launchers as t; "
    words = [
        sys.executable,
        "-c",
        begin + f"t.study(t.Path({str(tmp_path)!r}), '--jobs', '2', '--no-report')",
    ]
    for name in RUNS:  # killed once in the middle of each run
        with subprocess.Popen(words) as driver:
            while not CheckpointStore(tmp_path / name / "ckpt").steps():
                time.sleep(0.01)
            driver.kill()
    assert study(tmp_path, "--jobs", "2", "--no-report") == 0
    assert results(tmp_path) == results(local)
