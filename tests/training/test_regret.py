"""The regret of training episodes: in a run's sums, its metrics, its checkpoint, and the tables."""

import json

import numpy as np
import pytest
import torch
import whole_runs as runs

from rlsuite.offline.scores import Reference
from rlsuite.report import study, tables
from rlsuite.report.compare import compare, sentences
from rlsuite.training.state import EpisodeSums

CPU = torch.device("cpu")


def ended(*successes, returns=0.0, seeds=1):
    """Sums of episodes of one step each, of one env a seed."""
    sums = EpisodeSums(seeds, CPU, seeds=seeds)
    for each in successes:
        won = None if each is None else np.full(seeds, bool(each))
        sums.add(torch.full((seeds,), returns), torch.ones(seeds, dtype=torch.bool), won)
    return sums


def test_the_regret_is_one_less_the_share_of_successes():
    """Numeric test 11 of the specification; lines of metrics in between do not begin it anew."""
    sums = ended(0, 1, 1, 0, 1)
    assert sums.regrets()[0]["train/regret"] == pytest.approx(0.4)
    sums.take()
    assert sums.regrets()[0]["train/regret"] == pytest.approx(0.4)
    sums.add(torch.zeros(1), torch.zeros(1, dtype=torch.bool), np.array([True]))  # not an episode's end
    assert sums.regrets()[0]["train/regret"] == pytest.approx(0.4)


def test_every_seed_has_its_own():
    sums = EpisodeSums(2, CPU, seeds=2)
    for won in ([True, False], [True, True]):
        sums.add(torch.zeros(2), torch.ones(2, dtype=torch.bool), np.array(won))
    assert sums.regrets() == [{"train/regret": 0.0}, {"train/regret": 0.5}]


def test_scores_stand_in_for_successes_and_without_them_there_is_none():
    sums = ended(None, None, returns=30.0)
    assert sums.regrets() == [{}]
    assert sums.regrets(Reference(10.0, 50.0))[0]["train/regret"] == pytest.approx(0.5)
    assert ended().regrets(Reference(0.0, 1.0)) == [{}]


def test_it_is_saved_and_older_checkpoints_begin_it_anew():
    sums, fresh = ended(0, 1), EpisodeSums(1, CPU)
    fresh.load(sums.state())
    assert fresh.regrets() == sums.regrets()
    older = {name: tensor for name, tensor in sums.state().items() if name != "whole"}
    fresh.load(older)
    assert fresh.regrets() == [{}]


def test_runs_log_it_and_tables_show_it(tmp_path):
    settings = {"env": "gym:ToyGoal-v0", "eval_every": 200, "warmup_steps": 300}
    for seed in range(3):
        runs.train(tmp_path / "sac" / f"s{seed}", "sac", seed=seed, steps=400, **settings)
    runs.train(tmp_path / "td3" / "s0", "td3", steps=400, **settings)
    logged = [runs.lines(tmp_path / "sac" / f"s{seed}")[-1]["train/regret"] for seed in range(3)]
    assert all(0 <= regret <= 1 for regret in logged)
    row, _ = tables.summaries(study.read_study([tmp_path]))
    assert row["regret"] == pytest.approx(np.mean(logged))
    assert "Regret" in tables.summary_table(study.read_study([tmp_path])).heads
    (comparison,) = compare([tmp_path / "sac"], [tmp_path / "td3"])
    assert comparison.regrets[0] == tuple(logged) and len(comparison.regrets[1]) == 1
    assert any("regret of all training episodes: a " in line for line in sentences(comparison, ("a", "b")))
    json.dumps(comparison.facts())


def test_a_resumed_run_has_the_regret_of_the_unbroken_one(tmp_path):
    settings = {"env": "gym:ToyGoal-v0", "eval_every": 0}
    runs.train(tmp_path / "whole", "sac", steps=600, **settings)
    runs.train(tmp_path / "broken", "sac", steps=400, **settings)
    runs.train(tmp_path / "broken", "sac", steps=600, resume=True, **settings)
    runs.assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert "train/regret" in runs.lines(tmp_path / "whole")[-1]
