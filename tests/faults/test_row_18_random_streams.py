"""Row 18: what a run looks at, draws or writes beside its training leaves its random streams alone."""

import random

import numpy as np
import pytest
import torch
import whole_runs as runs
from toys import Poisoned

from rlsuite.envs.make import make_env
from rlsuite.errors import EnvironmentFailure
from rlsuite.training import evaluations
from rlsuite.training.evaluate import evaluate, evaluate_run
from rlsuite.training.loggers import Loggers

FILMED = {"env": "InvertedPendulum", "num_envs": 2, "steps": 400, "eval_every": 200}  # falls over soon


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


@pytest.fixture
def frames():
    """Count the frames of a video; skip where nothing can draw or write one."""
    imageio = pytest.importorskip("imageio.v2", reason="videos need imageio: pip install 'rlsuite[video]'")
    env = make_env(FILMED["env"], 1, render=True)
    env.reset()
    try:
        env.frame()
    except EnvironmentFailure as error:
        pytest.skip(str(error))
    finally:
        env.close()
    return lambda path: sum(1 for _ in imageio.get_reader(path).iter_data())


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_video_of_a_run_between_two_trainings_changes_nothing(tmp_path, frames, count):
    whole, parts, video = tmp_path / "whole", tmp_path / "parts", tmp_path / "video.mp4"
    runs.train(whole, "sac", **FILMED)
    runs.train(parts, "sac", **{**FILMED, "steps": 200})
    before = contents(parts)
    evaluate_run(parts, episodes=3, seed=None, video=video, which="last", video_envs=2)
    assert frames(video) > 1
    assert contents(parts) == before
    runs.train(parts, "sac", resume=True, **FILMED)
    runs.assert_same_run(whole, parts)
    assert (runs.newest(whole) / "rng.json").read_bytes() == (runs.newest(parts) / "rng.json").read_bytes()
    count("filmed runs, bit-equal")


def test_evaluations_that_are_filmed_do_not_touch_training(tmp_path, monkeypatch, frames, count):
    runs.train(tmp_path / "plain", "sac", **FILMED)
    videos = []

    def filming(policy, env, **how):
        videos.append(tmp_path / f"{len(videos)}.mp4")
        return evaluate(policy, env, **how, video=videos[-1], video_envs=2)

    monkeypatch.setattr(evaluations, "evaluate", filming)
    runs.train(tmp_path / "filmed", "sac", **FILMED)
    assert [frames(video) > 1 for video in videos] == [True, True]
    runs.assert_same_run(tmp_path / "plain", tmp_path / "filmed")
    a, b = (runs.newest(tmp_path / name) / "rng.json" for name in ("plain", "filmed"))
    assert a.read_bytes() == b.read_bytes()
    count("filmed runs, bit-equal")
