"""`rlsuite train --processes P` and `rlsuite bench study`: what they start; the runs are stand-ins."""

import json

import pytest

from rlsuite.launch import queue
from rlsuite.launch.plan import resolve
from rlsuite.runs.mapping import config_to_dict
from rlsuite.runs.runfolder import RunFolder

TASK = "gym:Pendulum-v1"


@pytest.fixture
def began(monkeypatch):
    """Tasks that were started here; each leaves a finished run, or ends with the code of `began.code`."""

    class Began(list):
        code = 0

    tasks = Began()

    class Process:
        def __init__(self, code):
            self.code = code

        def poll(self):
            return self.code

        def terminate(self):
            raise AssertionError("nothing is stopped here")

    def spawn(task, *_):
        tasks.append(task)
        if tasks.code == 0:
            finish(task)
        return Process(tasks.code)

    monkeypatch.setattr("rlsuite.launch.local.spawn", spawn)
    monkeypatch.setattr(queue, "POLL_SECONDS", 0.0)
    return tasks


def finish(task):
    """Leave what a finished run leaves of itself."""
    if task.now == task.again:
        (task.folder / "ckpt" / "step-000000000300").mkdir()
        return
    _, agent, *words = task.args
    at = words.index("--out")
    plan = resolve(agent, words[:at])
    with RunFolder.create(task.folder, config_to_dict(plan.config), {}) as folder:
        steps = plan.config.train.steps
        (folder.checkpoints / f"step-{steps:012d}").mkdir(parents=True)
        folder.metrics.write_text(json.dumps({"step": steps, "eval/return_mean": 1.0}) + "\n")


def seeds_of(task):
    words = list(task.args)
    return task.folder.name, words[words.index("--seed") + 1], words[words.index("--seeds") + 1]


def test_seeds_are_shared_out_and_the_same_line_goes_on(rlsuite, began, tmp_path):
    words = ("train", "sac", "--env", TASK, "--seed", "4", "--seeds=5", "--processes", "2", "--steps", "300")
    answer = rlsuite(*words, "--out", str(tmp_path / "x"))
    assert answer.code == 0
    assert [seeds_of(task) for task in began] == [("s4-6", "4", "3"), ("s7-8", "7", "2")]
    assert all("--processes" not in task.args and "--steps" in task.args for task in began)
    assert "5 seeds in 2 runs" in answer.out and f"rlsuite report {tmp_path / 'x'}" in answer.out
    assert rlsuite(*words, "--out", str(tmp_path / "x")).code == 0 and len(began) == 2


def test_a_failed_group_is_the_exit_code_and_says_how_to_go_on(rlsuite, began, tmp_path):
    began.code = 4
    answer = rlsuite(
        "train", "sac", "--env", TASK, "--seeds", "2", "--processes", "2", "--out", str(tmp_path / "x")
    )
    assert answer.code == 4 and f"the same command with --out {tmp_path / 'x'}" in answer.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--seeds", "2", "--processes", "3"), "take 1 to 2 processes"),
        (("--processes", "0"), "take 1 to 1 processes"),
        (("--seeds", "2", "--processes", "2", "--launcher-option", "core=2"), 'Did you mean "cores"?'),
    ],
)
def test_wrong_lines_of_train(rlsuite, began, tmp_path, words, says):
    answer = rlsuite("train", "sac", "--env", TASK, *words, "--out", str(tmp_path / "x"))
    assert answer.code == 2 and says in answer.err and answer.err.count("\n") == 1 and not began
    assert not (tmp_path / "x").exists()


def test_of_several_processes_the_first_says_what_is_wrong(rlsuite, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert "no environment" in rlsuite("train", "sac").err  # a variable that torchrun did not set
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    answer = rlsuite("train", "sac")
    assert answer.code == 2 and not answer.err
    monkeypatch.setenv("RANK", "0")
    assert "no environment" in rlsuite("train", "sac").err


def study(rlsuite, out, *words):
    size = ("--seeds", "3", "--seeds-per-run", "2", "--steps", "300")
    names = ("--agents", "sac,td3", "--envs", TASK)
    extra = ("--", "--warmup-steps", "100")
    return rlsuite("bench", "study", *names, *size, "--out", str(out), "--no-report", *words, *extra)


def test_a_study_starts_what_is_missing_and_says_what_is_left(rlsuite, began, tmp_path):
    out = tmp_path / "study"
    answer = study(rlsuite, out, "--status")
    assert answer.code == 0 and not began and not out.exists()
    assert answer.out.splitlines()[-1].split() == ["all", "-", "-", "-", "-", "4"]
    began.code = 3
    answer = study(rlsuite, out)
    assert answer.code == 3 and len(began) == 4
    assert answer.out.count("exit code 3") == 8  # as they end, and below the table
    status = study(rlsuite, out, "--status").out.splitlines()
    assert status[1].split() == ["sac", TASK, "-", "-", "-", "2", "-", "0", "of", "600"]
    began.code = 0
    answer = study(rlsuite, out)
    assert answer.code == 0 and len(began) == 8 and "exit code" not in answer.out.splitlines()[-1]
    assert answer.out.splitlines()[-1].split() == ["all", "4", "-", "-", "-", "-"]
    assert study(rlsuite, out).code == 0 and len(began) == 8
    assert {seeds_of(task)[1:] for task in began} == {("0", "2"), ("2", "1")}


def test_a_run_that_was_cut_off_is_interrupted_and_its_steps_are_counted(rlsuite, began, tmp_path):
    out = tmp_path / "study"
    assert study(rlsuite, out).code == 0
    run = out / "sac-gym-Pendulum-v1-s2"
    (run / "ckpt" / "step-000000000300").rename(run / "ckpt" / "step-000000000100")
    (run / "metrics.jsonl").write_text('{"step": 150}\n{"ste')
    row = study(rlsuite, out, "--status").out.splitlines()[1].split()
    assert row == ["sac", TASK, "1", "-", "1", "-", "-", "450", "of", "600"]
    began.clear()
    assert study(rlsuite, out, "--seeds", "3").code == 0
    assert [task.now[:2] for task in began] == [("resume", str(run))]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--envs", ""), "at least one name"),
        (("--agents", "sac,tdd3"), "td3"),
        (("--agents", "sac:nonsense"), "nonsense"),
        (("--seeds", "0"), "at least 1"),
        (("--launcher", "slrm"), "slurm"),
        (("--steps", "100"), "end the line with: -- --warmup-steps 20"),
    ],
)
def test_wrong_lines_of_a_study(rlsuite, began, tmp_path, words, says):
    answer = study(rlsuite, tmp_path / "study", *words)
    assert answer.code == 2 and says in answer.err and answer.err.count("\n") == 1 and not began
