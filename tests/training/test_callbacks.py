"""Callbacks: what they are told and when, their state in checkpoints, and that they change nothing."""

import json
import sys
import types

import numpy as np
import pytest
import torch
import whole_runs as runs
from torchrl.envs.utils import ExplorationType, set_exploration_type

import rlsuite
from rlsuite.errors import ConfigError, DataError
from rlsuite.registry import agent_class
from rlsuite.runs.config import OfflineConfig
from rlsuite.runs.mapping import RunConfig, config_to_dict
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training import callbacks as module
from rlsuite.training.callbacks import Callbacks, Hooks
from rlsuite.training.start import train


class Witness(rlsuite.Callback):
    """Writes down what it is told, counts in its state, and may die at a step."""

    def __init__(self, dies_at=None, stops_at=None):
        self.dies_at, self.stops_at = dies_at, stops_at
        self.told, self.sum, self.best = [], torch.zeros(2), None

    def on_start(self, start):
        self.told.append(("start", start.step, start.goal))

    def on_log(self, line):
        self.told.append(("log", line["step"]))
        self.sum += torch.tensor([1.0, line.get("loss/critic", 0.0)])
        if self.dies_at is not None and line["step"] >= self.dies_at:
            raise KeyboardInterrupt

    def on_evaluation(self, evaluation):
        self.told.append(("evaluation", evaluation.step, evaluation.number))
        self.best = max(self.best or -1e9, evaluation.return_mean)

    def on_checkpoint(self, path):
        self.told.append(("checkpoint", path.name))

    def on_end(self, result):
        self.told.append(("end", result.env_steps))

    def stop(self):
        return self.stops_at is not None and self.told[-1] == ("log", self.stops_at)

    def state_dict(self):
        return {"sum": self.sum, "best": self.best}

    def load_state_dict(self, state):
        self.sum, self.best = state["sum"].clone(), state["best"]


def hooks(*callbacks):
    return Hooks(Callbacks(callbacks))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run without callbacks."""
    path = tmp_path_factory.mktemp("plain") / "run"
    runs.train(path)
    return path


@pytest.fixture(scope="module")
def witnessed(tmp_path_factory):
    """The same run with a callback, and that callback."""
    path, witness = tmp_path_factory.mktemp("witnessed") / "run", Witness()
    runs.train(path, hooks=hooks(witness))
    return path, witness


def test_callbacks_are_told_in_order(witnessed):
    _, witness = witnessed
    assert witness.told == [
        ("start", 0, 800),
        *[("log", 100), ("log", 200), ("checkpoint", "step-000000000200"), ("log", 300)],
        *[("log", 400), ("evaluation", 400, 1), ("checkpoint", "step-000000000400"), ("log", 500)],
        *[("log", 600), ("checkpoint", "step-000000000600"), ("log", 700)],
        *[("log", 800), ("evaluation", 800, 2), ("checkpoint", "step-000000000800"), ("end", 800)],
    ]


def test_a_run_that_dies_and_goes_on_equals_the_unbroken_one_with_its_callbacks(tmp_path, witnessed):
    whole, witness = witnessed
    with pytest.raises(KeyboardInterrupt):
        runs.train(tmp_path / "run", hooks=hooks(Witness(dies_at=700)))
    again = Witness()
    runs.train(tmp_path / "run", hooks=hooks(again), resume=True)
    runs.assert_same_run(whole, tmp_path / "run")
    assert torch.equal(again.sum, witness.sum) and again.best == witness.best
    assert again.told[:3] == [("start", 600, 800), ("checkpoint", "step-000000000600"), ("log", 700)]
    states = [(runs.newest(path) / "callbacks.json").read_bytes() for path in (whole, tmp_path / "run")]
    assert states[0] == states[1]


class Prying(rlsuite.Callback):
    """Draws from the policy and from torch's own generator wherever it can."""

    def __init__(self):
        self.actions = []

    def on_evaluation(self, evaluation):
        torch.rand(3)
        with set_exploration_type(ExplorationType.RANDOM):
            self.actions.append(evaluation.act(np.array([[0.5], [-0.5]])))
        self.actions.append(evaluation.act(np.array([[0.5]])))


def test_a_callback_that_draws_from_the_policy_moves_nothing(tmp_path, plain):
    prying = Prying()
    runs.train(tmp_path / "run", hooks=hooks(prying))
    runs.assert_same_run(plain, tmp_path / "run")
    assert [action.shape for action in prying.actions] == [(2, 1), (1, 1)] * 2
    # What it saw at the end is the policy that the run has left.
    assert prying.actions[-1] == pytest.approx(rlsuite.load(tmp_path / "run").act([[0.5]]))


def test_a_callback_ends_a_run_which_then_stays_ended(tmp_path):
    result = runs.train(tmp_path / "run", hooks=hooks(Witness(stops_at=300)))
    assert (result.env_steps, result.interrupted, result.stopped_by) == (300, False, "Witness")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.stopped_at() == 300
    state = Witness(stops_at=300)
    runs.train(tmp_path / "run", hooks=hooks(state), resume=True)  # it no longer asks: the run goes on
    assert state.told[-1] == ("end", 800) and folder.stopped_at() is None


def test_stop_when_and_its_state(tmp_path):
    stopping = rlsuite.StopWhen(at_least=-1e9)
    result = runs.train(tmp_path / "run", hooks=hooks(stopping))
    assert (result.env_steps, result.stopped_by) == (400, "StopWhen: return of at least -1e+09")
    again = runs.train(tmp_path / "run", hooks=hooks(rlsuite.StopWhen(at_least=-1e9)), resume=True)
    assert (again.env_steps, again.stopped_by) == (400, result.stopped_by)


def evaluation(mean):
    return types.SimpleNamespace(return_mean=mean, number=1, step=1)


def test_the_given_ones_count_as_they_say():
    twice = rlsuite.StopWhen(at_least=10, times=2)
    for mean, asks in ((10, False), (9.9, False), (11, False), (12, True)):
        twice.on_evaluation(evaluation(mean))
        assert bool(twice.stop()) is asks
    plateau = rlsuite.StopOnPlateau(patience=2, gain=1.0)
    for mean, asks in ((0, False), (0.9, False), (1.1, False), (2.0, False), (1.5, True)):
        plateau.on_evaluation(evaluation(mean))
        assert bool(plateau.stop()) is asks, mean
    copy = rlsuite.StopOnPlateau(patience=2, gain=1.0)
    copy.load_state_dict(json.loads(json.dumps(plateau.state_dict())))
    assert copy.stop() == plateau.stop()
    for wrong in (lambda: rlsuite.StopWhen(1, times=0), lambda: rlsuite.StopOnPlateau(0)):
        with pytest.raises(ConfigError, match="must be at least 1"):
            wrong()


def test_films_of_every_second_evaluation(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip("pygame")
    small = {"env": "gym:Pendulum-v1", "steps": 40, "warmup_steps": 40, "num_envs": 2, "log_every": 40}
    filming = rlsuite.FilmEvery(2)
    runs.train(tmp_path / "run", hooks=hooks(filming), **{**small, "eval_every": 10, "checkpoint_every": 0})
    assert sorted(path.name for path in (tmp_path / "run" / "videos").iterdir()) == [
        "step-000000000020.mp4",
        "step-000000000040.mp4",
    ]


def test_what_cannot_be_filmed_is_said_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match="does not take render_mode"):
        runs.train(tmp_path / "run", hooks=hooks(rlsuite.FilmEvery()))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_recorded_data_then_envs_are_one_run(tmp_path, recorded):
    kind, witness = agent_class("iql"), Witness()
    fields = {**runs.QUICK, "env": "gym:ToyReach-v0", "steps": 20, "then_online": 20, "eval_every": 20}
    fields |= {"log_every": 10, "num_envs": 1}
    known = OfflineConfig.__dataclass_fields__
    config = OfflineConfig(dataset=str(recorded), **{k: v for k, v in fields.items() if k in known})
    agent = kind.Config(**runs.TINY)
    whole = RunConfig(agent_name="iql", preset="default", train=config, agent=agent)
    with RunFolder.create(tmp_path / "run", config_to_dict(whole), {}) as folder:
        train(kind, agent, config, folder, hooks=hooks(witness))
    assert [event[0] for event in witness.told].count("start") == 1
    assert [event for event in witness.told if event[0] in ("end", "evaluation")] == [
        *[("evaluation", 20, 1), ("evaluation", 40, 2), ("end", 40)],
    ]


def test_states_of_callbacks_that_are_not_given_again_are_kept(tmp_path, caplog):
    runs.train(tmp_path / "run", hooks=hooks(Witness()), steps=400)
    runs.train(tmp_path / "run", resume=True, steps=600)
    assert "goes on without its callbacks Witness" in caplog.text
    third = Witness()
    runs.train(tmp_path / "run", hooks=hooks(third), resume=True, steps=800)
    assert third.sum[0] == 4 + 2  # lines of the first and the third session


def test_malformed_states_are_data_errors():
    for values in (5, {"Witness": 3}):
        with pytest.raises(DataError, match="callbacks are malformed"):
            Callbacks([Witness()]).load({}, values)


@pytest.fixture
def mine(monkeypatch):
    """A module of the user's own."""
    made = types.ModuleType("my_callbacks")
    made.Witness, made.NoCallback = Witness, dict
    monkeypatch.setitem(sys.modules, "my_callbacks", made)


def test_callbacks_by_name(mine):
    first, second = module.load_callbacks(
        ["my_callbacks:Witness,stops_at=7", "rlsuite:StopWhen,at_least=-2.5"]
    )
    assert first.stops_at == 7 and second.at_least == -2.5
    names = list(Callbacks([first, second, Witness()]).named)
    assert names == ["Witness", "StopWhen", "Witness-2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("my_callbacks:Nobody", "has nothing called Nobody"),
        ("no_such_module:X", 'no module "no_such_module"'),
        ("my_callbacks:NoCallback", "derive the class from rlsuite.Callback"),
        ("my_callbacks:Witness,stops_at", "KEY=VALUE"),
        ("my_callbacks:Witness,color=3", "unexpected keyword"),
    ],
)
def test_wrong_callbacks_are_one_line(mine, text, said):
    with pytest.raises(ConfigError, match=said):
        module.load_callbacks([text])
    with pytest.raises(ConfigError, match="is no callback"):
        Callbacks([5])
