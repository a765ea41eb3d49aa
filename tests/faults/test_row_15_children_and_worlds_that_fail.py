"""Row 15: a world that raises, a world that hangs, child processes that are killed, fail or do not stop.

Worlds are stepped by threads and not by processes, so what may die is the whole run or a run that a benchmark
or a sweep has started.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import whole_runs as runs
from toys import Failing

from rlsuite.errors import EnvironmentFailure
from rlsuite.launch import local, queue, task

LIMIT = 2.0  # seconds that a hanging call is given
KILLED = -9


def test_a_world_that_raises_ends_the_run_with_its_name_and_error(tmp_path, count):
    Failing.steps = 0
    with pytest.raises(
        EnvironmentFailure, match="gym:ToyRaises-v0 failed: OSError: the robot is on fire"
    ) as caught:
        runs.train(tmp_path / "run", env="gym:ToyRaises-v0", eval_every=0)
    assert caught.value.exit_code == 5
    assert runs.newest(tmp_path / "run").name.endswith("400")  # what was saved is there
    count("worlds that raised or hung, reported")


def test_a_world_that_hangs_ends_the_run_within_the_limit(tmp_path, count):
    path = tmp_path / "run"
    flags = runs.flags(env="gym:ToyHangs-v0", eval_every=0, step_timeout=LIMIT)
    child = runs.start("train", "sac", *flags, "--out", path)
    said, _ = child.communicate(timeout=120)
    assert child.returncode == 5, said
    assert f"rlsuite: gym:ToyHangs-v0 has not come back for {LIMIT:g} s" in said
    assert "from the seeds [" in said
    assert "time.sleep(3_600)" in said  # where it hangs
    assert runs.newest(path).name.endswith("400")
    modified = (
        (path / "metrics.jsonl").stat().st_mtime
    )  # of the line at 400 env steps: the hang followed soon
    assert time.time() - modified < 60
    count("worlds that raised or hung, reported")


CHILDREN = {
    "well": "print('done')",
    "raises": "raise SystemExit(3)",
    "dies": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "hangs": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
    "time.sleep(600)",
}


def test_children_that_are_killed_fail_or_do_not_stop(tmp_path, monkeypatch, count):
    monkeypatch.setattr(task, "PROGRAM", (sys.executable, "-c"))
    monkeypatch.setattr(local, "LEAVE_SECONDS", 0.5)
    started = []
    spawn = local.spawn

    def noted(*args):
        started.append(spawn(*args))
        return started[-1]

    monkeypatch.setattr(local, "spawn", noted)

    def stop_when_deaf():
        log = tmp_path / "hangs.log"
        while not (log.exists() and b"deaf" in log.read_bytes()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_deaf, daemon=True).start()
    tasks = {name: task.LaunchTask((code,), tmp_path / f"{name}.log") for name, code in CHILDREN.items()}
    codes = queue.run_all(tasks, local.LocalLauncher(4, local.LocalOptions()))
    assert codes["hangs"] == task.INTERRUPTED  # told to stop, deaf, killed: the run can go on
    # One that was killed is started again until it has died too often, or until we are told to stop.
    assert codes["dies"] in (KILLED, task.INTERRUPTED)
    assert codes["raises"] in (3, task.INTERRUPTED) and codes["well"] in (0, task.INTERRUPTED)
    assert len(started) >= 4 and all(process.poll() is not None for process in started)
    assert KILLED in {process.returncode for process in started}
    count("children killed, failed or deaf, outlived", 4)


PARENT = """
import sys
from pathlib import Path
from rlsuite.launch import local, queue, task
task.PROGRAM = (sys.executable, "-c")
child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
tasks = {"child": task.LaunchTask((child,), Path(sys.argv[1]) / "child.log")}
queue.run_all(tasks, local.LocalLauncher(1, local.LocalOptions()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_no_child_outlives_a_parent_that_was_killed(tmp_path, count):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], env=runs.environment())
    log = tmp_path / "child.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.02)
    child = int(log.read_text())
    parent.kill()
    parent.wait()
    while is_running(child):
        assert time.monotonic() < deadline, "an orphan"
        time.sleep(0.02)
    count("parents killed without an orphan")


def is_running(pid):
    """Whether a process is there and no zombie: nobody may be left to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
