"""Reports: which runs form a group, what the statistics are, and a page that needs no network."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.report import page, tables
from rlsuite.report import study as report
from rlsuite.report.statistics import interquartile_mean, performance_profile, probability_of_improvement
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.mapping import RunConfig, config_to_dict
from rlsuite.runs.runfolder import RunFolder

META = {"versions": {"torch": "2"}, "command": "rlsuite train <b>&", "device_name": "a machine"}


def make_run(path, returns, agent="sac", seed=0, env="gym:Pendulum-v1", every=10, seconds=1.0, **fields):
    """A run folder with evaluations `returns`, `[K]` or one list per seed, and nothing else."""
    rows = np.atleast_2d(returns)
    config = TrainConfig(env=env, seed=seed, seeds=len(rows), steps=every * rows.shape[1])
    own = agent_class(agent).Config(**fields)
    whole = RunConfig(agent_name=agent, preset="default", train=config, agent=own)
    with RunFolder.create(path, config_to_dict(whole), META) as folder:
        lines = []
        for at in range(rows.shape[1]):
            for index, own in enumerate(rows):
                step = (at + 1) * every
                line = {"step": step, "updates": step // 2, "seconds": seconds * (at + 1)}
                line |= {"eval/return_mean": float(own[at]), "eval/return_std": 1.0}
                lines.append(line | ({"seed": seed + index} if len(rows) > 1 else {}))
        folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_seeds_form_a_group_and_settings_part_them(tmp_path):
    make_run(tmp_path / "a", [1.0, 2.0], seed=0)
    make_run(tmp_path / "b", [[3.0, 4.0], [5.0, 6.0]], seed=1)
    make_run(tmp_path / "c", [0.0, 0.5], gamma=0.9)
    make_run(tmp_path / "d", [0.0, 0.5], agent="td3")
    study = report.read_study([tmp_path])
    assert [group.label for group in study.groups] == ["sac (gamma 0.99)", "sac (gamma 0.9)", "td3"]
    group = study.groups[0]
    assert [curve.seed for curve in group.curves] == [0, 1, 2]
    np.testing.assert_array_equal(group.final, [2.0, 4.0, 6.0])
    grid, returns = group.on_grid("updates")
    np.testing.assert_array_equal(grid, [5, 10])
    np.testing.assert_array_equal(returns, [[1, 2], [3, 4], [5, 6]])
    fields, rows = tables.differences(study)
    assert {"agent", "agent.gamma", "seed", "seeds"} <= set(fields) and len(rows) == 4


def test_a_curve_ends_where_its_shortest_seed_does(tmp_path):
    make_run(tmp_path / "a", [1.0, 2.0, 9.0], seed=0)
    make_run(tmp_path / "b", [3.0, 4.0], seed=1)
    (group,) = report.read_study([tmp_path]).groups
    assert list(group.on_grid("env_steps")[0]) == [10, 20]
    np.testing.assert_array_equal(group.final, [2.0, 4.0])


def test_on_the_clock_returns_are_interpolated(tmp_path):
    make_run(tmp_path / "a", [0.0, 10.0], seed=0, seconds=2.0)  # at 2 and 4 seconds
    make_run(tmp_path / "b", [0.0, 30.0], seed=1, seconds=3.0)  # at 3 and 6
    (group,) = report.read_study([tmp_path]).groups
    grid, returns = group.on_grid("seconds")
    np.testing.assert_allclose(grid, [3.0, 4.0])
    np.testing.assert_allclose(returns, [[5.0, 10.0], [0.0, 10.0]])


def test_summary_numbers(tmp_path):
    for seed, end in enumerate([10.0, 20.0, 30.0, 100.0]):
        make_run(tmp_path / f"a{seed}", [0.0, end], seed=seed)
    for seed in range(4):
        make_run(tmp_path / f"b{seed}", [0.0, 1.0], agent="td3", seed=seed, seconds=7.0)
    study = report.read_study([tmp_path])
    sac, td3 = tables.summaries(study)
    assert (sac["mean"], sac["iqm"], sac["seeds"], sac["env_steps"]) == (40.0, 25.0, 4, 20)
    assert sac["std"] == pytest.approx(np.std([10, 20, 30, 100], ddof=1))
    assert sac["low"] < sac["iqm"] < sac["high"] and sac["area"] == pytest.approx(20.0)
    assert sac["steps_to_reach"] == 20 and np.isnan(td3["steps_to_reach"]) and td3["seconds"] == 14.0
    better, worse = tables.improvements(study)
    assert (better["x"], better["p"], worse["p"]) == ("sac", 1.0, 0.0)
    taus, found = tables.profiles(study)
    assert found["sac"].value[0] == 1.0 and found["sac"].value[-1] == 0.0 and taus[-1] == 100.0


def test_several_environments_are_scaled_one_by_one(tmp_path):
    make_run(tmp_path / "a", [0.0, 100.0], seed=0)
    make_run(tmp_path / "b", [0.0, 50.0], seed=0, agent="td3")
    make_run(tmp_path / "c", [0.0, 2.0], seed=0, env="gym:Acrobot-v1")
    make_run(tmp_path / "d", [0.0, 4.0], seed=0, env="gym:Acrobot-v1", agent="td3")
    taus, found = tables.profiles(report.read_study([tmp_path]))
    assert (taus[0], taus[-1]) == (0.0, 1.0)
    assert found["sac"].value[50] == found["td3"].value[50] == 0.5


def test_the_page_opens_without_a_network_and_escapes_what_it_shows(tmp_path, rlsuite_line):
    make_run(tmp_path / "runs" / "a<i>", [[1.0, 2.0], [2.0, 3.0]])
    make_run(tmp_path / "runs" / "b", [1.0, 1.5], agent="td3")
    (tmp_path / "runs" / "b" / "skills.png").write_bytes(b"\x89PNG not really")
    assert rlsuite_line("report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")) == 0
    out = tmp_path / "out"
    text = (out / "report.html").read_text()
    own = text.partition("</script>")[2]  # after plotly's own script
    assert not re.search(r"(src|href)=['\"](https?:)?//", own)
    assert "rlsuite train &lt;b&gt;&amp;" in own and "<b>&" not in own and "a<i>" not in own
    assert "data:image/png;base64," in own and "a machine" in own and "seed 1" in own
    names = {"curves.csv", "summary.csv", "improvement.csv", "curves.png", "curves.svg", "report.html"}
    assert names == {path.name for path in out.iterdir()}
    with (out / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[0]["env_steps"] == "10.0" and rows[0]["seconds"] == "1.0"


@pytest.fixture
def rlsuite_line():
    """Run a command line in this process."""
    from rlsuite.cli.main import run

    return lambda *words: run(list(words))


def test_what_cannot_be_reported_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        report.read_study([tmp_path])
    run = make_run(tmp_path / "x" / "a", [1.0])
    make_run(tmp_path / "x" / "b", [2.0])
    with pytest.raises(ConfigError, match="seed 0 of sac comes twice"):
        report.read_study([tmp_path / "x"])
    (run / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match="no evaluation yet"):
        report.read_study([run])


def test_large_films_are_named_and_not_embedded(tmp_path, monkeypatch):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"0123456789")
    assert "base64" in page.film(tmp_path, path)
    monkeypatch.setattr(page, "MAX_FILM_BYTES", 9)
    assert "left out" in page.film(tmp_path, path)


def test_statistics_are_rliables():
    theirs = pytest.importorskip("rliable.metrics")
    rng = np.random.default_rng(0)
    tasks, others = ([rng.normal(size=8) for _ in range(5)] for _ in range(2))
    scores, rivals = np.stack(tasks, 1), np.stack(others, 1)  # rliable's [runs, tasks]
    assert interquartile_mean(tasks) == pytest.approx(theirs.aggregate_iqm(scores), abs=1e-12)
    chance = theirs.probability_of_improvement(scores, rivals)
    assert probability_of_improvement(tasks, others) == pytest.approx(chance, abs=1e-12)


def test_a_profile_is_the_share_of_runs_above():
    found = performance_profile([np.array([0.0, 1.0]), np.array([2.0, 2.0])], np.array([-1.0, 0.0, 1.5, 2.0]))
    np.testing.assert_array_equal(found, [1.0, 0.75, 0.5, 0.0])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
def test_a_browser_draws_the_page(tmp_path):
    make_run(tmp_path / "a", [[1.0, 2.0], [2.0, 3.0]])
    path = page.write_page(report.read_study([tmp_path / "a"]), tmp_path)
    words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    words += ["--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    drawn = subprocess.run(words, capture_output=True, text=True, check=True, timeout=180).stdout
    assert drawn.count('class="main-svg"') >= 2 and "sac, 2 seeds" in drawn.partition("<body>")[2]


@pytest.mark.parametrize(
    ("line", "instead", "names"),
    [
        (r"seed = 0", "", "train.seed"),
        (r"seed = 0", "seed = [0]", "train.seed"),
        (r'env = ".*"', "env = 7", "train.env"),
        (r'agent_name = "sac"', "", "agent_name"),
        (r"\[agent\]", "[other]", "agent"),
        (r"\[train\]", "[other]", "train.env"),
    ],
)
def test_a_configuration_that_was_edited_is_one_line(tmp_path, line, instead, names):
    run = make_run(tmp_path / "run", [1.0, 2.0])
    text, count = re.subn(f"^{line}$", instead, (run / "config.toml").read_text(), flags=re.M)
    assert count == 1
    (run / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=f"config.toml: {names} is missing or wrong"):
        report.read_study([run])
