"""Presets for CPUs and pictures, in their first updates: everything of them fits, and updates are made."""

import math

import pytest
import whole_runs as runs

from rlsuite.presets import load_preset


def preset(name, *which):
    train, fields = load_preset(name, *which)
    return train, {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


SHORT = {"eval_every": 0, "checkpoint_every": 0, "compile": "off", "log_every": 640}


@pytest.mark.parametrize("name", ["sac", "td3", "dsac_t"])
def test_cpu_massive_updates_twice_a_vector_step_of_64(tmp_path, name):
    train, fields = preset(name, "cpu_massive", "HalfCheetah")
    steps = train["warmup_steps"] + 10 * train["num_envs"]
    runs.train(tmp_path / "run", name, fields, **{**train, "env": "HalfCheetah", "steps": steps, **SHORT})
    last = runs.lines(tmp_path / "run")[-1]
    assert last["updates"] == 20 and last["replay/rows"] == steps
    assert math.isfinite(last["loss/critic"]) and math.isfinite(last["loss/actor"])


@pytest.mark.parametrize("name", ["sac", "td3", "dsac_t", "stac"])
def test_pictures_of_a_task_are_learnt_from(tmp_path, name):
    """Drawn by whichever renderer works without a display; where none does, the run says so."""
    train, fields = preset(name, "pixels", "pixels:dmc:cartpole-swingup")
    small = {"steps": 28, "warmup_steps": 20, "batch_size": 8, "replay_size": 100, "log_every": 28}
    options = {"pixels_size": 16, "pixels_repeat": 4}
    env = {"env": "pixels:dmc:cartpole-swingup", "env_options": options, "num_envs": 1}
    runs.train(
        tmp_path / "run", name, {**fields, "encoder_channels": (4, 4)}, **{**train, **env, **SHORT, **small}
    )
    last = runs.lines(tmp_path / "run")[-1]
    assert last["updates"] == 8 and math.isfinite(last["loss/critic"])
