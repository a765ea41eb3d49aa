"""Row 17: a second run in the same folder is refused, the first one named; a dead one's lock is taken."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlsuite.errors import ConfigError
from rlsuite.runs import runfolder
from rlsuite.runs.runfolder import LOCK_FILE, RunFolder

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

HOLD = """
import sys
from pathlib import Path
from rlsuite.runs.runfolder import RunFolder
with RunFolder.open(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    RunFolder.create(path, {"a": 1}, {}).close()
    return path


def test_a_second_start_is_refused_and_the_holder_named(run: Path, count) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    try:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            ConfigError, match=f"in use by process {holder.pid} on host {socket.gethostname()}"
        ) as caught:
            RunFolder.open(run).__enter__()
        assert caught.value.exit_code == 2
        RunFolder.open(run).config()  # readers need no lock
        holder.stdin.close()
        assert holder.wait(20) == 0
        with RunFolder.open(run):
            assert (run / LOCK_FILE).exists()
        assert not (run / LOCK_FILE).exists()
    finally:
        holder.kill()
        holder.wait()
    count("second writers refused")


def test_the_lock_of_a_killed_process_is_taken_over_with_a_warning(
    run: Path, caplog: pytest.LogCaptureFixture, count
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run / LOCK_FILE).exists()
    with RunFolder.open(run):
        assert json.loads((run / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert len(caplog.records) == 1
    assert f"from process {holder.pid}, which is gone" in caplog.text
    count("stale locks taken over")


def test_the_same_process_cannot_hold_it_twice(run: Path, count) -> None:
    with RunFolder.open(run), pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        RunFolder.open(run).__enter__()
    with RunFolder.open(run):
        pass
    count("second writers refused")


def test_created_runs_are_held_until_closed(tmp_path: Path, count) -> None:
    created = RunFolder.create(tmp_path / "new", {}, {})
    with pytest.raises(ConfigError, match="in use"):
        RunFolder.open(tmp_path / "new").__enter__()
    with created:  # does not take the lock a second time
        pass
    created.close()
    with RunFolder.open(tmp_path / "new"):
        pass
    count("second writers refused")


def test_a_lock_of_another_machine_is_respected(run: Path, count) -> None:
    holder = {"pid": 1, "host": "another-machine", "started": "2026-01-01T00:00:00+00:00"}
    (run / LOCK_FILE).write_text(json.dumps(holder))
    with pytest.raises(
        ConfigError, match=r"process 1 on host another-machine since 2026-01-01.*delete .*run.lock"
    ):
        RunFolder.open(run).__enter__()
    assert json.loads((run / LOCK_FILE).read_text()) == holder
    count("second writers refused")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"null"])
def test_a_torn_lock_nobody_holds_is_taken(run: Path, content: bytes, count) -> None:
    (run / LOCK_FILE).write_bytes(content)
    with RunFolder.open(run):
        assert json.loads((run / LOCK_FILE).read_text())["pid"] == os.getpid()
    count("stale locks taken over")


def test_without_kernel_locks_the_process_id_decides(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count
) -> None:
    def unsupported(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(runfolder, "lock_descriptor", unsupported)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def leave(pid: Any) -> None:
        (run / LOCK_FILE).write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "started": "now"}))

    for alive in (os.getppid(), "nonsense"):
        leave(alive)
        with pytest.raises(ConfigError, match="in use"):
            RunFolder.open(run).__enter__()
    leave(gone.pid)
    with RunFolder.open(run):
        pass
    assert "which is gone" in caplog.text
    count("second writers refused", 2)
    count("stale locks taken over")


def test_the_lock_file_replaced_between_opening_and_locking_is_opened_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, count
) -> None:
    """The holder before us deletes its lock at the wrong moment: we must not keep a file nobody sees."""
    lock, seen = runfolder.lock_descriptor, []

    def slow(descriptor: int, *, blocking: bool) -> bool:
        if not seen:
            (run / LOCK_FILE).unlink()
        seen.append(descriptor)
        return lock(descriptor, blocking=blocking)

    monkeypatch.setattr(runfolder, "lock_descriptor", slow)
    with RunFolder.open(run), pytest.raises(ConfigError, match="in use"):
        RunFolder.open(run).__enter__()
    assert len(seen) == 3
    count("second writers refused")
