"""Runs as processes of this machine, each in a slot: a GPU, a group of cores, or just its turn."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlsuite.bounds import NotNegative, check_bounds
from rlsuite.errors import ConfigError
from rlsuite.launch.task import INTERRUPTED, LEAVE_SECONDS, LOCK_SECONDS, LaunchTask, in_use, spawn

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """`--launcher-option` of the launcher local."""

    gpus: str = ""
    """GPUs to share out over the slots, as in CUDA_VISIBLE_DEVICES; empty takes those that variable names,
    and without it leaves the choice to torch."""
    cores: NotNegative = 0
    """Cores that each slot is pinned to, its own; 0 pins none."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a number of cores that means nothing."""
        check_bounds(self)


class LocalLauncher:
    """At most `slots` processes at once."""

    preempts = False

    def __init__(self, slots: int, options: LocalOptions) -> None:
        """Share GPUs and cores out over the slots.

        Raises:
            ConfigError: there are fewer cores than the slots ask for.
        """
        self.slots = slots
        self.gpus = [gpu for gpu in (options.gpus or os.environ.get(GPU_VARIABLE, "")).split(",") if gpu]
        cores = sorted(os.sched_getaffinity(0)) if options.cores else []
        if options.cores * slots > len(cores) and options.cores:
            raise ConfigError(
                f"{slots} runs at once with {options.cores} cores each need more than the {len(cores)} here: "
                "take fewer --jobs, or fewer cores"
            )
        self.groups = [cores[at * options.cores : (at + 1) * options.cores] for at in range(slots)]
        self.taken: dict[int, LocalJob] = {}

    def submit(self, name: str, task: LaunchTask) -> "LocalJob":
        """Start a process in a slot that is free, or, where its caller counts otherwise, in the emptiest."""
        self.taken = {slot: job for slot, job in self.taken.items() if job.poll() is None}
        slot = next((slot for slot in range(self.slots) if slot not in self.taken), 0)
        environment = {GPU_VARIABLE: self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        self.taken[slot] = LocalJob(task, environment, self.groups[slot])
        return self.taken[slot]

    def close(self) -> None:
        """Processes end by themselves."""


class LocalJob:
    """A process; it begins when the last one of its run, told to save and leave, has left."""

    def __init__(self, task: LaunchTask, environment: Mapping[str, str], cores: Sequence[int]) -> None:
        self.task, self.environment, self.cores = task, environment, cores
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False
        self.until = float("inf")  # then a process that was told to leave is killed
        self.patience = time.monotonic() + LOCK_SECONDS
        self.poll()

    def poll(self) -> int | None:
        """Return the exit code, negative where a signal killed it; None while it waits or runs."""
        if self.process is not None:
            if time.monotonic() > self.until:
                self.process.kill()
            return self.process.poll()
        if self.stopped:
            return INTERRUPTED
        if not in_use(self.task) or time.monotonic() > self.patience:
            self.process = spawn(self.task, self.environment, self.cores)
        return None

    def stop(self) -> None:
        """Send SIGTERM, and when it has not left after `LEAVE_SECONDS`, SIGKILL."""
        self.stopped = True
        self.until = time.monotonic() + LEAVE_SECONDS
        if self.process is not None:
            self.process.terminate()
