"""The race and the table of environments, in turns too short to mean anything."""

import csv
import time

import environments
import pytest
import throughput
from races import Contender, race, write_csv

EVERYWHERE = {
    "gymnasium.make, 1 world",
    "mj_step loop, 1 thread",
    "SyncVectorEnv",
    "AsyncVectorEnv",
    "mujoco.rollout",
    "native, the engine alone",
    "native, the environment",
}


def test_ratios_are_of_speeds_and_work_comes_in_whole_grains():
    asked = []

    def slow(count):
        asked.append(count)
        time.sleep(count * 2e-3)

    rows = list(
        race(
            "r", "u/s", [Contender("slow", slow, 5), Contender("fast", slow_by_half)], seconds=0.04, rounds=3
        )
    )
    assert all(count % 5 == 0 for count in asked)
    assert [row.contender for row in rows] == ["slow", "fast"]
    assert rows[0].ratio == 1
    assert rows[1].ratio == pytest.approx(2, rel=0.3)
    assert rows[1].ratio_low <= rows[1].ratio <= rows[1].ratio_high


def slow_by_half(count):
    time.sleep(count * 1e-3)


def test_every_contender_steps_and_is_written_down(tmp_path):
    rows = list(environments.table(["InvertedPendulum"], [2], 1, seconds=0.02, rounds=1))
    assert {row.contender for row in rows} >= EVERYWHERE
    assert all(row.per_second > 0 and row.race == "InvertedPendulum x 2" for row in rows)
    write_csv(tmp_path / "t.csv", rows, threads=1)
    lines = [line for line in (tmp_path / "t.csv").read_text().splitlines() if not line.startswith("#")]
    assert [row["contender"] for row in csv.DictReader(lines)] == [row.contender for row in rows]


def test_thousands_of_worlds_are_left_to_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not list(environments.table(["InvertedPendulum"], [16_384], 1, seconds=0.02, rounds=1))
    assert "left out" in capsys.readouterr().out


def test_a_random_episode_of_a_falling_robot_is_short():
    assert 3 <= environments.random_episode("InvertedPendulum") <= 30
    assert environments.random_episode("Swimmer") == 1_000


def test_envs_is_a_flag_of_the_command(monkeypatch, tmp_path, capsys):
    words = "--envs InvertedPendulum --worlds 1 --threads 1 --seconds 0.02 --rounds 1 --out"
    monkeypatch.setattr("sys.argv", ["throughput.py", *words.split(), str(tmp_path / "t.csv")])
    threads = throughput.torch.get_num_threads()
    throughput.main()
    throughput.torch.set_num_threads(threads)
    assert "native, the environment" in capsys.readouterr().out
    assert (tmp_path / "t.csv").exists()
