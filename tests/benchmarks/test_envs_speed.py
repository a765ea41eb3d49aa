"""Ways to step environments, and training on them, in turns too short to mean anything."""

import csv
import sys

import envs_speed
import numpy as np
import pytest
import throughput
import turns

TASK = "InvertedPendulum"


@pytest.mark.parametrize("envs", [1, 2])
@pytest.mark.parametrize("name", [name for name in envs_speed.WAYS if name not in envs_speed.WITH_PROCESSES])
def test_every_way_steps(name, envs):
    at = envs_speed.setting(TASK, envs, 1)
    try:
        work = envs_speed.WAYS[name](at)
    except (ImportError, turns.Unavailable) as error:
        assert name in ("EnvPool", "ours: warp"), error
        return
    work(2 * envs)
    work(40 * envs)  # episodes end


@pytest.mark.parametrize("name", envs_speed.WITH_PROCESSES)
def test_ways_with_worker_processes_step(name):
    envs_speed.WAYS[name](envs_speed.setting(TASK, 2, 1))(40)


def test_actions_are_the_actuators():
    at = envs_speed.setting("Humanoid", 3, 1)
    assert at.actions.shape == (envs_speed.READY, 3, 17)
    assert 0.3 < np.abs(at.actions).max() <= 0.4


def test_a_random_episode_of_a_falling_robot_is_short():
    assert 3 <= envs_speed.random_episode(TASK) <= 30
    assert envs_speed.random_episode("Swimmer") == 1_000


@pytest.mark.parametrize(("algorithm", "first"), [("ppo", 64), ("sac", 40)])
def test_a_turn_of_training_is_env_steps_of_sb3s_learn(monkeypatch, algorithm, first):
    asked, seen = [64, 128], []

    class Learnt(turns.Gate):
        def passed(self, units):
            seen.append(units)
            return super().passed(units)

    monkeypatch.setattr(envs_speed, "ROLLOUT", 64)
    monkeypatch.setattr(envs_speed, "PPO_BATCH", 32)
    monkeypatch.setattr(envs_speed, "SAC_WARM_UP", 20)
    monkeypatch.setattr(envs_speed, "Gate", Learnt)
    monkeypatch.setattr(turns, "turns", lambda: iter(asked))
    envs_speed.training(algorithm, "ours", TASK, 4, 1)
    assert seen[0] == 4
    assert seen[-1] == first + sum(asked)


def test_races_have_their_goals_and_leave_out_what_is_not_counted():
    line = envs_speed.parse(
        ["--tasks", "HalfCheetah", "--envs", "1", "64", "256", "--train", "8", "--threads", "2"]
    )
    table = envs_speed.races(line)
    assert list(table) == [
        "HalfCheetah x 1", "HalfCheetah x 64", "HalfCheetah x 256", "ppo HalfCheetah x 8",
        "sac HalfCheetah x 8",
    ]  # fmt: skip
    for race in table.values():
        labels = {entry.label for entry in race.entries}
        assert labels >= {goal.contender for goal in race.goals} | {goal.peer for goal in race.goals}
    names = {name: {entry.name for entry in race.entries} for name, race in table.items()}
    assert "SubprocVecEnv" in names["HalfCheetah x 64"] and "SubprocVecEnv" not in names["HalfCheetah x 256"]
    alone = envs_speed.races(envs_speed.parse(["--tasks", "HalfCheetah", "--envs", "64", "--threads", "1"]))
    for race in alone.values():
        assert "SubprocVecEnv" not in {entry.name for entry in race.entries}


@pytest.mark.parametrize(
    ("words", "message"), [("--envs 2048", "2048 envs: from 1 to 1024"), ("--only nobody", '"nobody"')]
)
def test_a_wrong_line_is_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        envs_speed.parse(words.split())
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_the_command_races_and_writes_every_turn(tmp_path, capsys):
    out = tmp_path / "t.csv"
    words = f"--tasks {TASK} --envs 2 --train 2 --threads 1 --seconds 0.05 --rounds 2 --out {out} --only"
    names = ["gymnasium.make", "ours: arrays", "DummyVecEnv", "ours"]
    assert envs_speed.main([*words.split(), *names]) == 0
    rows = throughput.read(out)
    assert {row.race for row in rows} == {f"{TASK} x 2", f"ppo {TASK} x 2", f"sac {TASK} x 2"}
    assert {row.contender for row in rows} == set(names)
    assert all(row.units > 0 and row.cpu_seconds > 0 for row in rows)
    assert "goal: ours 1.3 x DummyVecEnv" in capsys.readouterr().out
    with out.open() as file:
        assert len(list(csv.DictReader(line for line in file if not line.startswith("#")))) == len(rows)
    assert str(sys.executable) not in out.read_text()
