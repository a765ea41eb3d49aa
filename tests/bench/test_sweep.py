"""`rlsuite sweep`: what trials run, what is told, pruned and continued; most runs are stand-ins."""

import csv
import json
import shlex
from pathlib import Path

import optuna
import pytest

from rlsuite.bench import spaces, sweep
from rlsuite.cli.main import run as rlsuite
from rlsuite.command.train import parse_train
from rlsuite.errors import ConfigError, RLSuiteError
from rlsuite.launch.task import LaunchTask
from rlsuite.runs.mapping import RunConfig, config_to_dict
from rlsuite.runs.runfolder import RunFolder

ENV = "gym:Pendulum-v1"
SPACE = 'batch-size = { choices = [16, 32] }\n"agent.lr-actor" = { low = 1e-4, high = 1e-2, log = true }\n'


class Process:
    """Stands in for a run of two seeds: writes an evaluation a poll, and its checkpoint at the end."""

    def __init__(self, words, score, code=0):
        self.path = Path(words[words.index("--out") + 1])
        self.score, self.code, self.returncode, self.told = score, code, None, 0

    def poll(self):
        if self.returncode is not None:
            return self.returncode
        if self.code:
            self.returncode = self.code
            return self.code
        self.told += 1
        (self.path / "ckpt").mkdir(parents=True, exist_ok=True)
        write(self.path, 10 * self.told, {0: (self.score - 1) * self.told, 1: (self.score + 1) * self.told})
        if self.told == 4:
            self.returncode = 0
        return self.returncode

    def stop(self):
        self.returncode = 75


def write(path, step, returns):
    """Append the evaluations of some seeds to the metrics of a run."""
    with (path / "metrics.jsonl").open("a") as file:
        for seed, value in returns.items():
            file.write(json.dumps({"step": step, "seed": seed, "eval/return_mean": value}) + "\n")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Sweep with stand-in runs; returns (main, processes that were started)."""
    space = tmp_path / "space.toml"
    space.write_text(SPACE)
    started = []

    def submit(launcher, name, task):
        score = 1.0 if len(started) < 5 else study_run.later
        code = study_run.codes[len(started)] if len(started) < len(study_run.codes) else 0
        process = Process(task.args, score, code)
        if any(other.path == process.path and other.returncode is None for other in started):
            process.code = 2  # the run folder is in use
        started.append(process)
        return process

    monkeypatch.setattr(sweep, "Restarted", submit)
    monkeypatch.setattr(
        sweep, "task_of", lambda plan, path, log: LaunchTask(("train", "x", "--out", str(path)), log)
    )
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(sweep, "plot_importance", lambda study, path: path.touch())

    def study_run(trials, **fields):
        args = sweep.SweepArgs(
            agent="sac",
            env=ENV,
            trials=trials,
            steps=40,
            evaluations=4,
            space=space,
            out=tmp_path / "s",
            **fields,
        )
        return sweep.main(args, ("--warmup-steps", "10"))  # 40 steps of the default learn nothing

    study_run.codes = []
    study_run.later, study_run.started, study_run.out, study_run.space = 1.0, started, tmp_path / "s", space
    return study_run


def rows(out):
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_trials_are_told_their_last_evaluation_and_more_can_be_asked_for(study):
    assert study(3) == 0
    first = rows(study.out)
    assert [row["state"] for row in first] == ["complete"] * 3
    assert {row["score"] for row in first} == {"4.0"}
    assert study(3) == 0 and len(study.started) == 3  # finished: nothing is repeated
    assert study(5) == 0 and len(study.started) == 5
    assert [row["run"] for row in rows(study.out)][:3] == [row["run"] for row in first]
    assert len({row["agent.lr-actor"] for row in rows(study.out)}) == 5
    assert (study.out / "importance.png").exists()


def test_a_run_below_the_median_is_pruned(study, capsys):
    study.later = -1.0
    assert study(7) == 0
    states = [row["state"] for row in rows(study.out)]
    assert states[:5] == ["complete"] * 5 and "pruned" in states[5:]
    assert "pruned at" in capsys.readouterr().out


def test_without_pruning_every_run_ends(study):
    study.later = -1.0
    assert study(7, prune=False) == 0
    assert {row["state"] for row in rows(study.out)} == {"complete"}


def test_a_trial_that_was_cut_off_is_continued_with_its_values(study, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "follow", killed)
        with pytest.raises(KeyboardInterrupt):
            study(2)
    (cut,) = study.started
    assert study(2) == 0
    again = study.started[1]
    assert again.path == cut.path  # the same run folder, so the same values
    assert len(rows(study.out)) == 2


def test_several_runs_at_once(study):
    assert study(4, jobs=3) == 0 and len(rows(study.out)) == 4


def test_trials_with_equal_values_at_the_same_time_share_one_run(study):
    study.space.write_text("batch-size = { choices = [16, 32] }")
    assert study(6, jobs=6) == 0
    found = rows(study.out)
    assert [row["state"] for row in found] == ["complete"] * 6 and {row["score"] for row in found} == {"4.0"}
    assert len(study.started) == len({row["run"] for row in found}) == 2  # one process a folder
    trials = known(study.out)
    assert {tuple(trial.intermediate_values.items()) for trial in trials} == {
        ((10, 1.0), (20, 2.0), (30, 3.0), (40, 4.0))
    }


def known(out):
    """Return the trials in a sweep's folder."""
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(out / sweep.STUDY_FILE))
    )
    return optuna.load_study(study_name="sweep", storage=storage).trials


def test_a_trial_that_joins_late_is_told_what_was_before(study, tmp_path):
    assert study(1) == 0
    path = tmp_path / "run"
    path.mkdir()
    write(path, 10, {0: 1.0, 1: 3.0})
    reports = {"first": [], "second": []}

    class Trial:
        def __init__(self, name):
            self.told = reports[name]

        def report(self, score, step):
            self.told.append((step, score))

    one = sweep.Running(None, path, 2)
    one.join(Trial("first"))
    sweep.follow(one, prune=False)
    one.join(Trial("second"))
    write(path, 20, {0: 2.0, 1: 4.0})
    sweep.follow(one, prune=False)
    assert reports["first"] == reports["second"] == [(10, 2.0), (20, 3.0)]


def test_an_evaluation_counts_once_all_seeds_have_written_theirs(tmp_path):
    write(tmp_path, 10, {0: 1.0, 1: 3.0})
    write(tmp_path, 20, {0: 2.0})
    assert sweep.scores(tmp_path, 2) == [(10, 2.0)]
    write(tmp_path, 20, {1: 6.0})
    assert sweep.scores(tmp_path, 2) == [(10, 2.0), (20, 4.0)]
    write(tmp_path, 30, {0: None, 1: 6.0})
    assert sweep.scores(tmp_path, 2)[2] == (30, float("-inf"))


def test_a_run_that_fails_leaves_the_others_running(study, capsys):
    study.codes = [5, 0, -9, 5]
    assert study(3) == 0
    assert [row["state"] for row in rows(study.out)] == ["complete"] * 3 and len(study.started) == 6
    assert [trial.state.name for trial in known(study.out)].count("FAIL") == 3
    said = capsys.readouterr().out
    assert "trial 0: failed with exit code 5, see" in said and "best of 3" in said


def test_runs_that_all_fail_end_the_sweep_soon_and_leave_its_results(study):
    study.codes = [0, 0, *[2] * 100]
    with pytest.raises(
        RLSuiteError, match=r"[56] runs in a row failed; the last: trial . failed with exit code 2"
    ):
        study(30, jobs=2)
    assert len(study.started) <= 2 + sweep.FAILURES + 1
    assert [row["state"] for row in rows(study.out)][:2] == ["complete"] * 2
    assert (study.out / sweep.BEST_FILE).exists()
    study.codes = []  # what was wrong is mended
    assert study(4) == 0 and len(rows(study.out)) == 4


def test_a_run_without_an_evaluation_is_a_failure(study):
    with pytest.raises(RLSuiteError, match="ended without an evaluation"):
        study(1, seeds=3)  # the stand-ins have two


def test_a_sweep_of_other_settings_is_refused(study):
    assert study(1) == 0
    with pytest.raises(ConfigError, match="other settings"):
        study(1, seeds=5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("x = 3", "no table"),
        ("x = { choices = [] }", "something in it"),
        ("x = { low = 2, high = 1 }", "in order"),
        ("x = { low = 0, high = 1, log = true }", "above 0"),
        ("x = { low = 0, high = 1, step = 1 }", "other keys"),
        ("x = [", "space.toml"),
    ],
)
def test_spaces_that_mean_nothing(study, text, words):
    study.space.write_text(text)
    with pytest.raises(ConfigError, match=words):
        study(1)
    assert not study.started


def test_flags_that_do_not_exist_are_refused_before_anything_runs(study):
    study.space.write_text('"agent.lr-actr" = { choices = [1] }')
    with pytest.raises(ConfigError, match="lr-actr"):
        study(1)
    with pytest.raises(ConfigError, match="no search space"):
        spaces.read_space("bc")


@pytest.mark.parametrize("path", sorted(spaces.SPACES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_space_of_ours_has_flags_of_its_agent(path):
    line = sweep.SweepArgs(agent=path.stem, env=ENV)
    space = spaces.read_space(line.agent)
    for pick in (sweep.example, lambda _, entry: entry.get("high", entry.get("choices", [0])[-1])):
        sweep.plan_of(line, (), {name: pick(name, entry) for name, entry in space.items()})


def test_a_real_sweep(tmp_path, capsys):
    space = tmp_path / "space.toml"
    space.write_text(
        '"agent.hidden" = { choices = [[8, 16]] }\nbatch-size = { choices = [8] }\n'
        '"agent.lr-actor" = { low = 1e-4, high = 1e-2, log = true }\n'
        '"agent.layer-norm" = { choices = [false] }\n'
    )
    words = ["--env", ENV, "--trials", "1", "--seeds", "2", "--steps", "30", "--evaluations", "2"]
    words += ["--space", str(space), "--out", str(tmp_path / "s")]
    extra = ["--", "--warmup-steps", "10", "--eval-episodes", "1"]
    assert rlsuite(["sweep", "sac", *words, *extra]) == 0
    (row,) = rows(tmp_path / "s")
    assert row["state"] == "complete" and float(row["score"]) < 0
    # What is shown, and kept, is the trial to the last flag.
    command = capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "s" / sweep.BEST_FILE).read_text().splitlines()[1] == command
    program, verb, agent, *words = shlex.split(command)
    line, _ = parse_train(agent, words)
    ran = RunFolder.open(tmp_path / "s" / row["run"]).config()
    shown = RunConfig(agent_name=agent, preset=line.preset, train=line.train, agent=line.agent)
    again = config_to_dict(shown)
    for chosen_at_start in ("compile", "eval_every"):
        again["train"][chosen_at_start] = ran["train"][chosen_at_start]
    assert (program, verb) == ("rlsuite", "train") and again == ran
