"""`rlsuite sweep`: what trials run, what is told, pruned and continued; most runs are stand-ins."""

import csv
import json
from pathlib import Path

import pytest

from rlsuite.bench import spaces, sweep
from rlsuite.cli.main import run as rlsuite
from rlsuite.errors import ConfigError
from rlsuite.launch.task import Task

ENV = "gym:Pendulum-v1"
SPACE = 'batch-size = { choices = [16, 32] }\n"agent.lr-actor" = { low = 1e-4, high = 1e-2, log = true }\n'


class Process:
    """Stands in for a run: writes its evaluations one a poll, and its checkpoint at the end."""

    def __init__(self, words, score):
        self.path = Path(words[words.index("--out") + 1])
        self.score, self.returncode, self.told = score, None, 0

    def poll(self):
        if self.returncode is not None:
            return self.returncode
        self.told += 1
        (self.path / "ckpt").mkdir(parents=True, exist_ok=True)
        line = {"step": 10 * self.told, "eval/return_mean": self.score * self.told}
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.told == 4:
            self.returncode = 0
        return self.returncode

    def stop(self):
        self.returncode = 75


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Sweep with stand-in runs; returns (main, processes that were started)."""
    space = tmp_path / "space.toml"
    space.write_text(SPACE)
    started = []

    def submit(launcher, name, task):
        score = 1.0 if len(started) < 5 else study_run.later
        started.append(Process(task.words, score))
        return started[-1]

    monkeypatch.setattr(sweep, "Restarted", submit)
    monkeypatch.setattr(
        sweep, "task_of", lambda plan, path, log: Task(("train", "x", "--out", str(path)), log)
    )
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(sweep, "plot_importance", lambda study, path: path.touch())

    def study_run(trials, **fields):
        line = sweep.SweepLine(
            agent="sac",
            env=ENV,
            trials=trials,
            steps=40,
            evaluations=4,
            space=space,
            out=tmp_path / "s",
            **fields,
        )
        return sweep.main(line)

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
    line = sweep.SweepLine(agent=path.stem, env=ENV)
    space = spaces.read_space(line.agent)
    for pick in (sweep.example, lambda _, entry: entry.get("high", entry.get("choices", [0])[-1])):
        sweep.plan_of(line, (), {name: pick(name, entry) for name, entry in space.items()})


def test_a_real_sweep(tmp_path, capsys):
    space = tmp_path / "space.toml"
    space.write_text("batch-size = { choices = [8] }\n")
    words = ["--env", ENV, "--trials", "1", "--seeds", "2", "--steps", "30", "--evaluations", "2"]
    words += ["--space", str(space), "--out", str(tmp_path / "s")]
    extra = ["--", "--warmup-steps", "10", "--eval-episodes", "1", "--agent.hidden", "8", "8"]
    assert rlsuite(["sweep", "sac", *words, *extra]) == 0
    (row,) = rows(tmp_path / "s")
    assert row["state"] == "complete" and float(row["score"]) < 0
    assert "--batch-size 8" in capsys.readouterr().out
