"""The experiments with plug-ins, at sizes of seconds: they run, resume, and write what they say."""

import csv

import plasticity
import plugin_cost
import pytest
import resets
import torch
import toys  # noqa: F401  registers the toys

TINY = plasticity.Setting(seeds=2, tasks=2, updates=4, samples=32, batch=16, hidden=(8, 8), period=2)


@pytest.mark.parametrize("net", plasticity.NETWORKS)
def test_plasticity_measures_every_seed_and_task(net):
    rows = list(plasticity.train(net, "grama", TINY))
    assert [(row["seed"], row["task"]) for row in rows] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    for row in rows:
        assert all(0 <= row[key] <= 1 for key in plasticity.COLUMNS[4:])


def test_a_seed_of_the_experiment_does_not_depend_on_the_others():
    alone = list(plasticity.train("perceptron", "grama", plasticity.Setting(**{**fields(TINY), "seeds": 1})))
    both = [row for row in plasticity.train("perceptron", "grama", TINY) if row["seed"] == 0]
    assert [row["accuracy"] for row in alone] == pytest.approx([row["accuracy"] for row in both])


def fields(setting):
    return {name: getattr(setting, name) for name in plasticity.Setting.__slots__}


@pytest.fixture
def denormals():
    """Put back what the experiment changes for the whole process."""
    yield
    torch.set_flush_denormal(False)


def test_finished_arms_are_left_alone(tmp_path, denormals, capsys):
    plasticity.main(["--out", str(tmp_path)], TINY)
    assert len(list(tmp_path.glob("*.csv"))) == 9
    assert (tmp_path / "plasticity.png").stat().st_size > 1000
    kept = tmp_path / "perceptron-redo.csv"
    written = kept.stat().st_mtime_ns
    capsys.readouterr()
    plasticity.main(["--out", str(tmp_path)], TINY)
    assert kept.stat().st_mtime_ns == written
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("experiment", "extra"),
    [
        ("grama", ["--grama.period", "20", "--grama.tau", "0.3"]),
        ("least", ["--least.sigma-max", "0.2", "--num-envs", "2"]),
    ],
)
def test_two_arms_of_an_experiment(experiment, extra, tmp_path):
    words = [experiment, "--task", "gym:ToyReach-v0", "--steps", "120", "--out", str(tmp_path)]
    words += ["--warmup-steps", "40", "--agent.hidden", "8", "8", "--eval-every", "60"]
    words += ["--eval-episodes", "1", "--log-every", "40", "--replay-size", "500", "--loggers", *extra]
    assert resets.main(words) == 0
    assert resets.main(words) == 0  # nothing left to do
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["arm"], row["seed"], row["env_step"]) for row in rows} == {
        (arm, seed, step) for arm in ("plain", experiment) for seed in "01" for step in ("60", "120")
    }
    with (tmp_path / "lengths.csv").open() as file:
        lengths = list(csv.DictReader(file))
    assert sum(int(row["episodes"]) for row in lengths if row["arm"] == "plain") == 2 * 120 // 20
    with (tmp_path / "terminals.csv").open() as file:
        ends = list(csv.DictReader(file))
    counted = {(row["arm"], row["seed"]): (row["env_steps"], row["terminal_rows"]) for row in ends}
    assert counted == {(arm, seed): ("120", "0") for arm in ("plain", experiment) for seed in "01"}
    assert (tmp_path / f"{experiment}.png").exists()
    with (tmp_path / "arms.csv").open() as file:
        assert {row["arm"] for row in csv.DictReader(file)} >= {experiment}


def test_costs_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin_cost, "ROWS", 300)
    threads = torch.get_num_threads()
    plugin_cost.main(["--out", str(tmp_path / "cost.csv"), "--agents", "td3", "--rounds", "1"])
    assert torch.get_num_threads() == threads == 1
    lines = [line for line in (tmp_path / "cost.csv").read_text().splitlines() if not line.startswith("#")]
    found = {row["what"]: float(row["microseconds"]) for row in csv.DictReader(lines)}
    assert len(found) == 9
    assert all(number > 0 for number in found.values())
    assert found["grama: per update at period 1,000"] < found["update"]


@pytest.mark.parametrize("net", plasticity.PLANTINGS)
def test_planted_units_are_found_and_the_network_recovers(net):
    at = plasticity.Planted(seeds=1)
    (plain,), (grama,) = (plasticity.plant(net, arm, at) for arm in ("plain", "grama"))
    saturated = "saturated" in net
    for row in (plain, grama):
        assert row["recall_by_gradient"] == 1
        assert row["recall_by_activation"] == (0 if saturated else 1)
        assert row["recall_without_scales"] == (1 if saturated else 0)
    assert plain["accuracy"] <= 0.85
    assert grama["accuracy"] >= 0.99


def test_the_table_of_planted_units(tmp_path, denormals, capsys):
    small = plasticity.Planted(seeds=2, samples=32, hidden=(8, 8, 8), updates=3, period=2)
    plasticity.main(["--experiment", "planted", "--out", str(tmp_path)], planted=small)
    with (tmp_path / "planted.csv").open() as file:
        rows = list(csv.DictReader(file))
    arms = {net: set(planting.arms) for net, planting in plasticity.PLANTINGS.items()}
    assert {net: {row["arm"] for row in rows if row["network"] == net} for net in arms} == arms
    assert len(rows) == 2 * 7
    assert capsys.readouterr().out.count("CPU s") == 7
