"""Row 1: killed at a random moment, every agent goes on as if nothing had happened."""

import json
import random
import shutil
import time
from functools import partial

import killing
import numpy as np
import pytest
import torch
import whole_runs as runs
from safetensors.torch import load_file

from rlsuite.agents.compiled import compiler
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag

MOST_KILLS_OF_A_RUN = 5


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
    hits = 0
    for _ in range(kills):
        wait = time.monotonic() + rng.uniform(0, 0.6)
        started = (path / "metrics.jsonl").exists
        if not kill_when(child, lambda wait=wait, started=started: started() and time.monotonic() > wait):
            break
        hits += 1
        child = runs.start("resume", path, "--import", "toys")
    assert child.wait(120) == 0, child.stdout.read()
    assert_same_to_the_last_file(unbroken, path)
    return hits


def test_sigkill_at_two_random_moments_of_commands(tmp_path, unbroken, count):
    count("kills of commands survived", killed_and_resumed(tmp_path, unbroken, seed=0, kills=2))


@pytest.mark.faults_long
@pytest.mark.parametrize("seed", range(1, 11))
def test_sigkill_at_twenty_random_moments_of_commands(tmp_path, unbroken, count, seed):
    count("kills of commands survived", killed_and_resumed(tmp_path, unbroken, seed, kills=2))


@pytest.mark.faults_long
@pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")
def test_sigkill_of_a_run_whose_updates_are_compiled(tmp_path, count, monkeypatch):
    """Killed while kernels are built, or later: the resumed run equals the unbroken one."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    flags = [*runs.flags(), "--compile", "on"]
    assert runs.start("train", "td3", *flags, "--out", tmp_path / "whole").wait(300) == 0
    chance, path = random.Random(0), tmp_path / "run"
    child, kills = runs.start("train", "td3", *flags, "--out", path), 0
    while kills < 3:
        wait = time.monotonic() + chance.uniform(5, 25)
        started = (path / "config.toml").exists
        if not kill_when(child, lambda wait=wait, started=started: started() and time.monotonic() > wait):
            break
        kills += 1
        child = runs.start("resume", path, "--import", "toys")
    assert child.wait(300) == 0, child.stdout.read()
    assert_same_to_the_last_file(tmp_path / "whole", path)
    count("kills of compiled commands survived", kills)


KILLS = {"short": 2, "long": 20}


FORMS = [
    pytest.param(case, form, id=f"{case}-{form}", marks=[] if form == "short" else pytest.mark.faults_long)
    for case in killing.cases()
    for form in KILLS
    if case.short or form == "long"
]


@pytest.mark.parametrize(("case", "form"), FORMS)
def test_every_agent_is_killed_and_equals_the_unbroken_run(tmp_path, recorded, count, case, form):
    def start(path, resume=False):
        case.train(path, recorded, resume=resume)

    torch.set_num_threads(1)
    seconds = killing.timed(lambda: start(tmp_path / "whole"))
    chance = random.Random(f"{case} {form}")
    survived = 0
    for attempt in range(4 * KILLS[form]):
        path = tmp_path / f"broken-{attempt}"
        kills = min(KILLS[form] - survived, MOST_KILLS_OF_A_RUN)
        ready = partial(case.may_be_killed, path)
        survived += killing.kill_and_resume(partial(start, path), path, seconds, kills, chance, ready)
        assert_same_to_the_last_file(tmp_path / "whole", path)
        shutil.rmtree(path)
        if survived >= KILLS[form]:
            break
    assert survived == KILLS[form]
    count(f"kills survived, {case}", survived)


def assert_same_to_the_last_file(one, two):
    """Metrics, weights, moments, worlds, replay, plug-ins and streams of the last checkpoint are equal."""
    runs.assert_same_run(one, two)
    a, b = runs.newest(one), runs.newest(two)
    names = sorted(str(file.relative_to(a)) for file in a.rglob("*.safetensors"))
    assert names == sorted(str(file.relative_to(b)) for file in b.rglob("*.safetensors"))
    for name in names:
        left, right = load_file(a / name), load_file(b / name)
        assert left.keys() == right.keys()
        for key in left:
            assert torch.equal(left[key].nan_to_num(7), right[key].nan_to_num(7)), f"{name}: {key}"
    assert json.loads((a / "rng.json").read_text()) == json.loads((b / "rng.json").read_text())
    assert not list((two / "ckpt").glob(".stage*"))


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


@pytest.mark.parametrize(
    "left", [(), ("run.lock",), ("run.lock", "meta.json"), ("meta.json", ".config.toml.17.part")]
)
def test_a_start_that_was_killed_before_there_was_a_run_can_be_repeated(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("")
    RunFolder.create(tmp_path, {"a": 1}, {}).close()
    assert RunFolder.open(tmp_path).config() == {"a": 1}
