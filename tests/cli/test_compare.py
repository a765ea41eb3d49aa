"""`rlsuite compare`, pairs of branches, and studies that add seeds until they are decided."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "report"))
from test_report import make_run

from rlsuite.bench import study
from rlsuite.errors import ConfigError
from rlsuite.report import compare as module
from rlsuite.report.pairs import report_pairs
from rlsuite.report.statistics import seeds_needed
from rlsuite.runs.mapping import config_to_dict
from rlsuite.runs.runfolder import RunFolder

pytest.importorskip("scipy.stats")


ENV = "gym:Pendulum-v1"
RUN = ("--env", ENV, "--steps", "20000")


def groups(tmp_path, first, second, env=ENV):
    """Two folders of runs with these final returns by seed."""
    for name, agent, finals in (("a", "sac", first), ("b", "td3", second)):
        for seed, final in enumerate(finals):
            make_run(tmp_path / name / f"s{seed}", [0.0, final], agent=agent, seed=seed, env=env)
    return tmp_path / "a", tmp_path / "b"


def test_compare_says_effect_chance_and_seeds(tmp_path, rlsuite):
    first, second = groups(tmp_path, [1.0, 2.0, 6.0], [0.0, 2.0, 1.0])
    answer = rlsuite("compare", str(first), str(second), "--json")
    assert answer.code == 0, answer.err
    (facts,) = json.loads(answer.out)
    assert (
        facts["effect"]["value"] == pytest.approx(2.0)
        and facts["effect"]["low"] < 0 < facts["effect"]["high"]
    )
    assert facts["chance"]["value"] == pytest.approx((1 + 2 * 0.5 + 1 + 1 + 1 + 1 + 0 + 0.5) / 9, abs=0.1)
    assert facts["needed"] == seeds_needed(facts["standardised"]) and facts["more"] == facts["needed"] - 3
    text = rlsuite("compare", str(first), str(second)).out
    assert f"not decided: were the difference what it seems, {facts['needed']} seeds a side" in text
    paired = rlsuite("compare", str(first), str(second), "--paired").out
    assert "difference +2.0" in paired


def test_a_clear_difference_is_decided_and_few_seeds_are_not(tmp_path, rlsuite):
    first, second = groups(tmp_path, [10.0, 11.0, 12.0], [0.0, 1.0, 2.0])
    assert "a is better: the interval leaves out zero" in rlsuite("compare", str(first), str(second)).out
    one = rlsuite("compare", str(first / "s0"), str(second / "s0")).out
    assert "below 3 seeds" in one and "[" not in one
    (comparison,) = module.compare([first], [second], score="mean")
    assert comparison.effect.value == pytest.approx(5.0)


def test_what_cannot_be_compared_is_one_line(tmp_path):
    first, second = groups(tmp_path, [1.0], [2.0])
    make_run(tmp_path / "a" / "other", [0.0], gamma=0.5)
    with pytest.raises(ConfigError, match="several settings"):
        module.compare([first], [second])
    make_run(tmp_path / "c", [0.0], env="gym:Acrobot-v1")
    with pytest.raises(ConfigError, match="no common environment"):
        module.compare([second], [tmp_path / "c"])
    with pytest.raises(ConfigError, match="share 1 seed"):
        module.compare([second], [second], paired=True)


def test_pairs_of_branches_have_a_narrower_interval(tmp_path):
    runs = []
    for seed, (level, change) in enumerate([(0.0, 1.0), (100.0, 2.0), (50.0, 1.5)]):
        for name, values in (("p", [level, level]), ("b", [level, level + change])):
            make_run(tmp_path / f"{name}{seed}", values, seed=seed)
        runs.append((tmp_path / f"p{seed}", tmp_path / f"b{seed}"))
    text = report_pairs(runs, 10)
    assert "difference at 20: +1.5 [+0.3, +2.7] over 3 pairs" in text
    assert "unpaired: [-112.4, +115.4]" in text
    assert "too few for an interval" in report_pairs(runs[:1], 10)
    assert "nothing to compare" in report_pairs(runs, 20)


class Trainer:
    """Stands in for the queue: leaves the runs that it is asked for, sac better than td3 by `gap`."""

    def __init__(self, gap):
        self.gap, self.names = gap, []

    def __call__(self, tasks, launcher, told):
        for name, task in tasks.items():
            self.names.append(name)
            agent, seed = name.split("-")[0], int(name.rpartition("s")[2])
            better = self.gap if agent == "sac" else 0.0
            _finished(task.folder, agent, seed, better + np.random.default_rng([seed, len(agent)]).normal())
        return dict.fromkeys(tasks, 0)


def _finished(path, agent, seed, final):
    """A run folder that counts as finished."""
    plan = study.resolve(agent, [*RUN, "--threads", "1", "--seed", str(seed), "--seeds", "1"])
    with RunFolder.create(path, config_to_dict(plan.config), {}) as folder:
        line = {"step": 20000, "updates": 1, "seconds": 1.0}
        line |= {"eval/return_mean": final, "eval/return_std": 0.0}
        folder.metrics.write_text(json.dumps(line) + "\n")
        (folder.checkpoints / "step-000000020000").mkdir(parents=True)


@pytest.mark.parametrize(
    ("gap", "outcome"), [(5.0, "decided, sac is better"), (0.0, "not decided with 6 seeds")]
)
def test_a_study_adds_seeds_until_it_is_decided(tmp_path, rlsuite, monkeypatch, gap, outcome):
    trainer = Trainer(gap)
    monkeypatch.setattr(study, "run_all", trainer)
    words = ["bench", "study", "--agents", "sac,td3", "--envs", ENV, "--steps", "20000", "--seeds", "3"]
    words += ["--until-decided", "--max-seeds", "8" if gap else "6", "--no-report"]
    words += ["--out", str(tmp_path / "study")]
    answer = rlsuite(*words)
    assert answer.code == 0, answer.err
    assert outcome in answer.out
    seeds = sorted(int(name.rpartition("s")[2]) for name in trainer.names if name.startswith("sac"))
    assert seeds == list(range(len(seeds))) and (len(seeds) == 6 if not gap else 4 <= len(seeds) < 8)
    trainer.names.clear()
    again = rlsuite(*words)  # it looks again, and trains nothing
    assert outcome in again.out and trainer.names == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--agents", "sac"], "compares two agents"),
        (["--agents", "sac,td3", "--max-seeds", "3"], "must not be below --seeds 4"),
    ],
)
def test_studies_that_cannot_be_decided_are_refused(rlsuite, words, said):
    answer = rlsuite("bench", "study", "--envs", "Hopper", "--until-decided", *words)
    assert answer.code == 2 and said in answer.err
