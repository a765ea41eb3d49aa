"""The examples run, are short, and do what they show."""

import importlib.util
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_they_are_short():
    files = [*FOLDER.glob("grama_*.py"), *FOLDER.glob("least_*.py")]
    assert len(files) == 5
    assert {f.name: n for f in files if (n := len(f.read_text().splitlines())) >= 60} == {}


def resets(reset):
    return sum(int(count.sum()) for count in reset.resets.values())


def test_stable_baselines3():
    reset = example("grama_stable_baselines3")(steps=160, tau=0.3, period=20)
    assert reset.count == 60
    assert resets(reset) > 0
    assert set(reset.chains) == {f"qf{net}.{layer}" for net in (0, 1) for layer in (0, 2)}


def test_single_file_sac():
    reset = example("grama_single_file_sac")(steps=260, tau=0.3, period=20)
    assert reset.count == 60
    assert resets(reset) > 0


def test_torchrl():
    reset = example("grama_torchrl_sac")(frames=400, tau=0.3, period=50)
    assert resets(reset) > 0
    assert reset.resets["critic.0"].shape == (2,)
    assert set(reset.chains) == {"critic.0", "critic.2", "actor.0.0", "actor.0.2"}


def test_classifier():
    reset, accuracy = example("grama_classifier")(tasks=2, steps=150)
    assert reset.count == 300
    assert accuracy > 0.5


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_early_stopping_in_stable_baselines3():
    fields = {"start": 0.5, "min_index": 5, "min_values": 2}
    least = example("least_stable_baselines3")(steps=1600, updates=1, **fields)
    assert int(least.steps) == 1600
    assert int(least.stops) > 0
    assert torch.isfinite(least.values[0, 0]).sum() == 200
