"""Presets by the data's name, and data whose environment is not here."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "offline"))
from offline_helpers import flat_columns, write_flat

from rlsuite.agents.ldcq import LDCQConfig
from rlsuite.presets import load_preset

SMALL = ("--steps", "4", "--batch-size", "8", "--agent.hidden", "8", "8", "--threads", "1", "--loggers")


@pytest.fixture
def antmaze(tmp_path):
    columns = flat_columns(40, timeouts=[19, 39], width=29, action=8)
    columns["observations"] = np.random.default_rng(0).normal(size=(40, 29)).astype(np.float32)
    return write_flat(tmp_path / "antmaze-umaze-v2.hdf5", **columns)


ANTMAZE = {"reward": "antmaze", "eval_episodes": 100}


@pytest.mark.parametrize(
    "dataset", ["antmaze-umaze-v2", "data/antmaze-large-play-v2.hdf5", "D4RL/antmaze/umaze-diverse-v1"]
)
@pytest.mark.parametrize("preset", ["default", "corl", "finetune"])
def test_iql_knows_antmaze_by_the_datas_name(dataset, preset):
    train, agent = load_preset("iql", preset, "", dataset)
    assert ANTMAZE.items() <= train.items()
    assert {"expectile": 0.9, "beta": 10.0}.items() <= agent.items()


@pytest.mark.parametrize(
    ("agent", "dataset", "train", "own"),
    [
        ("iql", "kitchen-mixed-v0", {}, {"beta": 0.5, "dropout": 0.1}),
        ("iql", "D4RL/kitchen/complete-v2", {}, {"beta": 0.5, "dropout": 0.1}),
        ("td3_bc", "antmaze-umaze-v2", ANTMAZE, {}),
        ("odice", "antmaze-umaze-v2", {"eval_episodes": 50}, {"reward_shift": -1.0, "reward_scale": 3.0}),
        ("odice", "D4RL/antmaze/large-play-v1", {}, {"twin": False, "value_layer_norm": False}),
        ("recoil", "kitchen-mixed-v0", {}, {"beta": 0.5, "dropout": 0.1}),
        ("bc", "antmaze-umaze-v2", {"eval_episodes": 100}, {}),
        ("ldcq", "antmaze-umaze-v2", {"eval_episodes": 100}, {"ends": "reward", "execute": 10}),
        ("ldcq", "kitchen-partial-v0", {}, {"horizon": 20, "execute": 20}),
    ],
)
def test_others_do_too(agent, dataset, train, own):
    found, fields = load_preset(agent, "default", "", dataset)
    assert train.items() <= found.items() and own.items() <= fields.items()
    assert "reward" in train or "reward" not in found


@pytest.mark.parametrize(
    ("agent", "preset", "own"),
    [
        ("iql", "default", {"expectile": 0.9, "beta": 10.0}),
        ("iql", "f_dvl", {"value_loss": "tv", "random_actions": 0}),
        ("awac", "default", {"temperature": 0.1}),
        ("rebrac", "default", {"beta_actor": 0.003, "beta_critic": 0.001}),
        ("cql", "default", {"gap": 5.0}),
    ],
)
def test_our_stitched_maze_has_pointmazes_agents(agent, preset, own):
    for env in ("StitchMaze", "PointMaze_Medium"):
        assert own.items() <= load_preset(agent, preset, env, "")[1].items()


@pytest.mark.parametrize(
    ("preset", "env", "dataset", "own"),
    [
        ("xql", "", "hopper-medium-v2", {"loss_temperature": 5.0, "exp_clip": 7.0}),
        ("xql", "", "rlsuite/hopper/medium-replay-v0", {"loss_temperature": 2.0}),
        ("xql", "", "mujoco/walker2d/medium-expert-v0", {"loss_temperature": 2.0}),
        ("xql", "", "antmaze-umaze-diverse-v2", {"loss_temperature": 5.0, "random_actions": 1, "beta": 10.0}),
        ("xql", "", "D4RL/antmaze/large-diverse-v1", {"loss_temperature": 0.5, "exp_clip": 5.0}),
        ("xql", "", "kitchen-partial-v0", {"loss_temperature": 5.0, "dropout": 0.1}),
        ("f_dvl", "", "antmaze-umaze-v2", {"value_loss": "tv", "alpha": 0.8, "random_actions": 0}),
        ("f_dvl", "Hopper-v5", "any", {"value_loss": "chi2", "random_actions": 1}),
        ("f_dvl", "AdroitHandPen-v1", "any", {"value_loss": "gumbel", "loss_temperature": 8.0}),
    ],
)
def test_xql_and_f_dvl_are_presets_of_iql(preset, env, dataset, own):
    _, agent = load_preset("iql", preset, env, dataset)
    assert {**own, "critic_loss": "huber", "value_layer_norm": True}.items() <= agent.items()


@pytest.mark.parametrize(
    ("env", "dataset", "fields"),
    [
        ("Hopper-v4", "hopper-medium-v2", {"horizon": 10, "reward_scale": 0.1}),
        ("none", "antmaze-umaze-v2", {"horizon": 30, "window_reward": "goal", "ends": "reward"}),
        ("none", "maze2d-umaze-v1", {"horizon": 30, "bootstrap": "step", "reward_scale": 1.0}),
        ("none", "kitchen-partial-v0", {"execute": 30, "ends": "never", "window_reward": "increments"}),
    ],
)
def test_ldcq_as_it_was_released_by_domain(env, dataset, fields):
    _, own = load_preset("ldcq", "released", env, dataset)
    config = LDCQConfig(**own)
    assert {name: getattr(config, name) for name in fields} == fields
    assert (config.networks, config.weighting, config.successor) == ("released", "mean", "last")
    assert config.std_min == 0 and not config.short_windows


def test_pointmaze_has_what_was_measured_to_be_better():
    _, agent = load_preset("iql", "default", "gym:gymnasium_robotics:PointMaze_Medium-v3", "any")
    assert agent == {"expectile": 0.9, "beta": 10.0}


def test_antmaze_is_trained_without_an_environment(rlsuite, antmaze, tmp_path):
    answer = rlsuite("train", "iql", "--dataset", str(antmaze))
    assert answer.code == 2 and "--env none" in answer.err
    run = tmp_path / "run"
    answer = rlsuite("train", "iql", "--dataset", str(antmaze), "--env", "none", "--out", str(run), *SMALL)
    assert answer.code == 0, answer.err
    config = tomllib.loads((run / "config.toml").read_text())
    assert (config["agent"]["expectile"], config["agent"]["beta"]) == (0.9, 10.0)
    train = config["train"]
    assert (train["reward"], train["env"], train["eval_every"]) == ("antmaze", "none", 0)
    assert train["env_options"] == {"observation": 29, "action_low": [-1.0] * 8, "action_high": [1.0] * 8}
    answer = rlsuite("eval", str(run))
    assert answer.code == 2 and "no environment" in answer.err and len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--eval-every", "10"), "env none has nothing to play in"),
        (("--then-online", "10"), "env none has nothing to play in"),
    ],
)
def test_an_environment_is_needed_to_play(rlsuite, antmaze, words, hint):
    answer = rlsuite("train", "iql", "--dataset", str(antmaze), "--env", "none", *words)
    assert answer.code == 2 and hint in answer.err
    answer = rlsuite("train", "iql", "--env", "none")
    assert answer.code == 2 and "--dataset" in answer.err


def test_parts_of_an_observation_give_the_layout_of_the_data(rlsuite, antmaze, tmp_path):
    """D4RL's 29 numbers are Gymnasium-Robotics' achieved goal and observation."""
    pytest.importorskip("gymnasium_robotics")
    env = "gym:gymnasium_robotics:AntMaze_UMaze-v4"
    words = [
        "train",
        "bc",
        "--dataset",
        str(antmaze),
        "--env",
        env,
        "--eval-every",
        "4",
        "--eval-episodes",
        "1",
    ]
    words += ["--env-option", "max_episode_steps=3", "--out", str(tmp_path / "run"), *SMALL]
    answer = rlsuite(*words)
    assert answer.code == 2 and "--observation-keys" in answer.err
    keys = ("--observation-keys", "achieved_goal", "observation")
    answer = rlsuite(*words, *keys)
    assert answer.code == 0, answer.err
    answer = rlsuite("eval", str(tmp_path / "run"), "--episodes", "1")
    assert answer.code == 0, answer.err


def test_an_environment_whose_constructor_fails_is_one_line(rlsuite):
    env = ["--import", "strange_envs", "--env", "gym:strange/Unready-v0", "--env-option"]
    answer = rlsuite("train", "sac", *env, "error=AssertionError", "--warmup-steps", "1", *SMALL)
    assert answer.code in (2, 5) and len(answer.err.splitlines()) == 1
    assert "strange/Unready-v0" in answer.err and "AssertionError" in answer.err


def test_a_kitchen_can_be_trained_in(rlsuite):
    """It asserts on joint types as Fetch does, unless it is shown MuJoCo with plain integers."""
    pytest.importorskip("gymnasium_robotics")
    env = ("--env", "gym:gymnasium_robotics:FrankaKitchen-v1", "--warmup-steps", "1")
    assert rlsuite("train", "sac", *env, *SMALL).code == 0
