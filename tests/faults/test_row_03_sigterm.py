"""Row 3: SIGTERM in the middle of an update: saved at the next boundary, exit code 75, nothing repeated."""

import os
import signal
import time
from pathlib import Path

import whole_runs as runs


def test_sigterm_saves_at_the_next_step_and_exits_75(tmp_path, unbroken, count):
    path = tmp_path / "run"
    child = runs.start("train", "dsac_t", *runs.flags(), "--out", path)
    while not (path / "ckpt").exists():
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.01)
    spent = cpu_seconds(child.pid)
    child.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 75
    # Of its own time: what else a machine does is not the run's delay.
    assert usage.ru_utime + usage.ru_stime - spent < 10
    said = child.stdout.read()
    assert f"rlsuite resume {path}" in said
    stopped_at = int(runs.newest(path).name.removeprefix("step-"))
    assert 200 <= stopped_at < 800
    child = runs.start("resume", path, "--import", "toys")
    assert child.wait(60) == 0
    runs.assert_same_run(unbroken, path)
    count("runs stopped and resumed")


def cpu_seconds(pid):
    """Return the CPU time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
