"""Learning from recorded rows, and going online afterwards: whole runs on a toy."""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import whole_runs as runs

import rlsuite
from rlsuite.agents.base import Columns
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.load import load_dataset
from rlsuite.offline.transforms import DataOptions, best_episodes, transformed
from rlsuite.registry import agent_class
from rlsuite.runs.config import OfflineConfig
from rlsuite.runs.mapping import RunConfig, config_from_dict, config_to_dict
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.evaluate import evaluate_run
from rlsuite.training.savedrun import load_run
from rlsuite.training.start import train

sys.path.append(str(Path(__file__).parents[1] / "offline"))
from offline_helpers import box, episodes_of, write_minari

QUICK = {
    "env": "gym:ToyReach-v0",
    "steps": 60,
    "batch_size": 32,
    "eval_every": 30,
    "eval_episodes": 2,
    "checkpoint_every": 20,
    "log_every": 10,
    "threads": 1,
    "device": "cpu",
    "loggers": (),
    "replay_size": 1_000,
}


def learn(path, dataset, agent="iql", fields=None, *, stop=None, resume=False, **changes):
    kind = agent_class(agent)
    config = OfflineConfig(**{**QUICK, "dataset": str(dataset), **changes})
    own = kind.Config(**{**runs.TINY, **(fields or {})})
    if resume:
        folder = RunFolder.open(path)
    else:
        whole = RunConfig(agent_name=agent, preset="default", train=config, agent=own)
        folder = RunFolder.create(path, config_to_dict(whole), {})
    with folder:
        return train(kind, own, config, folder, stop=stop, resume=resume)


@pytest.mark.parametrize("agent", ["bc", "iql", "td3_bc", "sac"])
def test_updates_on_recorded_rows_lower_the_loss(tmp_path, recorded, agent):
    result = learn(tmp_path / "run", recorded, agent, steps=120)
    assert (result.updates, result.env_steps, result.interrupted) == (120, 120, False)
    lines = runs.lines(tmp_path / "run")
    name = "loss/actor" if agent == "bc" else "loss/critic"
    assert lines[-1][name] < lines[0][name]
    assert [line["step"] for line in lines if "eval/return_mean" in line] == [30, 60, 90, 120]


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_resumed_run_equals_the_unbroken_one(tmp_path, recorded, seeds):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    learn(whole, recorded, seeds=seeds, then_online=40)
    # Each part ends where the whole run evaluates, too.
    learn(broken, recorded, seeds=seeds, steps=30)
    learn(broken, recorded, seeds=seeds, then_online=30, resume=True)  # goes on to 60, then online
    learn(broken, recorded, seeds=seeds, then_online=40, resume=True)  # goes on in the online phase
    runs.assert_same_run(whole, broken)


def test_online_steps_follow_with_the_data_in_the_replay(tmp_path, recorded):
    rows = runs.EPISODES * (runs.LENGTH - 1)  # the file lacks the successor of an episode's last row
    result = learn(tmp_path / "run", recorded, then_online=40, reward="antmaze")
    assert (result.env_steps, result.updates) == (100, 100)
    last = runs.lines(tmp_path / "run")[-1]
    assert last["replay/rows"] == rows + 40


def test_an_agent_gets_the_columns_that_it_asks_for(tmp_path, recorded, monkeypatch):
    kind, batches = agent_class("iql"), []
    update = kind.update
    monkeypatch.setattr(kind, "columns", lambda config: Columns(next_action=True, returns=True))
    monkeypatch.setattr(kind, "update", lambda self, batch: batches.append(batch) or update(self, batch))
    result = learn(tmp_path / "run", recorded, steps=30, fields={"gamma": 0.5})
    assert result.updates == len(batches) == 30
    data = transformed(load_dataset(str(recorded)), DataOptions(next_action=True, return_gamma=0.5)).rows
    columns = {key: {tuple(row) for row in data[key].tolist()} for key in ("return", ("next", "action"))}
    for batch in batches:
        assert batch.expert is None
        assert {tuple(row) for row in batch.next_action.tolist()} <= columns["next", "action"]
        assert {(number,) for number in batch.returns.tolist()} <= columns["return"]
    with pytest.raises(ConfigError, match="columns that only recorded data have"):
        learn(tmp_path / "online", recorded, then_online=10)


def test_a_stop_signal_saves_and_says_so(tmp_path, recorded):
    stop = StopFlag()
    stop.stop = 15
    result = learn(tmp_path / "run", recorded, stop=stop)
    assert result.interrupted and result.updates == 1
    whole = tmp_path / "whole"
    learn(tmp_path / "run", recorded, resume=True)
    learn(whole, recorded)
    runs.assert_same_run(whole, tmp_path / "run")


def test_the_configuration_says_that_the_run_was_offline(tmp_path, recorded):
    learn(tmp_path / "run", recorded, steps=20)
    stored = RunFolder.open(tmp_path / "run").config()
    assert isinstance(config_from_dict(stored, lambda n: agent_class(n).Config).train, OfflineConfig)
    found = evaluate_run(tmp_path / "run", episodes=2, seed=None, video=None, which="last")
    assert found["env"] == "gym:ToyReach-v0" and len(found["returns"]) == 2


def test_other_data_cannot_continue_a_run(tmp_path, recorded):
    learn(tmp_path / "run", recorded, steps=20)
    other = tmp_path / "toy.hdf5"
    other.write_bytes(recorded.read_bytes())
    with h5py.File(other, "r+") as file:
        file["rewards"][0] += 1
    with pytest.raises(DataError):
        learn(tmp_path / "run", other, resume=True)


def test_data_of_another_environment_are_refused(tmp_path, recorded):
    with pytest.raises(ConfigError, match="name the environment of the data"):
        learn(tmp_path / "run", recorded, env="gym:Pendulum-v1")


def test_the_command_line_trains_offline(tmp_path, recorded):
    out = tmp_path / "run"
    flags = [
        "--agent.hidden",
        "8",
        "8",
        "--steps",
        20,
        "--log-every",
        10,
        "--eval-every",
        0,
        "--import",
        "toys",
    ]
    child = runs.start(
        "train", "iql", "--dataset", recorded, "--env", "gym:ToyReach-v0", *flags, "--out", out
    )
    assert child.wait(120) == 0, child.stdout.read()
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["updates"] == 20


def test_without_an_environment_it_is_trained_saved_resumed_and_loaded(tmp_path, recorded):
    alone = {"env": "none", "eval_every": 0}
    whole, broken, played = tmp_path / "whole", tmp_path / "broken", tmp_path / "played"
    result = learn(whole, recorded, "bc", **alone)
    assert (result.updates, result.best_return) == (60, None)
    learn(broken, recorded, "bc", steps=30, **alone)
    learn(broken, recorded, "bc", resume=True, **alone)
    runs.assert_same_run(whole, broken)
    learn(played, recorded, "bc")
    with_env, without = rlsuite.load(played), rlsuite.load(whole)
    observation = np.ones((3, with_env.observation_size), np.float32)
    np.testing.assert_array_equal(with_env.act(observation), without.act(observation))
    with pytest.raises(ConfigError, match="no environment"):
        evaluate_run(whole, episodes=1, seed=0, video=None, which="last")


def test_what_needs_an_environment_is_refused_without_one(tmp_path, recorded):
    for changes in ({"eval_every": 30}, {"eval_every": 0, "then_online": 10}):
        with pytest.raises(ConfigError, match="env none has nothing to play in"):
            learn(tmp_path / "run", recorded, **{"env": "none", **changes})


def test_the_range_of_actions_comes_from_the_data(tmp_path):
    """Minari's actions of [0, 4]: a policy that acts 0 in [-1, 1] acts 2."""
    folder = write_minari(
        tmp_path / "data", episodes_of([20, 20]), action_space=json.dumps(box(2, low=0.0, high=4.0))
    )
    learn(tmp_path / "run", folder, "bc", env="none", eval_every=0)
    loaded = rlsuite.load(tmp_path / "run")
    assert loaded.middle.tolist() == loaded.half_range.tolist() == [2.0, 2.0]


def test_the_best_tenth_of_the_episodes(tmp_path, recorded):
    """Moments of the observations are those of the episodes that are learnt from."""
    learn(tmp_path / "run", recorded, "bc", {"fraction": 0.1})
    best = best_episodes(load_dataset(str(recorded)), 0.1)
    assert len(best.episodes) == runs.EPISODES // 10
    saved = load_run(tmp_path / "run", "last").loaded.tensors["agent"]
    (mean,) = (value for name, value in saved.items() if name.endswith("normalizer.mean"))
    torch.testing.assert_close(mean.flatten(), best.rows["observation"].mean(0), rtol=1e-4, atol=1e-5)
