"""Runs whose updates are compiled: resumed bit for bit, seen by plug-ins, refused without a compiler."""

import dataclasses

import pytest
import torch
import whole_runs as runs
from safetensors.torch import load_file

from rlsuite.agents.compiled import compiler
from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.runs.config import OfflineConfig, TrainConfig
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training import updates

needs_a_compiler = pytest.mark.skipif(compiler() is None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def kernels(tmp_path_factory, monkeypatch):
    """One folder of kernels for all tests of this file: the second run takes what the first one built."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "kernels"))


def newest(path):
    """The agent's and the optimisers' tensors of a run's newest checkpoint."""
    folder = max(RunFolder.open(path).checkpoints.glob("step-*"))
    return {name: load_file(folder / f"{name}.safetensors") for name in ("agent", "optim")}


def assert_same(ours, theirs):
    for part, tensors in ours.items():
        assert tensors.keys() == theirs[part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, theirs[part][name]), name


@needs_a_compiler
@pytest.mark.parametrize(("agent", "mixed"), [("td3", False), ("sac", True)])
def test_a_resumed_compiled_run_equals_the_unbroken_one(agent, mixed, tmp_path):
    """Halves share neither process memory nor graphs: each run compiles its own."""
    fields = {"compile": "on", "mixed_precision": mixed}
    runs.train(tmp_path / "whole", agent, **fields)
    runs.train(tmp_path / "halves", agent, steps=400, **fields)
    runs.train(tmp_path / "halves", agent, resume=True, **fields)
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "halves"))


@needs_a_compiler
def test_a_plug_in_sees_the_same_units_in_both_modes(tmp_path):
    """Updates that are watched run eagerly; resets come at the same updates and find the same units."""
    plugins = {"grama": {"period": 20, "tau": 0.4}}
    for mode in ("on", "off"):
        runs.train(tmp_path / mode, "sac", compile=mode, plugins=plugins)
    counts = []
    for mode in ("on", "off"):
        folder = max(RunFolder.open(tmp_path / mode).checkpoints.glob("step-*"))
        saved = load_file(folder / "plugins.safetensors")
        counts.append({name: tensor for name, tensor in saved.items() if "resets/" in name})
        assert sum(int(tensor.sum()) for tensor in counts[-1].values()) > 0
    assert counts[0].keys() == counts[1].keys()
    for name, tensor in counts[0].items():
        assert torch.equal(tensor, counts[1][name]), name


def mode(steps=1_000_000, compile="auto", agent="sac", device="cpu", **fields):
    config = TrainConfig(env="HalfCheetah", steps=steps, compile=compile, **fields)
    cls = agent_class(agent)
    return updates.compile_mode(cls, cls.Config(), config, device)


def test_the_mode_follows_the_length_of_the_run(monkeypatch):
    monkeypatch.setattr("rlsuite.agents.compiled.compiler", lambda: "/usr/bin/g++")
    assert mode()[0] == "on"
    assert mode(steps=10_000)[0] == "off" and "5,000 updates" in mode(steps=10_000)[1]
    assert mode(updates_per_step=0.001)[0] == "off"
    assert mode(steps=10_000, compile="on")[0] == "on"
    assert mode(compile="off")[0] == "off"
    offline = OfflineConfig(dataset="x", steps=50_000)
    cls = agent_class("iql")
    assert updates.compile_mode(cls, cls.Config(), offline, "cpu")[0] == "on"
    assert updates.updates_of(dataclasses.replace(offline, then_online=100)) == 50_100


def test_without_a_compiler_updates_are_eager_and_say_why(monkeypatch):
    monkeypatch.setattr("rlsuite.agents.compiled.compiler", lambda: None)
    assert mode() == ("off", "there is no C++ compiler (g++ or clang++)")
    with pytest.raises(ConfigError, match=r"--compile on: .*no C\+\+ compiler"):
        mode(compile="on")


def test_an_agent_with_an_update_of_its_own_stays_eager():
    class Own(agent_class("sac")):
        def update(self, batch):
            return super().update(batch)

    config = TrainConfig(env="HalfCheetah")
    chosen, reason = updates.compile_mode(Own, Own.Config(), config, "cpu")
    assert chosen == "off" and "Own has an update of its own" in reason
