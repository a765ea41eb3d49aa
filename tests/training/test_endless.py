"""Evaluations of environments that name no time limit: they end, and a signal is heard while they last."""

import json
import logging
import signal

import gymnasium
import pytest
import strange_envs
import torch
from tensordict.nn import TensorDictModule
from whole_runs import SMALL_FLAGS

from rlsuite.cli.main import guarded
from rlsuite.envs.make import make_env
from rlsuite.runs.signals import StopFlag
from rlsuite.training import evaluate as module
from rlsuite.training.evaluate import Abandoned, evaluate

NEVER = 1 << 60
CUT = 40  # stands for the longest evaluation
WORDS = (
    *("--env", "gym:strange/Signalled-v0", "--steps", "120", "--warmup-steps", "20", "--eval-every", "40"),
    *SMALL_FLAGS,
)


class Signalled(strange_envs.Strange):
    """Has no end; sends its own process a signal at a chosen step of all there are."""

    taken, at = 0, None

    def __init__(self, **more):
        super().__init__(**{"limit": NEVER, **more})

    def step(self, action):
        type(self).taken += 1
        if self.taken == self.at:
            signal.raise_signal(signal.SIGTERM)
        return super().step(action)


if "strange/Signalled-v0" not in gymnasium.registry:
    gymnasium.register("strange/Signalled-v0", Signalled)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Let the longest evaluation and the grace after a signal be short ones."""
    monkeypatch.setattr(module, "LONGEST", CUT)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(Signalled, "taken", 0)
    module._say_cut.cache_clear()


def resting():
    return TensorDictModule(
        lambda observation: torch.zeros(len(observation), 2), in_keys=["observation"], out_keys=["action"]
    )


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({"limit": NEVER}, CUT),
        ({"limit": CUT + 1}, CUT),
        ({"limit": 10}, 10),
        ({"limit": NEVER, "max_episode_steps": 7}, 7),
        ({"limit": NEVER, "max_episode_steps": CUT + 5}, CUT + 5),
    ],
)
def test_row_5_an_evaluation_ends_and_says_where_it_was_cut(options, length, caplog):
    env = make_env("gym:strange/Strange-v0", 2, options=options)
    with caplog.at_level(logging.WARNING):
        played = evaluate(resting(), env, seeds=0)
    assert played["lengths"] == [length, length]
    assert played["returns"] == [length, length]
    cut = length == CUT
    assert ("--env-option max_episode_steps=N" in caplog.text) == cut
    assert caplog.text.count("names no time limit") == cut


@pytest.mark.parametrize("heard", ["SIGTERM", "SIGINT", "SIGUSR1", None])
def test_row_5_a_signal_ends_an_evaluation(heard):
    env = make_env("gym:strange/Strange-v0", 1, options={"limit": NEVER})
    stop = StopFlag()
    stop.stop = heard
    if heard is None:
        assert evaluate(resting(), env, seeds=0, stop=stop)["lengths"] == [CUT]
    else:
        with pytest.raises(Abandoned):
            evaluate(resting(), env, seeds=0, stop=stop)


def evaluations(path):
    metrics = path / "metrics.jsonl"
    lines = map(json.loads, metrics.read_text().splitlines() if metrics.exists() else ())
    return {line["step"]: line["eval/return_mean"] for line in lines if "eval/return_mean" in line}


@pytest.mark.parametrize("at", [45, 120, 190])
def test_row_5_a_run_that_is_told_to_stop_while_it_evaluates_is_saved(tmp_path, monkeypatch, at):
    """Steps 40, 80 and 120 are evaluated for 40 steps each: 45, 120 and 190 of all steps are inside one."""
    monkeypatch.setattr(Signalled, "at", at)
    run = tmp_path / "run"
    assert guarded(["train", "sac", *WORDS, "--out", str(run)]) == 75
    assert list((run / "ckpt").iterdir())
    assert len(evaluations(run)) == (45, 120, 190).index(at)
    monkeypatch.setattr(Signalled, "at", None)
    assert guarded(["resume", str(run)]) == 0
    assert evaluations(run) == {40: CUT, 80: CUT, 120: CUT}
