"""`rlsuite data` from the words to the files."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "offline"))
from offline_helpers import episodes_of, flat_columns, shared, write_flat, write_minari

from rlsuite.offline import pointmaze
from rlsuite.offline.load import environment_of, load_dataset


def test_the_hint_of_a_file_without_timeouts_exists(rlsuite, tmp_path):
    columns = flat_columns(12, terminals=[4])
    columns.pop("timeouts")
    old = write_flat(tmp_path / "old.hdf5", **columns)
    said = rlsuite(
        "train", "iql", "--dataset", str(old), "--env", "gym:Pendulum-v1", "--out", str(tmp_path / "a")
    )
    assert said.code == 3
    hint = re.search(r"rlsuite (data convert .*) \(in", said.err)[1]
    words = hint.replace("NEW.hdf5", str(tmp_path / "new.hdf5")).replace("steps N", "steps 3").split()
    assert rlsuite(*words).code == 0
    assert load_dataset(str(tmp_path / "new.hdf5")).lengths().tolist() == [2, 2, 2, 2]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    return tmp_path / "data"


def facts_of(rlsuite, *words):
    answer = rlsuite("data", "check", *words, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_check_prints_what_a_set_holds(rlsuite, root, tmp_path):
    write_minari(root, episodes_of([3, 4]))
    facts = facts_of(rlsuite, "tests/toy-v0")
    assert (facts["transitions"], facts["episodes"], facts["terminated"], facts["truncated"]) == (7, 2, 1, 1)
    assert "transitions         7\n" in rlsuite("data", "check", "tests/toy-v0").out
    flat = write_flat(tmp_path / "hopper_medium-v2.hdf5", **flat_columns(30, terminals=[9], timeouts=[19]))
    facts = facts_of(rlsuite, str(flat))
    assert (facts["name"], facts["env"], facts["successors_missing"]) == ("hopper-medium-v2", "Hopper-v4", 1)
    assert facts["score_mean"] == pytest.approx(
        100 * (facts["return_mean"] + 20.272305) / (3234.3 + 20.272305)
    )


def test_a_bad_file_is_exit_code_3_and_one_line(rlsuite, root, tmp_path):
    flat = write_flat(tmp_path / "bad.hdf5", **flat_columns(30))
    flat.write_bytes(flat.read_bytes()[:-50])
    answer = rlsuite("data", "check", str(flat))
    assert (answer.code, answer.err.count("\n")) == (3, 1)
    assert "damaged or cut short" in answer.err


def test_list_shows_what_is_here(rlsuite, root):
    assert "no data sets in" in rlsuite("data", "list").out
    write_minari(root, episodes_of([3, 4]))
    broken = write_minari(root, episodes_of([3]), dataset_id="tests/broken-v0")
    (broken / "data" / "metadata.json").write_text("{")
    lines = rlsuite("data", "list").out.splitlines()
    assert lines[1].startswith("tests/broken-v0")
    assert "unreadable" in lines[1]
    assert lines[2].split()[:3] == ["tests/toy-v0", "7", "2"]


def test_make_writes_a_set_that_its_id_loads(rlsuite, root, monkeypatch):
    monkeypatch.setattr(pointmaze, "REFERENCE_EPISODES", 1)
    words = ["data", "make", "hopper/random", "--steps", "64", "--num-envs", "4", "--seed", "3"]
    answer = rlsuite(*words)
    assert answer.code == 0, answer.err
    assert "64 env steps" in answer.out
    assert "--dataset rlsuite/hopper/random-v0" in answer.out
    data = load_dataset("rlsuite/hopper/random-v0")
    assert (len(data.rows), data.env, data.recipe["seed"]) == (64, "Hopper-v5", 3)
    assert data.recipe["command"] == "rlsuite " + " ".join(words)
    again = rlsuite(*words)
    assert (again.code, "exists already" in again.err) == (2, True)


def test_make_with_a_policy_file_in_either_layout(rlsuite, root, tmp_path):
    policy = shared("policies/Hopper-sac.safetensors")
    words = ["data", "make", "hopper/medium", "--policy", str(policy), "--steps", "80", "--num-envs", "4"]
    assert rlsuite(*words, "--noise", "0.1").code == 0
    answer = rlsuite(*words, "--layout", "d4rl", "--mode", "mean", "--out", str(tmp_path / "flat"))
    assert answer.code == 0, answer.err
    flat = load_dataset(str(tmp_path / "flat" / "hopper-medium-v0.hdf5"))
    assert (len(flat.rows), flat.env, flat.reference.source) == (80, "Hopper-v5", "d4rl")
    assert environment_of(str(flat.source)) == environment_of("rlsuite/hopper/medium-v0") == "Hopper-v5"
    assert flat.recipe["policy"]["mode"] == "mean"
    assert len(flat.recipe["policy"]["sha256"]) == 64
    assert load_dataset("rlsuite/hopper/medium-v0").recipe["policy"]["noise"] == 0.1
    wrong = rlsuite("data", "make", "walker2d/medium", "--policy", str(policy))
    assert (wrong.code, "maps 11 numbers to 3" in wrong.err) == (2, True)


def test_make_from_a_run_takes_its_policy_and_its_replay(rlsuite, root, tmp_path):
    run = str(tmp_path / "run")
    words = ["--steps", "200", "--warmup-steps", "150", "--eval-episodes", "1", "--num-envs", "4"]
    words += ["--threads", "1", "--replay-size", "1000"]
    trained = rlsuite("train", "sac", "--env", "Hopper", "--out", run, *words, "--agent.hidden", "8", "8")
    assert trained.code == 0, trained.err
    answer = rlsuite("data", "make", "hopper/medium-replay", "--policy", run)
    assert answer.code == 0, answer.err
    replay = load_dataset("rlsuite/hopper/medium-replay-v0")
    assert (len(replay.rows), replay.recipe["policy"]["name"]) == (200, "sac")
    assert replay.recipe["policy"]["env_steps"] == 200
    for mode in ("sample", "mean"):
        out = str(tmp_path / mode)
        made = [
            "data",
            "make",
            "hopper/expert",
            "--policy",
            run,
            "--steps",
            "40",
            "--num-envs",
            "2",
            "--mode",
            mode,
        ]
        answer = rlsuite(*made, "--out", out)
        assert answer.code == 0, answer.err
    wrong = rlsuite("data", "make", "walker2d/expert", "--policy", run)
    assert (wrong.code, "is a run on Hopper" in wrong.err) == (2, True)


def test_mixtures_and_conversions(rlsuite, root, tmp_path):
    for kind in ("random", "medium"):
        out = ["--out", str(root)] if kind == "random" else []
        words = ["--steps", "40", "--num-envs", "2", *out]
        if kind == "medium":
            words += ["--policy", str(shared("policies/Hopper-sac.safetensors"))]
        assert rlsuite("data", "make", f"hopper/{kind}", *words).code == 0
    parts = ["rlsuite/hopper/random-v0", "rlsuite/hopper/medium-v0"]
    answer = rlsuite("data", "make", "hopper/medium-expert", "--parts", *parts)
    assert answer.code == 0, answer.err
    assert facts_of(rlsuite, "rlsuite/hopper/medium-expert-v0")["transitions"] == 80
    flat = str(tmp_path / "flat.hdf5")
    assert rlsuite("data", "convert", "rlsuite/hopper/medium-expert-v0", flat).code == 0
    name = ["--layout", "minari", "--name", "tests/back-v0"]
    assert rlsuite("data", "convert", flat, str(root), *name).code == 0
    whole, back = facts_of(rlsuite, "rlsuite/hopper/medium-expert-v0"), facts_of(rlsuite, "tests/back-v0")
    assert whole["checksum"] == back["checksum"]
    assert back["env"] == whole["env"]


def test_a_hundredth_of_an_expert(rlsuite, root):
    words = ["--num-envs", "2", "--steps"]
    policy = str(shared("policies/Hopper-tqc.safetensors"))
    assert rlsuite("data", "make", "hopper/random", *words, "198").code == 0
    assert rlsuite("data", "make", "hopper/expert", *words, "4", "--policy", policy).code == 0
    parts = ["--parts", "rlsuite/hopper/random-v0", "rlsuite/hopper/expert-v0"]
    answer = rlsuite("data", "make", "hopper/random-expert", *parts, "--shares", "0.99", "0.01")
    assert answer.code == 0, answer.err
    mixed = load_dataset("rlsuite/hopper/random-expert-v0")
    expert = load_dataset("rlsuite/hopper/expert-v0")
    assert len(mixed.rows) == 200 and mixed.recipe["policy"]["steps"] == [198, 2]
    assert mixed.recipe["policy"]["policy"][1]["sha256"] == expert.recipe["policy"]["sha256"]
    assert mixed.rows["action"][198:].tolist() == expert.rows["action"][:2].tolist()
    wrong = rlsuite("data", "make", "walker2d/random-expert", *parts, "--shares", "0.5", "0.6")
    assert (wrong.code, "1 together" in wrong.err) == (2, True)
    wrong = rlsuite("data", "make", "walker2d/medium-expert", *parts, "--shares", "0.5", "0.5")
    assert (wrong.code, "--shares belong to random-expert" in wrong.err) == (2, True)


def test_goal_mazes_keep_their_goals_when_converted(rlsuite, root, tmp_path, monkeypatch):
    write_minari(root, episodes_of([3, 4], keys=("observation", "achieved_goal", "desired_goal"), width=2))
    flat = str(tmp_path / "maze.hdf5")
    assert rlsuite("data", "convert", "tests/toy-v0", flat).code == 0
    facts = facts_of(rlsuite, flat, "--keys", "observations", "infos/goal")
    assert facts["observation"] == {"observations": 2, "infos/goal": 2}
    wrong = rlsuite("data", "convert", "tests/toy-v0", flat + "2", "--keys", "nothing")
    assert (wrong.code, 'no part "nothing"' in wrong.err) == (2, True)
