"""A run that is killed or stopped goes on as if nothing had happened."""

import signal
import time

import numpy as np
import pytest
import whole_runs as runs
from toys import Poisoned

from rlsuite.training.runfolder import RunFolder
from rlsuite.training.signals import StopFlag


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken") / "run"
    child = runs.start("train", "dsac_t", *runs.flags(), "--out", path)
    assert child.wait(120) == 0, child.stdout.read()
    return path


def kill_when(child, reached, seconds=60):
    """Send SIGKILL once `reached()` is true; False when the child ended first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child.poll() is not None:
            return False
        if reached():
            child.kill()
            child.wait()
            return True
        time.sleep(0.002)
    raise AssertionError("the run never got there")


def killed_and_resumed(tmp_path, unbroken, seed, kills):
    path = tmp_path / "run"
    rng = np.random.default_rng(seed)
    child = runs.start("train", "dsac_t", *runs.flags(), "--out", path)
    for _ in range(kills):
        wait = time.monotonic() + rng.uniform(0, 0.6)
        started = (path / "metrics.jsonl").exists
        if not kill_when(child, lambda wait=wait, started=started: started() and time.monotonic() > wait):
            break
        child = runs.start("resume", path, "--import", "toys")
    assert child.wait(120) == 0, child.stdout.read()
    runs.assert_same_run(unbroken, path)
    assert not list((path / "ckpt").glob(".stage*"))


def test_sigkill_at_two_random_moments(tmp_path, unbroken):
    killed_and_resumed(tmp_path, unbroken, seed=0, kills=2)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_sigkill_at_twenty_random_moments(tmp_path, unbroken, seed):
    killed_and_resumed(tmp_path, unbroken, seed, kills=2)


def test_sigterm_saves_at_the_next_step_and_exits_75(tmp_path, unbroken):
    path = tmp_path / "run"
    child = runs.start("train", "dsac_t", *runs.flags(), "--out", path)
    while not (path / "ckpt").exists():
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.01)
    asked = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 75
    assert time.monotonic() - asked < 10
    said = child.stdout.read()
    assert f"rlsuite resume {path}" in said
    stopped_at = int(runs.newest(path).name.removeprefix("step-"))
    assert 200 <= stopped_at < 800
    child = runs.start("resume", path, "--import", "toys")
    assert child.wait(60) == 0
    runs.assert_same_run(unbroken, path)


def test_a_stop_flag_in_process_and_resume_for_every_agent(tmp_path):
    for agent in ("dsac_t", "sac", "td3"):
        whole, parts = tmp_path / f"{agent}-whole", tmp_path / f"{agent}-parts"
        runs.train(whole, agent)
        stop = StopFlag()
        stop.stop = "SIGTERM"  # stops at the first boundary
        assert runs.train(parts, agent, stop=stop).interrupted
        result = runs.train(parts, agent, resume=True)
        assert not result.interrupted
        assert result.updates == 150
        runs.assert_same_run(whole, parts)


def test_resume_with_more_steps_goes_on(tmp_path):
    runs.train(tmp_path / "long", steps=1000)
    runs.train(tmp_path / "short", steps=800)
    runs.train(tmp_path / "short", steps=1000, resume=True)
    long, short = runs.weights(tmp_path / "long"), runs.weights(tmp_path / "short")
    assert all((long[key] == short[key]).all() for key in long)


def test_an_extension_is_remembered(tmp_path):
    path = tmp_path / "run"
    runs.train(path, steps=400)
    child = runs.start("resume", path, "--steps", 800, "--import", "toys")
    assert child.wait(120) == 0, child.stdout.read()
    assert runs.newest(path).name.endswith("800")
    assert RunFolder.open(path).config()["train"]["steps"] == 800


def test_n_step_and_a_wrapped_replay_resume_exactly(tmp_path):
    options = {"n_step": 3, "replay_size": 300, "steps": 900}
    runs.train(tmp_path / "whole", "sac", **options)
    stopped = {**options, "steps": 604}
    runs.train(tmp_path / "parts", "sac", **stopped)
    runs.train(tmp_path / "parts", "sac", resume=True, **options)
    a, b = runs.weights(tmp_path / "whole"), runs.weights(tmp_path / "parts")
    assert all((a[key] == b[key]).all() for key in a)


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
