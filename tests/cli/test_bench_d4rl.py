"""`rlsuite bench d4rl`: what runs, what is missing, what the table says; training is real and tiny."""

import csv
import json

import h5py
import numpy as np
import pytest

from rlsuite.bench import d4rl
from rlsuite.errors import ConfigError

TASK = "InvertedPendulum-v4"
EVERY_GROUP = sorted({name for group in d4rl.GROUPS.values() for name in group})


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A flat file of InvertedPendulum's sizes and an empty data root; returns the file."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    rng, rows = np.random.default_rng(0), 60
    path = tmp_path / "hopper-medium-v2-like.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(rows, 4)).astype(np.float32)
        file["actions"] = rng.uniform(-0.9, 0.9, size=(rows, 1)).astype(np.float32)
        file["rewards"] = np.ones(rows, np.float32)
        file["terminals"] = np.arange(rows) % 10 == 9
        file["timeouts"] = np.zeros(rows, bool)
    return path


def bench(rlsuite, out, *words):
    sizes = ("--steps", "6", "--seeds", "2", "--evaluations", "2", "--threads", "1")
    return rlsuite("bench", "d4rl", *sizes, "--out", str(out), *words)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_trains_scores_and_leaves_what_is_finished(rlsuite, tmp_path, toy, monkeypatch):
    out = tmp_path / "out"
    words = ("--datasets", f"{toy},hopper-medium-v2", "--agents", "bc", "--", "--env", TASK)
    words = (*words, "--eval-episodes", "2")
    answer = bench(rlsuite, out, *words)
    assert answer.code == 0, answer.err + answer.out
    assert "missing: hopper-medium-v2: rlsuite data check hopper-medium-v2" in answer.out
    (row,) = rows_of(out / "table.csv")
    assert (row["dataset"], row["data"], row["agent"]) == (toy.stem, "D4RL", "bc")
    assert (row["updates"], row["seeds"], row["episodes"], row["behaviour_return"]) == (
        "6",
        "2",
        "2",
        "9.833",
    )  # 59 rows of 60
    curves = rows_of(out / "curves.csv")
    assert [(one["seed"], one["updates"]) for one in curves] == [
        ("0", "3"),
        ("1", "3"),
        ("0", "6"),
        ("1", "6"),
    ]
    last = [float(one["return_mean"]) for one in curves[2:]]
    assert float(row["return_mean"]) == pytest.approx(np.mean(last), abs=2e-3)
    assert float(row["return_std"]) == pytest.approx(np.std(last, ddof=1), abs=2e-3)
    assert toy.stem in (out / "table.md").read_text()

    monkeypatch.setattr(d4rl, "run_all", lambda *_: pytest.fail("everything is finished"))
    assert bench(rlsuite, out, *words).code == 0


def test_one_failure_leaves_the_rest_and_is_the_exit_code(rlsuite, tmp_path, toy):
    bad = tmp_path / "other.hdf5"
    with h5py.File(toy) as file, h5py.File(bad, "w") as copy:
        for key in file:
            file.copy(key, copy)
        del copy["observations"]
        copy["observations"] = np.zeros((60, 4), np.float32)
    words = ("--agents", "bc", "--jobs", "2", "--", "--env", TASK, "--eval-episodes", "1")
    answer = bench(rlsuite, tmp_path / "out", "--datasets", f"{bad},{toy}", *words)
    assert answer.code == 3
    assert "bc-other: failed with exit code 3" in answer.out
    assert [row["dataset"] for row in rows_of(tmp_path / "out" / "table.csv")] == [toy.stem]


def test_the_words_of_a_wrong_line(rlsuite, tmp_path, toy):
    assert "at least 1" in bench(rlsuite, tmp_path / "out", "--datasets", str(toy), "--jobs", "0").err
    answer = bench(rlsuite, tmp_path / "out", "--datasets", "hoper-medium-v2")
    assert answer.code == 2 and "hopper-medium-v2" in answer.err
    answer = bench(rlsuite, tmp_path / "out", "--datasets", str(toy), "--agents", "icl")
    assert answer.code == 2 and "iql" in answer.err


@pytest.mark.parametrize("name", EVERY_GROUP)
def test_every_member_of_a_group_is_known_and_can_be_fetched(name, toy):
    assert "downloads https://" in d4rl.how_to_get(name)


def test_what_is_made_here_says_how():
    assert d4rl.how_to_get("rlsuite/hopper/medium-v0") is None or "rlsuite data make hopper/medium" in (
        d4rl.how_to_get("rlsuite/hopper/medium-v0") or ""
    )


@pytest.mark.parametrize(
    ("label", "agent", "paper", "corl"),
    [
        ("door-human-v1", "iql", (4.3, np.nan), (3.26, 1.83)),
        ("door-human-v1", "bc", (2.0, np.nan), (2.34, 4.0)),
        ("rlsuite-hopper-medium-replay-v0", "iql", (94.7, np.nan), (97.43, 6.39)),
        ("hopper-medium-v2", "td3_bc", (59.3, np.nan), (60.37, 3.49)),
        ("rlsuite-pointmaze-umaze-v0", "iql", (np.nan, np.nan), (np.nan, np.nan)),
        ("hopper-medium-v2", "sac", (np.nan, np.nan), (np.nan, np.nan)),
    ],
)
def test_published_scores(label, agent, paper, corl):
    np.testing.assert_equal(d4rl.published_score(label, agent, "paper"), paper)
    np.testing.assert_equal(d4rl.published_score(label, agent, "corl"), corl)


def test_a_name_that_leads_nowhere():
    with pytest.raises(ConfigError, match="nothing-like"):
        d4rl.how_to_get("nothing-like-it.hdf5")


def test_a_run_without_evaluations_is_refused(tmp_path, rlsuite, toy):
    words = ("--dataset", str(toy), "--env", TASK, "--steps", "2", "--eval-every", "0")
    assert rlsuite("train", "bc", *words, "--out", str(tmp_path / "run")).code == 0
    with pytest.raises(ConfigError, match="no evaluation"):
        d4rl.evaluations(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "meta.json").read_text())
