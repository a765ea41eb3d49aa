"""The queue over launchers, options and flags: what needs no run."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rlsuite.command.arguments import without
from rlsuite.errors import ConfigError
from rlsuite.launch import queue, slurm
from rlsuite.launch.flags import LaunchFlags, make_launcher, options_of
from rlsuite.launch.local import GPU_VARIABLE, LocalLauncher, LocalOptions
from rlsuite.launch.plan import seed_groups
from rlsuite.launch.queue import RESTARTS, Restarted, run_all, worst
from rlsuite.launch.slurm import SlurmJob, private
from rlsuite.launch.task import INTERRUPTED, LOST, LaunchTask, in_use, perform


class Script:
    """A launcher whose jobs end as told, one code for each submission of a task."""

    def __init__(self, codes, slots=None, preempts=False):
        self.codes, self.slots, self.preempts = (
            {name: list(each) for name, each in codes.items()},
            slots,
            preempts,
        )
        self.submitted, self.running, self.most, self.stopped = [], 0, 0, []

    def submit(self, name, task):
        self.submitted.append(name)
        self.running += 1
        self.most = max(self.most, self.running)
        return Ending(self, name)

    def close(self):
        pass


class Ending:
    """Ends at its second poll."""

    def __init__(self, script, name):
        self.script, self.name, self.polls = script, name, 0

    def poll(self):
        self.polls += 1
        if self.polls < 2:
            return None
        self.script.running -= 1
        return self.script.codes[self.name].pop(0)

    def stop(self):
        self.script.stopped.append(self.name)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(queue, "POLL_SECONDS", 0.0)


def tasks(*names):
    return {name: LaunchTask((name,), Path(f"{name}.log")) for name in names}


def test_what_fails_leaves_the_rest_and_counts_before_what_was_interrupted():
    told = []
    script = Script({"a": [0], "b": [3], "c": [INTERRUPTED]}, slots=2)
    codes = run_all(tasks("a", "b", "c"), script, lambda name, code: told.append((name, code)))
    assert codes == dict(told) == {"a": 0, "b": 3, "c": INTERRUPTED}
    assert script.most == 2 and script.submitted == ["a", "b", "c"]
    assert worst(codes) == 3 and worst({"a": 0, "c": INTERRUPTED}) == INTERRUPTED and worst({}) == 0
    assert worst({"a": LOST}) == 1


def test_a_cluster_takes_everything_at_once():
    script = Script({"a": [0], "b": [0], "c": [0]})
    run_all(tasks("a", "b", "c"), script)
    assert script.most == 3


def test_a_lost_worker_is_replaced_a_few_times_and_then_given_up(capsys):
    script = Script({"a": [LOST, -11, 0], "b": [LOST] * (RESTARTS + 1)})
    assert run_all(tasks("a", "b"), script) == {"a": 0, "b": LOST}
    assert script.submitted.count("a") == 3 and script.submitted.count("b") == RESTARTS + 1
    said = capsys.readouterr().out
    assert "a: lost its worker (2 of 3 restarts), goes on" in said and "b: killed by signal 9" in said


def test_only_where_others_may_preempt_is_an_interrupted_run_started_again():
    assert run_all(tasks("a"), Script({"a": [INTERRUPTED]})) == {"a": INTERRUPTED}
    script = Script({"a": [INTERRUPTED] * 5 + [0]}, preempts=True)
    assert run_all(tasks("a"), script) == {"a": 0} and len(script.submitted) == 6


def test_who_was_told_to_stop_is_told_once_and_not_started_again():
    script = Script({"a": [LOST]}, preempts=True)
    job = Restarted(script, "a", tasks("a")["a"])
    job.stop()
    job.stop()
    assert [job.poll(), job.poll()] == [None, INTERRUPTED] and script.stopped == ["a"]


def test_a_signal_stops_the_queue(monkeypatch):
    script = Script({"a": [INTERRUPTED], "b": [0]}, slots=1)
    submit = script.submit

    def strike(name, task):
        os.kill(os.getpid(), signal.SIGTERM)
        return submit(name, task)

    monkeypatch.setattr(script, "submit", strike)
    assert run_all(tasks("a", "b"), script) == {"a": INTERRUPTED, "b": INTERRUPTED}
    assert script.stopped == ["a"] and script.submitted == ["a"]


def test_a_task_begins_or_goes_on_by_its_folder(tmp_path):
    task = LaunchTask(("train",), tmp_path / "a.log", Path("run"), ("resume",), tmp_path)
    assert task.now == ("train",)
    (tmp_path / "run").mkdir()
    assert task.now == ("train",)
    (tmp_path / "run" / "config.toml").touch()
    assert task.now == ("resume",)
    assert LaunchTask(("list",), tmp_path / "a.log").now == ("list",)


def test_a_worker_leaves_the_exit_code_and_starts_nothing_that_was_stopped(tmp_path):
    task = LaunchTask(("nonsense",), tmp_path / "logs" / "a.log", cwd=Path.cwd())
    assert perform(task) == 2 and task.exit_file.read_text() == "2\n"
    assert "nonsense" in task.log.read_text()
    task.stop_file.touch()
    task.log.unlink()
    assert perform(task) == INTERRUPTED and task.exit_file.read_text() == "75\n" and not task.log.exists()


def test_a_folder_is_in_use_as_long_as_the_process_that_its_lock_names_lives(tmp_path):
    task, lock = LaunchTask((), tmp_path / "a.log", tmp_path), tmp_path / "run.lock"
    assert not in_use(task)
    with subprocess.Popen(["sleep", "60"]) as holder:
        lock.write_text(json.dumps({"pid": holder.pid, "host": socket.gethostname()}))
        assert in_use(task)
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        assert not in_use(task)  # ended, though nobody has read its code
    assert not in_use(task)
    lock.write_text(json.dumps({"pid": 1, "host": "another"}))
    assert not in_use(task) and in_use(task, elsewhere=True)
    lock.write_text("{")
    assert not in_use(task, elsewhere=True)


class Done:
    """Stands in for submitit's job."""

    job_id = "1"

    def __init__(self, done):
        self.done = lambda: done


def test_a_slurm_job_without_an_exit_code_is_lost_once_it_has_ended(tmp_path):
    task = LaunchTask((), tmp_path / "a.log")
    assert SlurmJob(Done(False), task).poll() is None
    assert SlurmJob(Done(True), task).poll() == LOST
    task.exit_file.write_text("75\n")
    assert SlurmJob(Done(False), task).poll() == INTERRUPTED


@pytest.mark.parametrize("before", [None, 0o777])
def test_only_this_user_may_enter_the_folder_that_jobs_are_unpickled_from(tmp_path, before):
    folder = tmp_path / "logs" / "slurm"
    if before is not None:  # made by an earlier release, or by somebody else for us
        folder.mkdir(parents=True)
        folder.chmod(before)
    old = os.umask(0)
    try:
        assert private(folder) == folder
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_refused_before_a_job_is_submitted(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.chmod", refuse)  # the superuser may change any
    with pytest.raises(ConfigError, match=r"slurm must belong to this user alone.*not permitted.*--out"):
        private(tmp_path / "slurm")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"File exists|Not a directory"):
        private(tmp_path / "file" / "slurm")


def test_gpus_and_cores_are_shared_out_over_the_slots(tmp_path, monkeypatch):
    began = []

    class Process:
        def poll(self):
            return None

    monkeypatch.setattr("rlsuite.launch.local.spawn", lambda task, *given: began.append(given) or Process())
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {4, 5, 6, 7, 8, 9})
    launcher = LocalLauncher(3, LocalOptions(gpus="0,1", cores=2))
    for name in "abc":
        launcher.submit(name, LaunchTask((), tmp_path / name))
    assert began == [
        ({GPU_VARIABLE: gpu}, cores) for gpu, cores in (("0", [4, 5]), ("1", [6, 7]), ("0", [8, 9]))
    ]
    with pytest.raises(ConfigError, match="4 runs at once with 2 cores each need more than the 6 here"):
        LocalLauncher(4, LocalOptions(cores=2))
    monkeypatch.setenv(GPU_VARIABLE, "3")
    assert LocalLauncher(1, LocalOptions()).gpus == ["3"]


def test_a_local_run_waits_for_the_last_holder_of_its_folder(tmp_path, monkeypatch):
    held, began = [True], []

    class Process:
        def poll(self):
            return 0

    monkeypatch.setattr("rlsuite.launch.local.in_use", lambda task: held[0])
    monkeypatch.setattr("rlsuite.launch.local.spawn", lambda task, *_: began.append(task) or Process())
    task = LaunchTask((), tmp_path / "a.log", tmp_path)
    job, stopped = (LocalLauncher(2, LocalOptions()).submit(name, task) for name in "ab")
    assert job.poll() is None and stopped.poll() is None and not began
    stopped.stop()
    assert stopped.poll() == INTERRUPTED and not began
    held[0] = False
    assert job.poll() is None and len(began) == 1 and job.poll() == 0
    held[0] = True
    monkeypatch.setattr("rlsuite.launch.local.LOCK_SECONDS", -1.0)  # nobody is waited for for ever
    LocalLauncher(1, LocalOptions()).submit("c", task)
    assert len(began) == 2


@pytest.mark.parametrize(
    ("launcher", "words", "says"),
    [
        ("slurm", ("partitio=gpu",), 'Did you mean "partition"'),
        ("slurm", ("time=soon",), "HOURS:MINUTES:SECONDS"),
        ("slurm", ("time=0",), "HOURS:MINUTES:SECONDS"),
        ("slurm", ("cpus=0",), "at least 1"),
        ("slurm", ("cluster=pbs",), "cluster"),
        ("ray", ("cpus=-1",), "must not be negative"),
        ("ray", ("partition=gpu",), "Allowed: address, cpus, gpus"),
        ("local", ("cores=-1",), "must not be negative"),
        ("local", ("gpus",), "KEY=VALUE"),
    ],
)
def test_wrong_options_are_one_sentence(launcher, words, says):
    with pytest.raises(ConfigError, match=says):
        LaunchFlags(launcher=launcher, launcher_option=words)


def test_right_options_have_their_types():
    assert options_of("slurm", ("time=90", "partition=gpu", "memory_gb=16")).minutes == 90
    assert options_of("slurm", ("time=1:00:01",)).minutes == 61
    assert options_of("local", ("gpus=0",)).gpus == "0" and options_of("local", ("gpus=0,1",)).gpus == "0,1"
    assert options_of("ray", ("gpus=0.5", "address=auto")).gpus == 0.5
    with pytest.raises(ConfigError, match="jobs = 0: must be at least 1"):
        LaunchFlags(jobs=0)
    with make_launcher(None, "local") as launcher:
        assert launcher.slots == 1


def test_there_is_no_slurm_without_its_commands(monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="cluster=local"):
        make_launcher(None, "slurm")


def test_seeds_are_shared_out_by_groups():
    assert seed_groups(3, [2, 1]) == {
        "s3-4": ["--seed", "3", "--seeds", "2"],
        "s5": ["--seed", "5", "--seeds", "1"],
    }


def test_flags_are_taken_out_with_their_values():
    words = [
        "--seeds",
        "8",
        "--env",
        "X",
        "--out=a",
        "--launcher_option",
        "a=1",
        "--steps=3",
        "--launcher-option=b=2",
    ]
    assert without(words, ("--seeds", "--out", "--launcher-option")) == ["--env", "X", "--steps=3"]


def test_a_preempted_job_whose_run_does_not_leave_kills_it_in_time(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", deaf + "time.sleep(600)"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"deaf\n"
    assert slurm.SAVE_SECONDS < slurm.SIGNAL_SECONDS
    monkeypatch.setattr(slurm, "SAVE_SECONDS", 0.3)
    work = slurm.Work(LaunchTask(("x",), tmp_path / "x.log"))
    work.process = process
    with process.stdout:
        again = work.checkpoint()
    assert process.wait(10) == -9
    assert again.function.task == work.task  # goes on in the queue
