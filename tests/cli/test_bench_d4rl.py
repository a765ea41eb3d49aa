"""`rlsuite bench d4rl`: what runs, what is missing, what the table says; training is real and tiny."""

import csv
import json
import math
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from rlsuite.bench import d4rl, score_table
from rlsuite.errors import ConfigError
from rlsuite.launch.plan import RunPlan

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
    returns = [float(one["return_mean"]) for one in curves]
    assert float(row["late_return"]) == pytest.approx(np.mean(returns), abs=2e-3)
    assert float(row["late_return_std"]) == pytest.approx(np.std(returns, ddof=1), abs=2e-3)
    assert (row["late_evaluations"], row["q_drift"]) == ("4", "nan")  # no critics
    assert toy.stem in (out / "table.md").read_text() and "not converged" not in answer.out

    monkeypatch.setattr(d4rl, "run_all", lambda *_: pytest.fail("everything is finished"))
    assert bench(rlsuite, out, *words).code == 0


def test_an_agent_brings_its_own_preset(rlsuite, tmp_path, toy):
    out = tmp_path / "out"
    words = ("--datasets", str(toy), "--agents", "iql,iql:xql", "--", "--env", TASK, "--eval-episodes", "1")
    answer = bench(rlsuite, out, *words)
    assert answer.code == 0, answer.err + answer.out
    rows = [(row["agent"], row["preset"]) for row in rows_of(out / "table.csv")]
    assert rows == [("iql", "default"), ("iql:xql", "xql")]
    assert (out / f"iql-xql-{toy.stem}").is_dir() and (out / f"iql-{toy.stem}").is_dir()
    answer = bench(rlsuite, out, "--datasets", str(toy), "--agents", "iql:zql", "--", "--env", TASK)
    assert answer.code == 2 and "xql" in answer.err


def test_two_data_sets_never_share_a_folder(rlsuite, tmp_path, toy):
    (tmp_path / "b").mkdir()
    twin = tmp_path / "b" / toy.name
    shutil.copy(toy, twin)
    answer = bench(
        rlsuite, tmp_path / "out", "--datasets", f"{toy},{twin}", "--agents", "bc", "--", "--env", TASK
    )
    assert answer.code == 2 and str(twin) in answer.err and "an --out of its own" in answer.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preset", "corll", "--"), '"corll" is not a preset of these agents. Did you mean "corl"?'),
        (("--", "--eval-every", "0"), "--evaluations says how many"),
    ],
)
def test_lines_that_could_make_no_table_are_refused_before_training(rlsuite, tmp_path, toy, words, message):
    answer = bench(
        rlsuite, tmp_path / "out", "--datasets", str(toy), "--agents", "bc,iql", *words, "--env", TASK
    )
    assert answer.code == 2 and message in answer.err and not (tmp_path / "out").exists()


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


def written_run(path, records):
    """A run folder that holds these lines of metrics."""
    path.mkdir(parents=True)
    (path / "config.toml").write_text('agent_name = "iql"\n[train]\nseed = 0\n')
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_last_ten_evaluations_of_every_seed():
    found = [
        {"seed": seed, "updates": updates, "return_mean": 100.0 * seed + updates, "score": float(updates)}
        for seed in (0, 1)
        for updates in range(1, 13)
    ]
    late = score_table.late_evaluations(found)
    assert sorted((entry["seed"], entry["updates"]) for entry in late) == [
        (seed, updates) for seed in (0, 1) for updates in range(3, 13)
    ]
    facts = score_table.DataFacts("x", "D4RL", 1.0, 2.0)
    plan = RunPlan(None, SimpleNamespace(preset="default", train=SimpleNamespace(eval_episodes=7)), ())
    row = score_table.table_row(facts, "iql", plan, found, 0.031)
    assert (row["score"], row["return_mean"], row["late_evaluations"]) == (12.0, 62.0, 20)
    assert row["late_score"] == pytest.approx(7.5)
    assert row["late_return_std"] == pytest.approx(np.std([e["return_mean"] for e in late], ddof=1))
    text = score_table.markdown([row])
    assert "| 7.5 +- 2.9 |" in text and "| +3.1% |" in text


def test_a_table_keeps_what_other_calls_wrote(tmp_path, capsys):
    plan = RunPlan(None, SimpleNamespace(preset="default", train=SimpleNamespace(eval_episodes=7)), ())

    def call(*agents, dataset="hopper-medium-v2", score=1.0):
        runs = []
        for agent in agents:
            line = {
                "step": 6,
                "updates": 6,
                "eval/return_mean": score,
                "eval/return_std": 0.0,
                "eval/score": score,
            }
            folder = score_table.folder_of(tmp_path, dataset, agent)
            shutil.rmtree(folder, ignore_errors=True)
            facts = score_table.DataFacts(dataset, "D4RL", 1.0, math.nan)
            runs.append(score_table.Scored(facts, agent, plan, written_run(folder, [line])))
        score_table.write_tables(tmp_path, runs)
        return [
            (row["dataset"], row["agent"], float(row["score"])) for row in rows_of(tmp_path / "table.csv")
        ]

    hopper, walker = "hopper-medium-v2", "walker2d-medium-v2"
    call("bc", "iql:xql")
    call("bc", dataset=walker)
    again = call("iql:xql", "cql", score=5.0)
    assert again == [(hopper, "bc", 1.0), (hopper, "iql:xql", 5.0), (hopper, "cql", 5.0), (walker, "bc", 1.0)]
    assert len(rows_of(tmp_path / "curves.csv")) == 4
    text = (tmp_path / "table.md").read_text()
    assert text.count("| 6, 1 |") == 4 and "nan" not in text
    shutil.rmtree(tmp_path / f"bc-{hopper}")  # what is gone leaves the table
    assert [row[:2] for row in call("cql")] == [(hopper, "iql:xql"), (hopper, "cql"), (walker, "bc")]


@pytest.mark.parametrize(
    ("values", "moved"),
    [
        ([50.0] * 10, 0.0),
        ([float(tenth) for tenth in range(1, 11)], 1 / 9),
        ([-10.0] * 9 + [-11.0], -0.1),
    ],
)
def test_how_far_values_still_move(tmp_path, values, moved):
    """Two lines a tenth, of two seeds of which one stands still."""
    records = [
        {"step": updates, "updates": updates, "seed": seed, "q/mean": value if seed else 3.0}
        for index, value in enumerate(values)
        for updates in (index * 100 + 50, (index + 1) * 100)
        for seed in (0, 1)
    ]
    assert score_table.drift(written_run(tmp_path / "run", records)) == pytest.approx(moved)


def test_nothing_is_said_of_values_where_there_are_none(tmp_path):
    few = [{"step": 100, "updates": 100, "q/mean": 1.0}]
    assert np.isnan(score_table.drift(written_run(tmp_path / "few", few)))
    none = [{"step": 100, "updates": 100, "loss/actor": 1.0}]
    assert np.isnan(score_table.drift(written_run(tmp_path / "bc", none)))


def test_moving_values_are_named(tmp_path, monkeypatch, capsys):
    records = [{"step": k, "updates": k, "q/mean": float(k)} for k in range(10, 110, 10)]
    records.append({"step": 100, "updates": 100, "eval/return_mean": 1.0, "eval/return_std": 0.0})
    plan = RunPlan(None, SimpleNamespace(preset="default", train=SimpleNamespace(eval_episodes=7)), ())
    run = written_run(score_table.folder_of(tmp_path, "hopper-medium-v2", "iql"), records)
    facts = score_table.DataFacts("hopper-medium-v2", "D4RL", 1.0, 2.0)
    score_table.write_tables(tmp_path, [score_table.Scored(facts, "iql", plan, run)])
    said = capsys.readouterr().out
    assert (
        "not converged: iql on hopper-medium-v2: q/mean moved by +11% in the last tenth of 100 updates"
        in said
    )


def test_the_words_of_a_wrong_line(rlsuite, tmp_path, toy):
    assert "at least 1" in bench(rlsuite, tmp_path / "out", "--datasets", str(toy), "--jobs", "0").err
    answer = bench(rlsuite, tmp_path / "out", "--datasets", "hoper-medium-v2")
    assert answer.code == 2 and "hopper-medium-v2" in answer.err
    answer = bench(rlsuite, tmp_path / "out", "--datasets", str(toy), "--agents", "icl")
    assert answer.code == 2 and "iql" in answer.err
    answer = bench(rlsuite, tmp_path / "out", "--datasets", "hopper-medium-v2", "--agents", "icl")  # not here
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
        ("hopper-medium-v2", "bc:best10", (np.nan, np.nan), (55.48, 7.30)),
        ("hopper-medium-v2", "iql:xql", (75.6, np.nan), (np.nan, np.nan)),
        ("door-human-v1", "iql:xql", (10.1, np.nan), (np.nan, np.nan)),
    ],
)
def test_published_scores(label, agent, paper, corl):
    np.testing.assert_equal(score_table.published_score(label, agent, "paper"), paper)
    np.testing.assert_equal(score_table.published_score(label, agent, "corl"), corl)


@pytest.mark.parametrize(
    ("agent", "preset", "corl"),
    [
        ("iql", "default", 67.53),
        ("iql", "corl", 67.53),
        ("iql:corl", "corl", 67.53),
        ("iql", "xql", np.nan),  # with --preset xql: no score of IQL stands beside it
        ("iql:xql", "xql", np.nan),
        ("bc", "best10", 55.48),
        ("bc:best10", "best10", 55.48),
    ],
)
def test_published_scores_are_of_the_method_that_the_preset_makes(agent, preset, corl):
    entries = [{"seed": 0, "updates": 9, "return_mean": 1.0, "score": 2.0}]
    plan = RunPlan(None, SimpleNamespace(preset=preset, train=SimpleNamespace(eval_episodes=7)), ())
    facts = score_table.DataFacts("hopper-medium-v2", "D4RL", 1.0, 2.0)
    row = score_table.table_row(facts, agent, plan, entries, 0.0)
    np.testing.assert_equal(row["corl"], corl)


def test_a_name_that_leads_nowhere():
    with pytest.raises(ConfigError, match="nothing-like"):
        d4rl.how_to_get("nothing-like-it.hdf5")


def test_a_run_without_evaluations_is_refused(tmp_path, rlsuite, toy):
    words = ("--dataset", str(toy), "--env", TASK, "--steps", "2", "--eval-every", "0")
    assert rlsuite("train", "bc", *words, "--out", str(tmp_path / "run")).code == 0
    with pytest.raises(ConfigError, match="no evaluation"):
        score_table.evaluations(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "meta.json").read_text())
