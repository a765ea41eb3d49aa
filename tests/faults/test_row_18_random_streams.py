"""Row 18: what a run looks at, draws or writes beside its training leaves its random streams alone."""

import random

import numpy as np
import torch
import whole_runs as runs
from toys import Poisoned

from rlsuite.training.loggers import Loggers


def test_evaluations_and_their_number_do_not_touch_training(tmp_path):
    Poisoned.steps = 0
    often, seldom, never = (tmp_path / name for name in ("often", "seldom", "never"))
    runs.train(often, eval_every=100, eval_episodes=3)
    runs.train(seldom, eval_every=400)
    runs.train(never, eval_every=0, loggers=("tensorboard",))
    curves = [runs.lines(path, drop=("eval/",)) for path in (often, seldom, never)]
    assert curves[0] == curves[1] == curves[2]
    assert len(curves[0]) == 8
    assert any("loss/critic" in line for line in curves[0])
    for path in (seldom, never):
        a, b = runs.weights(often), runs.weights(path)
        assert all((a[key] == b[key]).all() for key in a)


def test_the_seed_decides_everything(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        runs.train(tmp_path / name, seed=seed)
    runs.assert_same_run(tmp_path / "a", tmp_path / "b")
    assert runs.lines(tmp_path / "a") != runs.lines(tmp_path / "c")


def test_a_logger_that_draws_random_numbers_does_not_touch_training(tmp_path, monkeypatch, count):
    runs.train(tmp_path / "plain")
    log, drawn = Loggers.log, []

    def drawing(self, step, numbers):
        drawn.append((torch.rand(3), np.random.rand(3), random.random()))
        torch.manual_seed(step)
        np.random.seed(step)
        log(self, step, numbers)

    monkeypatch.setattr(Loggers, "log", drawing)
    runs.train(tmp_path / "drawing", loggers=("tensorboard",))
    assert len(drawn) > 5
    runs.assert_same_run(tmp_path / "plain", tmp_path / "drawing")
    count("runs with strange draws, bit-equal", 1)
