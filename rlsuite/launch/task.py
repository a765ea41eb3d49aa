"""One run as a launcher sees it, and how a worker carries it out: always as a process of its own.

A worker decides by the run folder whether to begin or to go on, so a task may be started any number of times,
on any machine that sees the folder.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rlsuite.errors import Interrupted

PROGRAM = (sys.executable, "-m", "rlsuite")
INTERRUPTED = Interrupted.exit_code  # a run that was stopped, has saved, and can go on
LOST = -int(signal.SIGKILL)  # a worker that vanished, as a process that was killed
POLL_SECONDS = 0.2
STOP_SECONDS = 1.0  # between a worker's looks for the stop file
KILL_SECONDS = 10.0  # for the kernel to end a process that was killed
LEAVE_SECONDS = 300.0  # for a run told to stop to finish an evaluation and to save, before it is killed
LOCK_SECONDS = 120.0  # for the last holder of a run to save and leave, once it was told to
CONFIG_FILE, LOCK_FILE = "config.toml", "run.lock"  # of a run folder (rlsuite.runs.runfolder)
PR_SET_PDEATHSIG = 1  # of prctl(2)
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


@dataclass(frozen=True, slots=True)
class LaunchTask:
    """A command line of this program.

    Attributes:
        words: after `rlsuite`, to begin.
        log: file for what it prints, appended; beside it lie its exit code and the request to stop.
        folder: the run folder; None where there is nothing to go on with.
        again: words that go on with the run in `folder`, once it exists.
        cwd: where relative paths of the words begin.
    """

    args: tuple[str, ...]
    log: Path
    folder: Path | None = None
    again: tuple[str, ...] = ()
    cwd: Path = Path()

    @property
    def now(self) -> tuple[str, ...]:
        """The words that begin the run or, where it has begun, go on with it."""
        begun = self.folder is not None and (self.cwd / self.folder / CONFIG_FILE).is_file()
        return self.again if begun else self.args

    @property
    def exit_file(self) -> Path:
        """File in which a worker leaves the exit code."""
        return self.log.with_suffix(".exit")

    @property
    def stop_file(self) -> Path:
        """File that asks a worker, by being there, to save and leave."""
        return self.log.with_suffix(".stop")


def spawn(
    task: LaunchTask, environment: Mapping[str, str] | None = None, cores: Sequence[int] = ()
) -> "subprocess.Popen[bytes]":
    """Start a task in a session of its own: a terminal's Ctrl-C reaches it through us alone.

    Args:
        task: what to run.
        environment: variables that it gets besides ours.
        cores: what it is pinned to; empty: all.
    """
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as file:
        return subprocess.Popen(
            [*PROGRAM, *task.now],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=task.cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            preexec_fn=partial(_settle, tuple(cores)),
        )


def _settle(cores: tuple[int, ...]) -> None:
    """Ask Linux for SIGTERM when the parent dies, however it dies: the run saves and leaves."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if cores:
            os.sched_setaffinity(0, cores)


def perform(task: LaunchTask, began: Callable[["subprocess.Popen[bytes]"], None] = lambda _: None) -> int:
    """Carry out a task on a worker and wait for it; return its exit code, and leave it beside the log.

    The stop file makes it save and leave. A run that its last worker has not left yet is waited for.

    Args:
        task: what to run.
        began: is handed the process.
    """
    process = None
    free = time.monotonic() + LOCK_SECONDS
    while not task.stop_file.exists():
        if not in_use(task) or time.monotonic() > free:
            process = spawn(task)
            began(process)
            break
        time.sleep(POLL_SECONDS)
    code = INTERRUPTED if process is None else attend(process, task)
    stage = task.exit_file.with_suffix(".exit-new")
    stage.write_text(f"{code}\n")
    stage.replace(task.exit_file)
    return code


def attend(process: "subprocess.Popen[bytes]", task: LaunchTask) -> int:
    """Wait for a process, and hand the request to stop on to it once; return its exit code.

    One that is still there `LEAVE_SECONDS` after that is killed.
    """
    until = None
    while True:
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            if until is None and task.stop_file.exists():
                until = time.monotonic() + LEAVE_SECONDS
                process.terminate()
            elif until is not None and time.monotonic() > until:
                process.kill()


def leave(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Tell a process to save and leave, and wait for it; after `seconds` it is killed."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)


def in_use(task: LaunchTask, elsewhere: bool = False) -> bool:
    """Return whether a process of this machine holds the task's run folder.

    The lock itself is only read: who tried it, were it for a moment, would turn away a run that begins then.

    Args:
        task: any task.
        elsewhere: the answer where a process of another machine has left its name, alive or not.
    """
    if task.folder is None:
        return False
    try:
        holder = json.loads((task.cwd / task.folder / LOCK_FILE).read_text())
        if holder["host"] != socket.gethostname():
            return elsewhere
        os.kill(pid := int(holder["pid"]), 0)
    except PermissionError:  # somebody else's process
        return True
    except (OSError, ValueError, KeyError, TypeError):  # no lock, one that is being written, or no process
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Return whether a process has ended and waits to be reaped, for ever where init does not reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:  # not Linux, or gone meanwhile
        return False
