"""Runs as Slurm jobs, through submitit; `cluster=local` carries them out on this machine, to try it.

Before a job's time is over, or when it is preempted, Slurm sends SIGUSR2: the run saves, the job is put back
in the queue, and goes on. Jobs outlive us: the same command finds them again by the file of their number.
"""

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rlsuite.bounds import AtLeastOne, Bounds, NotNegative, check_bounds
from rlsuite.errors import ConfigError
from rlsuite.launch.task import LOST, POLL_SECONDS, LaunchTask, in_use, perform

CANCEL = "scancel"
PRIVATE = 0o700  # mode of the folder that holds jobs' pickles
TIMEOUTS = 1_000  # times that a job may run out of time and go on: a run ends by itself
SIGNAL_SECONDS = 90  # from Slurm's signal to the end of a job's time; submitit's own default
SAVE_SECONDS = 75.0  # of them for the run to save and leave; the rest is for putting the job back
LIVE_STATES = ("PENDING", "RUNNING", "REQUEUED", "CONFIGURING", "COMPLETING", "SUSPENDED", "READY", "UNKNOWN")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions:
    """`--launcher-option` of the launcher slurm."""

    cluster: Literal["slurm", "local"] = "slurm"
    """local: processes of this machine under submitit's controller."""
    time: str = "4:00:00"
    """Limit of a job, HOURS:MINUTES:SECONDS or minutes; a run that needs longer goes on in the next one."""
    cpus: AtLeastOne = 1
    """CPUs of a job."""
    gpus: NotNegative = 0
    """GPUs of a job."""
    memory_gb: Annotated[float, Bounds(0, open_low=True)] = 8.0
    """Memory of a job."""
    partition: str = ""
    """Partition; empty takes the cluster's default, as below."""
    account: str = ""
    """Account to charge."""
    qos: str = ""
    """Quality of service."""
    constraint: str = ""
    """Features that a node must have."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a time that is none, or a job without a CPU."""
        check_bounds(self)
        if self.minutes < 1:
            raise ConfigError(
                f'time = "{self.time}": write HOURS:MINUTES:SECONDS or minutes, e.g. time=4:00:00'
            )

    @property
    def minutes(self) -> int:
        """The time limit in minutes, rounded up; 0 where it is none."""
        if not re.fullmatch(r"\d+(:\d{1,2}:\d{1,2})?", self.time):
            return 0
        if self.time.isdecimal():
            return int(self.time)
        hours, minutes, seconds = map(int, self.time.split(":"))
        return -(-(hours * 3600 + minutes * 60 + seconds) // 60)


def import_submitit() -> Any:
    """Import submitit without its own setting up of logging.

    That shuts the handlers of the whole process down, and one of them (absl's) then closes the stream it
    writes to, which may be anybody's.

    Raises:
        ConfigError: it is missing.
    """
    ours = "SUBMITIT_LOG_LEVEL" not in os.environ
    if ours:
        os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ConfigError('the launcher slurm needs submitit: pip install "rlsuite[slurm]"') from error
    finally:
        if ours:  # jobs inherit the environment, and their logs are submitit's to write
            del os.environ["SUBMITIT_LOG_LEVEL"]
    return submitit


def private(folder: Path) -> Path:
    """Make a folder that only this user may enter: what lies in it is unpickled, which runs it.

    Raises:
        ConfigError: it cannot be made, or is another user's.
    """
    try:
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        folder.chmod(PRIVATE)  # one that is there already, too
    except OSError as error:
        raise ConfigError(
            f"{folder} must belong to this user alone, for jobs are unpickled from it, and cannot be made so "
            f"({error.strerror}): name a folder of your own with --out"
        ) from error
    return folder


class Work:
    """Callable that submitit runs on the node."""

    def __init__(self, task: LaunchTask) -> None:
        self.task = task
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Carry the task out."""
        return perform(self.task, self._began)

    def _began(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def checkpoint(self) -> Any:
        """Let the run save and leave; return the same work, which goes on from the run folder.

        A run that is still there after `SAVE_SECONDS` is killed, and goes on from its newest checkpoint: were
        it waited for longer, Slurm would end the job before it is back in the queue.
        """
        submitit = import_submitit()
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            until = time.monotonic() + SAVE_SECONDS
            # Not `wait`: this is a signal handler, and the code that it interrupted may hold wait's lock.
            while os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                if time.monotonic() > until:
                    self.process.kill()
                    break
                time.sleep(POLL_SECONDS)
        return submitit.helpers.DelayedSubmission(Work(self.task))


class SlurmLauncher:
    """Hands every task to Slurm, which queues them."""

    preempts = True

    def __init__(self, slots: int | None, options: SlurmOptions) -> None:
        """Check that submitit is installed and the options mean something to it.

        Raises:
            ConfigError: submitit or Slurm is missing.
        """
        submitit = import_submitit()
        if options.cluster == "slurm" and submitit.SlurmExecutor.affinity() < 0:
            raise ConfigError(
                "there is no Slurm here (no command srun): start this on a login node, or try it out with "
                "--launcher-option cluster=local"
            )
        self.submitit: Any = submitit
        self.slots, self.options = slots, options

    def submit(self, name: str, task: LaunchTask) -> "SlurmJob":
        """Submit a job, or find the one that an earlier call submitted and that is still under way."""
        folder = private(task.log.parent / "slurm")
        number = task.log.with_suffix(".job")
        if number.exists() and not task.exit_file.exists():
            job = self.known(folder, number.read_text().strip())
            if in_use(task) or (self.options.cluster == "slurm" and job.state in LIVE_STATES):
                task.stop_file.unlink(missing_ok=True)
                return SlurmJob(job, task)
        for file in (task.stop_file, task.exit_file):
            file.unlink(missing_ok=True)
        executor = self.submitit.AutoExecutor(
            folder, cluster=self.options.cluster, slurm_max_num_timeout=TIMEOUTS
        )
        options = self.options
        named = {
            f"slurm_{key}": getattr(options, key) for key in ("partition", "account", "qos", "constraint")
        }
        executor.update_parameters(
            name=name,
            timeout_min=options.minutes,
            cpus_per_task=options.cpus,
            gpus_per_node=options.gpus,
            mem_gb=options.memory_gb,
            slurm_signal_delay_s=SIGNAL_SECONDS,
            **{key: value for key, value in named.items() if value},
        )
        job = executor.submit(Work(task))
        number.write_text(f"{job.job_id}\n")
        return SlurmJob(job, task)

    def known(self, folder: Path, job_id: str) -> Any:
        """Return the job of an earlier call."""
        job_class = self.submitit.SlurmJob if self.options.cluster == "slurm" else self.submitit.LocalJob
        return job_class(folder=folder, job_id=job_id)

    def close(self) -> None:
        """Jobs live on without us."""


class SlurmJob:
    """A job that waits, runs, or waits again."""

    def __init__(self, job: Any, task: LaunchTask) -> None:
        self.job, self.task = job, task

    def poll(self) -> int | None:
        """Return the exit code, or `LOST` where the job ended without one; None while it waits or runs."""
        # Asked before the file is looked for, which is written last. An earlier call's job of cluster=local
        # is known by the process of its run alone.
        ended = self.job.done() and not in_use(self.task)
        if self.task.exit_file.exists():
            return int(self.task.exit_file.read_text())
        return LOST if ended else None

    def stop(self) -> None:
        """Take it out of the queue, or ask it by file, once it runs."""
        self.task.stop_file.touch()
        if shutil.which(CANCEL):
            subprocess.run(
                [CANCEL, "--state=PENDING", str(self.job.job_id)], check=False, capture_output=True
            )
