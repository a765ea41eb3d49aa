"""Runs with hindsight replay: resumed bit for bit, learning, refused where there are no goals."""

import pytest
import whole_runs as runs

from rlsuite.errors import ConfigError
from rlsuite.runs.config import TrainConfig

HER = {"env": "gym:ToyGoal-v0", "replay": "her"}


def test_a_resumed_run_equals_the_unbroken_one(tmp_path):
    fields = {**HER, "steps": 800, "replay_size": 300}
    runs.train(tmp_path / "whole", "sac", **fields)
    runs.train(tmp_path / "parts", "sac", **{**fields, "steps": 400})
    runs.train(tmp_path / "parts", "sac", resume=True, **fields)
    runs.assert_same_run(tmp_path / "whole", tmp_path / "parts")
    runs.train(tmp_path / "other", "sac", **{**fields, "replay": "uniform"})
    one, two = runs.weights(tmp_path / "whole"), runs.weights(tmp_path / "other")
    assert any(not (one[name] == two[name]).all() for name in one)


def test_hindsight_solves_what_its_goals_alone_do_not_pay_for(tmp_path):
    """Sparse rewards in the plane: success of the last evaluation, 0.95 and more with hindsight."""
    fields = {
        "gamma": 0.9,
        "lr_actor": 3e-3,
        "lr_critic": 3e-3,
        "lr_alpha": 3e-3,
        "tau": 0.05,
        "hidden": (32, 32),
    }
    train = {
        "steps": 2_400,
        "updates_per_step": 0.5,
        "batch_size": 64,
        "replay_size": 2_400,
        "eval_every": 2_400,
    }
    runs.train(tmp_path / "run", "sac", fields, **HER, **train, eval_episodes=40, checkpoint_every=0)
    last = [line for line in runs.lines(tmp_path / "run") if "eval/success" in line][-1]
    assert last["eval/success"] >= 0.95


def test_an_environment_without_goals_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="replay her: gym:ToyReach-v0 shows no goals"):
        runs.train(tmp_path / "run", "sac", replay="her")
    with pytest.raises(ConfigError, match="n_step = 3 with replay her"):
        TrainConfig(**{**runs.QUICK, **HER, "n_step": 3})


def test_a_distance_replaces_the_rule_of_the_environment(tmp_path):
    fields = {**HER, "steps": 300, "eval_every": 0, "checkpoint_every": 0}
    runs.train(tmp_path / "asked", "sac", **fields)
    runs.train(tmp_path / "same", "sac", her_distance=0.3, **fields)
    runs.train(tmp_path / "wide", "sac", her_distance=0.9, **fields)
    asked, same, wide = (runs.weights(tmp_path / name) for name in ("asked", "same", "wide"))
    assert all((asked[name] == same[name]).all() for name in asked)
    assert any((asked[name] != wide[name]).any() for name in asked)
