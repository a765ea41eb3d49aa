"""Several command lines of this program at once, each a process of its own with a log file."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlsuite.training.signals import StopFlag

POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # of prctl(2)
STOP_SECONDS = 300.0  # that a run told to stop may take to finish an evaluation and to save
PROGRAM = (sys.executable, "-m", "rlsuite")
INTERRUPTED = 75  # exit code of a run that was stopped and can go on


def run_all(commands: Mapping[str, Sequence[str]], jobs: int, logs: Path) -> dict[str, int]:
    """Run `rlsuite WORDS` for every entry, at most `jobs` at a time; return exit codes by name.

    A failure leaves the others running. A stop signal is handed on once: running processes save and return
    75, and what has not begun counts as interrupted, too. One that is still there after `STOP_SECONDS` is
    killed.

    Args:
        commands: words after `rlsuite`, by a name that can be a file's.
        jobs: at least 1.
        logs: folder of what they print, one file each, appended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running, codes = dict(commands), dict[str, subprocess.Popen[bytes]](), dict[str, int]()
    told: float | None = None
    with StopFlag() as stop:
        while waiting or running:
            while waiting and len(running) < jobs and stop.stop is None:
                name = next(iter(waiting))
                running[name] = launch(waiting.pop(name), logs / f"{name}.log")
                print(f"{name}: running, log {logs / f'{name}.log'}", flush=True)
            if stop.stop is not None and told is None:
                told = time.monotonic()
                codes |= dict.fromkeys(waiting, INTERRUPTED)
                waiting.clear()
                for process in running.values():
                    process.send_signal(signal.SIGTERM)
            if told is not None and time.monotonic() - told > STOP_SECONDS:
                for process in running.values():
                    process.kill()
            for name in [name for name, process in running.items() if process.poll() is not None]:
                codes[name] = running.pop(name).returncode
                print(f"{name}: {_outcome(codes[name])}", flush=True)
            time.sleep(POLL_SECONDS if running else 0)
    return codes


def launch(words: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start one process in a session of its own: a terminal's Ctrl-C reaches it through us alone."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [*PROGRAM, *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies, however it dies: the run saves and leaves."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _outcome(code: int) -> str:
    if code == INTERRUPTED:
        return "interrupted, the same command goes on with it"
    return "finished" if code == 0 else f"failed with exit code {code}, see its log"
