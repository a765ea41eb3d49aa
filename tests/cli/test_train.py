"""From the words to the dataclasses, the run folder, the exit code; the loop itself is a stand-in."""

import json
import tomllib

import pytest

from rlsuite.command import train
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.training.loop import TrainResult

TRAIN = ["train", "dsac_t", "--env", "HalfCheetah"]


def test_preset_then_flags(rlsuite, loop, tmp_path):
    out = tmp_path / "run"
    words = ["--preset", "demo", "--steps", "9900", "--agent.hidden", "8", "9", "--no-guard"]
    words += ["--out", str(out)]
    answer = rlsuite(*TRAIN, *words)
    assert answer.code == 0, answer.err
    (call,) = loop.calls
    assert call["class"].__name__ == "DSACT"
    assert call["train"].steps == 9_900
    assert call["train"].warmup_steps == 2_000  # the preset's
    assert call["train"].n_step == 1  # the dataclass's
    assert not call["train"].guard
    assert call["agent"].hidden == (8, 9)
    assert call["agent"].alpha_init == 1.0
    assert not call["resume"]
    stored = tomllib.loads((out / "config.toml").read_text())
    assert stored["agent_name"] == "dsac_t"
    assert stored["preset"] == "demo"
    assert stored["train"]["steps"] == 9_900
    assert stored["agent"]["hidden"] == [8, 9]


def test_override_for_one_environment_needs_no_version_or_prefix():
    for env in ("gym:Pendulum-v1", "gym:Pendulum-v7"):
        line, _ = train.parse_train("dsac_t", ["--env", env, "--preset", "paper"])
        assert (line.train.steps, line.train.eval_every) == (250_000, 2_000)
    line, _ = train.parse_train("dsac_t", ["--env=gym:Hopper-v5", "--preset=paper"])
    assert line.agent.gamma == 0.999
    line, _ = train.parse_train("dsac_t", ["--env", "HalfCheetah", "--preset", "paper"])
    assert line.agent.gamma == 0.99
    assert line.train.steps == 30_000_000


def test_options_of_the_environment_are_read_as_toml(rlsuite, loop, tmp_path):
    words = [
        "healthy_z_range=[0.5, 2]",
        "healthy_reward=2",
        "main_body=torso",
        "terminate_when_unhealthy=false",
    ]
    flags = [part for word in words for part in ("--env-option", word)]
    answer = rlsuite(*TRAIN[:2], "--env", "Ant", *flags, "--legacy-margin", "--out", str(tmp_path / "run"))
    assert answer.code == 0, answer.err
    (call,) = loop.calls
    expected = {
        "healthy_z_range": [0.5, 2],
        "healthy_reward": 2,
        "main_body": "torso",
        "terminate_when_unhealthy": False,
    }
    assert call["train"].env_options == expected
    assert call["train"].legacy_margin
    stored = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert stored["train"]["env_options"] == expected
    assert json.loads((tmp_path / "run" / "meta.json").read_text())["legacy_margin"] is True
    assert make_env("Ant", options=expected).task.dt == 0.05


@pytest.mark.parametrize("word", ["healthy_reward", "=3"])
def test_an_option_without_name_or_value_is_refused(rlsuite, word):
    answer = rlsuite(*TRAIN, "--env-option", word)
    assert answer.code == 2
    assert "write KEY=VALUE" in answer.err


def test_an_option_of_another_task_leaves_no_run_behind(rlsuite, tmp_path):
    answer = rlsuite(*TRAIN, "--env-option", "healthy_reward=2.0", "--out", str(tmp_path / "run"))
    assert answer.code == 2
    assert 'unknown key "healthy_reward"' in answer.err
    assert not (tmp_path / "run").exists()


def test_last_flag_wins():
    words = ["--env", "gym:A", "--env", "gym:B", "--preset", "demo", "--preset", "paper"]
    line, _ = train.parse_train("dsac_t", words)
    assert (line.train.env, line.preset, line.train.steps) == ("gym:B", "paper", 30_000_000)


def test_demo_says_that_it_is_the_demo(rlsuite, loop, tmp_path):
    answer = rlsuite(*TRAIN, "--preset", "demo", "--out", str(tmp_path / "run"))
    assert answer.out.count('preset "demo"') == 2  # before and after
    assert "not the paper's settings" in answer.out


def test_outcome_names_curve_returns_and_folder(rlsuite, loop, tmp_path):
    answer = rlsuite(*TRAIN, "--out", str(tmp_path / "run"))
    assert "env steps" in answer.out
    assert "best return 2.0, final 1.0" in answer.out
    assert f"rlsuite eval {tmp_path / 'run'}" in answer.out


def test_interrupted_run_says_how_to_resume(rlsuite, loop, tmp_path):
    loop.result = TrainResult(True, 10, 5, None, None)
    answer = rlsuite(*TRAIN, "--out", str(tmp_path / "run"))
    assert answer.code == 75
    assert f"rlsuite resume {tmp_path / 'run'}" in answer.out


def test_used_folder_is_refused(rlsuite, loop, tmp_path):
    out = tmp_path / "run"
    assert rlsuite(*TRAIN, "--out", str(out)).code == 0
    answer = rlsuite(*TRAIN, "--out", str(out))
    assert answer.code == 2
    assert f"rlsuite resume {out}" in answer.err
    assert len(loop.calls) == 1


def test_refused_configuration_leaves_no_folder(rlsuite, loop, tmp_path):
    loop.result = ConfigError("no such engine here")
    assert rlsuite(*TRAIN, "--out", str(tmp_path / "run")).code == 2
    assert not (tmp_path / "run").exists()


def test_default_folder_names_agent_env_and_seed(rlsuite, loop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rlsuite("train", "sac", "--env", "gym:Pendulum-v1", "--seed", "7").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sac-gym-Pendulum-v1-s7-")
    assert json.loads((folder / "meta.json").read_text())["seed"] == 7


def test_resume_rebuilds_the_same_configuration(rlsuite, loop, tmp_path):
    out = str(tmp_path / "run")
    rlsuite(*TRAIN, "--agent.lr-actor", "3e-3", "--out", out)
    answer = rlsuite("resume", out)
    assert answer.code == 0, answer.err
    first, second = loop.calls
    assert second["resume"]
    assert (second["class"], second["agent"], second["train"]) == (
        first["class"],
        first["agent"],
        first["train"],
    )


def test_resume_can_extend(rlsuite, loop, tmp_path):
    out = str(tmp_path / "run")
    rlsuite(*TRAIN, "--out", out)
    assert rlsuite("resume", out, "--steps", "2_000_000").code == 0
    assert loop.calls[-1]["train"].steps == 2_000_000
    answer = rlsuite("resume", out, "--steps", "0")
    assert answer.code == 2
    assert "steps = 0" in answer.err


def test_resume_of_a_tampered_configuration_names_the_key(rlsuite, loop, tmp_path):
    out = tmp_path / "run"
    rlsuite(*TRAIN, "--out", str(out))
    config = out / "config.toml"
    config.write_text(config.read_text().replace("gamma =", "gama ="))
    answer = rlsuite("resume", str(out))
    assert answer.code == 2
    assert 'unknown key "gama"' in answer.err
    assert 'Did you mean "gamma"?' in answer.err


@pytest.fixture
def evaluation(monkeypatch):
    """Replace `evaluate_run` by one that returns what it was asked."""
    from rlsuite.training import evaluate

    def fake(path, *, episodes, seed, video, which, **named):
        numbers = {"return_mean": 2.0, "return_std": 1.0, "length_mean": 15.0}
        lists = {"returns": [1.0, 3.0], "lengths": [10, 20]}
        return {
            **numbers,
            **lists,
            "env": "HalfCheetah",
            "env_options": {"frame_skip": 3},
            "legacy_margin": True,
            "agent": "sac",
            "step": 5_000,
            "which": which,
            "seeds": [0],
        }

    monkeypatch.setattr(evaluate, "evaluate_run", fake, raising=False)


def test_eval_prints_mean_spread_and_lengths(rlsuite, loop, evaluation, tmp_path):
    out = str(tmp_path / "run")
    rlsuite(*TRAIN, "--out", out)
    answer = rlsuite("eval", out)
    assert answer.code == 0, answer.err
    for part in (
        "sac on HalfCheetah",
        "5,000",
        "2.0 +- 1.0 over 2 episodes",
        "from 10 to 20",
        "frame_skip = 3, legacy",
    ):
        assert part in answer.out


def test_eval_json_is_one_object_and_nothing_else(rlsuite, loop, evaluation, tmp_path):
    out = str(tmp_path / "run")
    rlsuite(*TRAIN, "--out", out)
    answer = rlsuite("eval", out, "--json", "--checkpoint", "best")
    assert json.loads(answer.out)["which"] == "best"
