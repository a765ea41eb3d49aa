"""Row 1: killed at a random moment, every agent goes on as if nothing had happened."""

import time

import numpy as np
import pytest
import whole_runs as runs

from rlsuite.training.runfolder import RunFolder
from rlsuite.training.signals import StopFlag


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


def test_resume_without_a_checkpoint_starts_over(tmp_path):
    runs.train(tmp_path / "whole")
    path = tmp_path / "run"
    runs.train(path)
    for folder in (path / "ckpt").iterdir():
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        folder.rmdir()
    runs.train(path, resume=True)
    runs.assert_same_run(tmp_path / "whole", path)
