"""Numbers that are not finite, replays that do not fit, checkpoints of other runs, disks that fill up."""

import json

import gymnasium
import pytest
import torch
import whole_runs as runs
from safetensors.torch import load_file
from tensordict import TensorDict
from toys import Poisoned

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.errors import ConfigError, DataError, NumericalError
from rlsuite.registry import agent_class
from rlsuite.training import state
from rlsuite.training.checkpoint import CheckpointStore, CheckpointWriteError


@pytest.fixture(autouse=True)
def count_from_zero():
    Poisoned.steps = 0


def test_a_world_with_a_bad_number_is_reset_counted_and_never_learnt_from(tmp_path, monkeypatch):
    monkeypatch.setitem(gymnasium.registry["ToyPoisoned-v0"].kwargs, "every", 250)
    result = runs.train(tmp_path / "run", env="gym:ToyPoisoned-v0", eval_every=0, steps=800)
    assert result.updates == 150
    last = runs.lines(tmp_path / "run")[-1]
    assert last["env/nan_resets"] == 3
    for tensor in runs.weights(tmp_path / "run").values():
        assert tensor.isfinite().all()
    for chunk in (runs.newest(tmp_path / "run") / "replay").iterdir():
        for tensor in load_file(chunk).values():
            assert tensor.isfinite().all()


def test_too_many_bad_worlds_end_the_run_with_a_dump(tmp_path, monkeypatch):
    monkeypatch.setitem(gymnasium.registry["ToyPoisoned-v0"].kwargs, "every", 20)
    with pytest.raises(NumericalError, match=r"worlds .* dump"):
        runs.train(tmp_path / "run", env="gym:ToyPoisoned-v0", eval_every=0, steps=800)
    report = json.loads((tmp_path / "run" / "dump" / "metrics.json").read_text())
    assert report["nan_resets"] > 10


@pytest.mark.parametrize("agent", ["dsac_t", "sac", "td3"])
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_what_made_it(tmp_path, agent):
    path = tmp_path / "run"
    with pytest.raises(NumericalError, match="dump"):
        runs.train(path, agent, {"lr_critic": 1e25}, steps=4000)
    batch = load_file(path / "dump" / "batch.safetensors")
    assert all(tensor.isfinite().all() for tensor in batch.values())
    saved = load_file(path / "dump" / "agent.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())
    again = small(agent)
    state.load_agent_tensors(again, saved)
    rows = runs_batch(batch)
    metrics = [again.update(rows) for _ in range(2)]
    assert not all(torch.isfinite(value) for m in metrics for value in m.values())


def small(name):
    kind = agent_class(name)
    spaces = Spaces(observation=1, action=1, half_range=(1.0,))
    return kind(spaces, kind.Config(hidden=(16, 16), lr_critic=1e25), make_generators(0))


def runs_batch(flat):
    return TensorDict({tuple(k.split(".")): v for k, v in flat.items()}, [32])


def test_without_the_guard_the_weights_stay_finite_all_the_same(tmp_path):
    runs.train(tmp_path / "run", "sac", {"lr_critic": 1e25}, guard=False)
    assert all(tensor.isfinite().all() for tensor in runs.weights(tmp_path / "run").values())


def test_a_replay_that_does_not_fit_is_refused_before_it_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"GiB are free: lower --replay-size"):
        runs.train(tmp_path / "run", replay_size=10**12)


def test_a_checkpoint_of_other_networks_is_refused_with_both_shapes(tmp_path):
    path = tmp_path / "run"
    runs.train(path)
    with pytest.raises(DataError, match="config"):
        runs.train(path, fields={"hidden": (24, 24)}, resume=True, steps=1000)


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


def test_a_failed_save_in_the_middle_is_counted_and_at_the_end_it_is_an_error(tmp_path, monkeypatch):
    real, calls = CheckpointStore.save, []

    def full_twice(self, step, **kwargs):
        calls.append(step)
        if len(calls) <= 2:
            raise CheckpointWriteError("disk full", needed=10, free=1)
        return real(self, step, **kwargs)

    monkeypatch.setattr(CheckpointStore, "save", full_twice)
    runs.train(tmp_path / "run")
    assert runs.lines(tmp_path / "run")[-1]["ckpt/failed"] == 2
    assert runs.newest(tmp_path / "run").name.endswith("800")

    def full(self, step, **kwargs):
        raise CheckpointWriteError("disk full", needed=10, free=1)

    monkeypatch.setattr(CheckpointStore, "save", full)
    with pytest.raises(DataError, match="disk full"):
        runs.train(tmp_path / "other")
