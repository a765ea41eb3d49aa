"""The contract of launchers, and a queue of runs over any of them."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from rlsuite.launch.task import INTERRUPTED, POLL_SECONDS, LaunchTask
from rlsuite.runs.signals import StopFlag

RESTARTS = 3  # of a run whose worker dies; a run that kills its worker each time must end somewhere


class Job(Protocol):
    """A task under way."""

    def poll(self) -> int | None:
        """Return the exit code, negative where the worker was killed; None while it is under way."""

    def stop(self) -> None:
        """Ask it to save and leave; asking twice is fine."""


class Launcher(Protocol):
    """Protocol of what carries tasks out. A context manager: leaving gives back what it holds."""

    @property
    def slots(self) -> int | None:
        """Tasks that it takes at once; None: it has a queue of its own."""

    @property
    def preempts(self) -> bool:
        """Whether a run may be interrupted by others than us, and then goes on."""

    def submit(self, name: str, task: LaunchTask) -> Job:
        """Start or queue a task; `name` is a file's."""

    def close(self) -> None:
        """Give back what the launcher holds."""


class Restarted:
    """A job that is submitted again when its worker dies or is taken away by others; the run then goes on."""

    def __init__(self, launcher: Launcher, name: str, task: LaunchTask) -> None:
        self.launcher, self.name, self.task = launcher, name, task
        self.restarts, self.stopped = 0, False
        self.job = launcher.submit(name, task)

    def poll(self) -> int | None:
        """Return the exit code; None while the task is under way, or was started again."""
        code = self.job.poll()
        if code is None or self.stopped:
            # Who was told to stop and died of it goes on like any interrupted run.
            return INTERRUPTED if code is not None and code < 0 else code
        lost = code < 0 and self.restarts < RESTARTS
        if lost or (code == INTERRUPTED and self.launcher.preempts):
            self.restarts += lost
            why = f"lost its worker ({self.restarts} of {RESTARTS} restarts)" if lost else "was preempted"
            print(f"{self.name}: {why}, goes on", flush=True)
            self.job = self.launcher.submit(self.name, self.task)
            return None
        return code

    def stop(self) -> None:
        """Ask it to save and leave; it is not started again."""
        if not self.stopped:
            self.stopped = True
            self.job.stop()


def run_all(
    tasks: Mapping[str, LaunchTask], launcher: Launcher, told: Callable[[str, int], None] = lambda *_: None
) -> dict[str, int]:
    """Carry out every task; return exit codes by name.

    A failure leaves the others running. A stop signal is handed on once: running processes save and return
    75, and what has not begun counts as interrupted, too.

    Args:
        tasks: by a name that can be a file's.
        launcher: decides where, and how many at once.
        told: called with the name and exit code of everything that ends.
    """
    waiting, running, codes = dict(tasks), dict[str, Restarted](), dict[str, int]()
    with StopFlag() as stop:
        while waiting or running:
            while waiting and stop.stop is None and (launcher.slots is None or len(running) < launcher.slots):
                name = next(iter(waiting))
                task = waiting.pop(name)
                running[name] = Restarted(launcher, name, task)
                print(
                    f"{name}: {'submitted' if launcher.slots is None else 'running'}, log {task.log}",
                    flush=True,
                )
            if stop.stop is not None:
                codes |= dict.fromkeys(waiting, INTERRUPTED)
                waiting.clear()
                for job in running.values():
                    job.stop()
            for name, job in list(running.items()):
                if (code := job.poll()) is not None:
                    del running[name]
                    codes[name] = code
                    told(name, code)
                    print(f"{name}: {outcome(code)} ({len(codes)} of {len(tasks)})", flush=True)
            time.sleep(POLL_SECONDS if running else 0)
    return codes


def worst(codes: Mapping[str, int]) -> int:
    """Return the exit code of a whole queue: a failure's before 75, 0 where all is finished."""
    failed = [code for code in codes.values() if code]
    code = next((code for code in failed if code != INTERRUPTED), failed[0] if failed else 0)
    return code if code >= 0 else 1


def outcome(code: int) -> str:
    """Say an exit code in words."""
    if code == INTERRUPTED:
        return "interrupted, the same command goes on with it"
    if code < 0:
        return f"killed by signal {-code}, see its log"
    return "finished" if code == 0 else f"failed with exit code {code}, see its log"
