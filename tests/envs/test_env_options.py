"""Options of environments: checked, handed on, kept with the run."""

import tomllib

import gymnasium
import numpy as np
import pytest
import tomli_w
import torch
import whole_runs
from env_helpers import random_actions

from rlsuite.envs.tasks.base import load_task
from rlsuite.errors import ConfigError, DataError
from rlsuite.registry import agent_class
from rlsuite.runs.mapping import config_from_dict
from rlsuite.training.assembly import chosen
from rlsuite.training.evaluate import evaluate_run


@pytest.mark.parametrize(
    ("env_id", "options", "message"),
    [
        ("Ant", {"healthy_z_rang": (0, 1)}, 'unknown key "healthy_z_rang". Did you mean "healthy_z_range"'),
        ("Ant", {"healthy_z_range": 0.5}, "healthy_z_range = 0.5 should be a list"),
        ("Ant", {"healthy_z_range": (0.5, 0.6, 0.7)}, "should have 2 items"),
        ("Ant", {"healthy_z_range": (1.0, 0.2)}, "must not exceed"),
        ("Ant", {"healthy_z_range": (float("nan"), 0.2)}, "must not exceed"),
        ("Ant", {"healthy_reward": True}, "healthy_reward = True should be of type float"),
        ("Ant", {"healthy_reward": float("nan")}, "must be a number"),
        ("Ant", {"terminate_when_unhealthy": 1}, "should be of type bool"),
        ("Ant", {"frame_skip": 0}, "frame_skip = 0: must be at least 1"),
        ("Ant", {"reset_noise_scale": -0.1}, "reset_noise_scale = -0.1: must be finite and not negative"),
        ("Ant", {"main_body": "arm"}, "'arm' is no body of the model; its bodies are 1 to 13: torso"),
        ("Ant", {"main_body": 99}, "99 is no body"),
        ("Ant", {"xml_file": "aunt.xml"}, "one of Gymnasium's: ant.xml"),
        ("Ant", {"use_contact_forces": True}, "use_contact_forces exists in Ant-v4 only"),
        ("Ant-v4", {"main_body": 1}, "main_body exists in Ant-v5 only"),
        ("Reacher-v4", {"frame_skip": 3}, "frame_skip exists in Reacher-v5 only"),
        ("HalfCheetah", {"healthy_reward": 1.0}, "unknown key"),
        ("gym:Pendulum-v1", {"gravity": 9.0}, '"gym:Pendulum-v1" does not take gravity'),
        ("dmc:cartpole-swingup", {"time_limit": 3}, "takes no options, and time_limit came"),
    ],
)
def test_what_an_option_cannot_be_is_said(make, env_id, options, message):
    with pytest.raises(ConfigError, match=message):
        make(env_id, options=options)


def test_a_model_of_ones_own(make, tmp_path):
    """Its time step counts; a file that is no model is refused."""
    source = load_task("Swimmer").model.args[0].read_text()
    path = tmp_path / "swimmer.xml"
    path.write_text(source.replace('timestep="0.01"', 'timestep="0.005"'))
    task = load_task("Swimmer", options={"xml_file": str(path)})
    assert task.dt == 4 * 0.005
    assert make("Swimmer", options={"xml_file": str(path)}).engine.model.opt.timestep == 0.005
    path.write_text("<mujoco><worldbody><geom/></worldbody></mujoco>")
    with pytest.raises(ConfigError, match="no model that MuJoCo can load"):
        make("Swimmer", options={"xml_file": str(path)})


def test_gymnasiums_own_environments_get_their_arguments(make):
    own = make("gym:Pendulum-v1", 1, options={"g": 2.0}, seed=0)
    usual = make("gym:Pendulum-v1", 1, seed=0)
    assert own._copies.envs[0].unwrapped.g == 2.0
    assert usual._copies.envs[0].unwrapped.g == 10.0


@pytest.mark.parametrize("legacy_margin", [False, True])
def test_engine_gym_has_the_options_and_margins_of_our_own(make, legacy_margin):
    """From one state and under the same actions the two engines take Hopper to the same one."""
    options = {"healthy_reward": 3.0, "ctrl_cost_weight": 0.5}
    own, gym = (
        make("Hopper", 1, engine=engine, options=options, legacy_margin=legacy_margin)
        for engine in ("native", "gym")
    )
    ours, theirs = own.reset(), gym.reset()
    data = gym._copies.envs[0].unwrapped.data
    state = (torch.from_numpy(part.copy())[None] for part in (data.qpos, data.qvel))
    own.engine.set_state(torch.tensor([True]), *state)
    for action in random_actions(own, 10):
        ours, theirs = own.step(ours.set("action", action)), gym.step(theirs.set("action", action))
        assert torch.equal(ours["next", "observation"], theirs["next", "observation"])
        torch.testing.assert_close(ours["next", "reward"], theirs["next", "reward"])
        ours, theirs = own.step_mdp(ours), gym.step_mdp(theirs)


def test_legacy_margins_need_a_mujoco_model(make):
    with pytest.raises(ConfigError, match="no MuJoCo model"):
        make("gym:Pendulum-v1", legacy_margin=True)
    with pytest.raises(ConfigError, match="legacy_margin came"):
        make("dmc:cartpole-swingup", legacy_margin=True)
    margins = make("gym:Hopper-v5", legacy_margin=True)._copies.envs[0].unwrapped.model.geom_margin
    np.testing.assert_array_equal(margins * 2, gymnasium.make("Hopper-v5").unwrapped.model.geom_margin)


OPTIONS = {"healthy_z_range": (1.1, 1.4), "healthy_reward": 7.0}
HOPPER = {"env": "Hopper", "steps": 300, "warmup_steps": 200, "checkpoint_every": 0, "eval_every": 0}


def test_a_run_keeps_its_options_and_evaluation_uses_them(tmp_path):
    """`config.toml` holds them; resuming asks for the same digest."""
    path = tmp_path / "run"
    whole_runs.train(path, env_options=OPTIONS, legacy_margin=True, **HOPPER)
    found = evaluate_run(path, episodes=2, seed=0, video=None, which="last")
    assert found["env_options"] == {"healthy_z_range": [1.1, 1.4], "healthy_reward": 7.0}
    assert found["legacy_margin"]
    # Every step but the last of an episode pays more than six, and a Hopper of 1.1 m height falls early.
    assert all(r > 5 * (n - 1) for r, n in zip(found["returns"], found["lengths"], strict=True))
    whole_runs.train(path, env_options=OPTIONS, legacy_margin=True, resume=True, **{**HOPPER, "steps": 340})
    with pytest.raises(DataError):
        whole_runs.train(path, env_options={}, legacy_margin=True, resume=True, **{**HOPPER, "steps": 380})


def test_runs_from_before_there_were_options_go_on(tmp_path):
    """A configuration without the two fields loads, and its digest is that of their defaults."""
    path = tmp_path / "run"
    whole_runs.train(path, **HOPPER)
    config = tomllib.loads((path / "config.toml").read_text())
    for name in ("env_options", "legacy_margin"):
        del config["train"][name]
    (path / "config.toml").write_text(tomli_w.dumps(config))
    assert evaluate_run(path, episodes=1, seed=0, video=None, which="last")["env_options"] == {}
    train = config_from_dict(config, lambda name: agent_class(name).Config).train
    assert {"env_options", "legacy_margin"}.isdisjoint(chosen(train))
