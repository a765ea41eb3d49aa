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

from rlsuite.bench import processes
from rlsuite.errors import EnvironmentFailure

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
    monkeypatch.setattr(processes, "PROGRAM", (sys.executable, "-c"))
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.5)
    started = []
    launch = processes.launch

    def noted(words, log):
        started.append(launch(words, log))
        return started[-1]

    monkeypatch.setattr(processes, "launch", noted)

    def stop_when_deaf():
        log = tmp_path / "hangs.log"
        while not (log.exists() and b"deaf" in log.read_bytes()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_deaf, daemon=True).start()
    codes = processes.run_all({name: [code] for name, code in CHILDREN.items()}, 4, tmp_path)
    assert codes["hangs"] == KILLED and codes["dies"] == KILLED
    assert codes["raises"] in (3, -signal.SIGTERM) and codes["well"] in (0, -signal.SIGTERM)
    assert len(started) == 4 and all(process.poll() is not None for process in started)
    count("children killed, failed or deaf, outlived", 4)


PARENT = """
import sys
from pathlib import Path
from rlsuite.bench import processes
processes.PROGRAM = (sys.executable, "-c")
child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
processes.run_all({"child": [child]}, 1, Path(sys.argv[1]))
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
