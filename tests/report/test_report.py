"""Reports: which runs form a group, what the statistics are, and a page that needs no network."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.report import page, series, tables, watch, write
from rlsuite.report import study as report
from rlsuite.report.formats import NONE
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


def test_a_label_has_as_many_fields_as_tell_it_apart():
    """A preset brings its own settings with it: that they differ, too, need not be said."""
    alone = {"agent": "td3", "preset": "default", "env": "E"}
    plain = {"agent": "sac", "preset": "default", "env": "E", "agent.critics": 2, "agent.tau": 0.005}
    many = plain | {"preset": "rlpd", "agent.critics": 10}
    slow = many | {"agent.tau": 0.001}
    assert report.label_groups([alone, plain, many, slow]) == [
        "td3",
        "sac (preset default)",
        "sac (preset rlpd, tau 0.005)",
        "sac (preset rlpd, tau 0.001)",
    ]


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
    common, some = tables.difference_tables(study)
    by_field = {row[0].text: [cell.text for cell in row[1:]] for row in common.rows}
    assert by_field["agent.gamma"] == ["0.99", "0.9", "0.99"] and by_field["agent"] == ["sac", "sac", "td3"]
    assert not {"seed", "seeds", "agent.policy_noise"} & set(by_field)
    ends = [[cell.text == NONE for cell in row[1:]] for row in some.rows]
    assert [True, True, False] in ends and all(True in row and False in row for row in ends)


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
    make_run(tmp_path / "a", [[0.0, 100.0]] * 3)
    make_run(tmp_path / "b", [[0.0, 50.0]] * 3, agent="td3")
    make_run(tmp_path / "c", [[0.0, 2.0]] * 3, env="gym:Acrobot-v1")
    make_run(tmp_path / "d", [[0.0, 4.0]] * 3, env="gym:Acrobot-v1", agent="td3")
    taus, found = tables.profiles(report.read_study([tmp_path]))
    assert (taus[0], taus[-1]) == (0.0, 1.0)
    assert found["sac"].value[50] == found["td3"].value[50] == 0.5


@pytest.mark.parametrize("seeds", [2, 3])
def test_below_three_seeds_there_is_a_sentence_and_no_interval(tmp_path, seeds):
    make_run(tmp_path / "a", [[0.0, 1.0 + seed] for seed in range(seeds)])
    make_run(tmp_path / "b", [[0.0, 9.0 + seed] for seed in range(3)], agent="td3")
    study = report.read_study([tmp_path])
    (sac, td3), enough = tables.summaries(study), seeds == 3
    assert np.isfinite([sac["low"], sac["high"]]).all() == enough and np.isfinite(td3["low"])
    assert len(tables.improvements(study)) == (2 if enough else 0)
    assert list(tables.profiles(study)[1]) == (["sac", "td3"] if enough else ["td3"])
    (figure,) = series.figures(study)["return"]
    assert ["low" in mean["on"]["env_steps"] for mean in figure["means"]] == [enough, True]
    text = page.write_page(study, tmp_path).read_text()
    assert ("That is so for sac on gym:Pendulum-v1 (2 seeds)." in text) != enough
    assert ("Probability of improvement" in text) == enough
    assert tables.summary_table(study).rows[0][6].text == (NONE if not enough else f"{sac['low']:.3g} to 3")


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
    assert "data:image/png;base64," in own and "a machine" in own
    data = json.loads(re.search(r'id="data">(.*?)</script>', own)[1])
    assert {curve["seed"] for curve in data["tabs"]["return"][0]["curves"]} == {0, 1}
    names = {f"curves.{suffix}" for suffix in ("csv", "png", "svg", "pdf")} | {"report.html"}
    names |= {f"{name}.{suffix}" for name in ("summary", "improvement") for suffix in ("csv", "md", "tex")}
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
    film = page.film(path, "a run")
    assert "base64" in film["source"] and film["video"] and film["poster"] is None  # it is no film
    monkeypatch.setattr(page, "MAX_FILM_BYTES", 9)
    film = page.film(path, "a run")
    assert "left out" in film["caption"] and film["source"] is None


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


def test_without_the_packages_of_a_report_the_answer_says_what_to_install(
    tmp_path, rlsuite_line, monkeypatch
):
    make_run(tmp_path / "a", [1.0, 2.0])
    monkeypatch.setattr(write.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'jinja2 and matplotlib: pip install "rlsuite\[report\]"'):
        rlsuite_line("report", str(tmp_path / "a"), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_watched_page_loads_itself_again_until_the_runs_have_ended(tmp_path, monkeypatch):
    make_run(tmp_path / "a", [1.0])
    folder = RunFolder(tmp_path / "a")
    folder.__enter__()
    pages, out = [], tmp_path / "out"
    line = {"step": 20, "updates": 10, "seconds": 2.0, "eval/return_mean": 7.0, "eval/return_std": 0.0}

    def later(seconds):
        pages.append((out / "report.html").read_text())
        if len(pages) == 2:
            with folder.metrics.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if len(pages) == 3:
            folder.close()

    monkeypatch.setattr(watch.time, "sleep", later)
    said = list(watch.watch_report([tmp_path / "a"], out, every=5))
    refresh = 'http-equiv="refresh" content="5"'
    assert len(pages) == 3 and all(refresh in text for text in pages) and pages[0] == pages[1] != pages[2]
    assert refresh not in (out / "report.html").read_text()
    assert [text.split(": ")[-1] for text in said if "IQM" in text] == [
        "IQM 1.0, 1 seed",
        *["IQM 7.0, 1 seed"] * 2,
    ]


def test_a_watch_waits_for_the_first_evaluation(tmp_path, monkeypatch):
    make_run(tmp_path / "a", [1.0])
    folder = RunFolder(tmp_path / "a")
    folder.__enter__()
    whole = folder.metrics.read_text()
    folder.metrics.unlink()

    def later(seconds):
        folder.metrics.write_text(whole)
        folder.close()

    monkeypatch.setattr(watch.time, "sleep", later)
    first, *_, last = watch.watch_report([tmp_path / "a"], tmp_path / "out")
    assert first.startswith("waiting: no evaluation yet") and last.startswith("report: ")


def test_logged_numbers_stand_in_tabs(tmp_path):
    run = make_run(tmp_path / "a", [1.0, 2.0])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = [
        {"loss/critic": 3.0},
        {"loss/critic": 2.0, "entropy": -1.0, "steps_per_second": 9.0, "grad_norm/x": 1},
    ]
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(a | b) + "\n" for a, b in zip(lines, logged, strict=True))
    )
    tabs = series.figures(report.read_study([run]))
    assert list(tabs) == [
        "return",
        "losses",
        "entropy",
        "speed",
    ]  # nothing of the critics' bias: no empty tab
    (curve,) = tabs["losses"][0]["curves"]
    assert curve["y"] == [3.0, 2.0] and curve["x"] == {
        "env_steps": [10, 20],
        "updates": [5, 10],
        "seconds": [1, 2],
    }
    assert tabs["entropy"][0]["curves"][0]["x"]["env_steps"] == [20]


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    table = np.repeat(np.arange(1_000.0), 2)[:, None] * np.ones(4)
    kept = series.thinned(table)[:, 0]
    assert (
        kept[0] == 0 and kept[-1] == 999 and len(kept) <= series.MOST_POINTS + 1 and (np.diff(kept) > 0).all()
    )


@pytest.fixture
def study(tmp_path):
    """Two agents, whose names have every sign that LaTeX takes for its own, on two environments."""
    for at, env in enumerate(("gym:Pendulum-v1", "gym:Acrobot-v1")):
        make_run(tmp_path / f"a{at}", [[-9.0, -5.0 + seed] for seed in range(3)], env=env)
        make_run(tmp_path / f"b{at}", [[-9.0, -8.0]], env=env, agent="td3")
    runs = report.read_study([tmp_path])
    strange = {"sac": r"sac [x] a_b & 5 % #1 $x$ {y} ~ ^ \ <z> |", "td3": "[td3]"}
    groups = tuple(dataclasses.replace(group, label=strange[group.label]) for group in runs.groups)
    return report.Study(groups, runs.settings)


def test_the_best_values_are_marked_in_every_form(study):
    table = tables.summary_table(study)
    marked = [[head for head, cell in zip(table.heads, row, strict=True) if cell.best] for row in table.rows]
    assert marked[0] == marked[2] and marked[1] == marked[3] == []  # sac's rows, and td3's
    assert marked[0][:3] == ["Mean ± std", "IQM", "Best IQM"]
    assert "| **-4** |" in table.markdown() and r"\textbf{-4}" in table.latex()
    assert table.raw.splitlines()[0] == ",".join(tables.SUMMARY_COLUMNS)
    body = table.latex().split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    for line in body:  # as many columns as there are heads, and nothing that LaTeX would read as a command
        assert len(re.findall(r"(?<!\\)&", line)) == len(table.heads) - 1 and line.endswith(r"\\")
        assert not re.search(r"(?<!\\)[%#_~^<>|]".replace("|", ""), line.replace(r"$\pm$", ""))
    for line in table.markdown().splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) == len(table.heads) + 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(study, tmp_path):
    bare = shutil.which("kpsewhich") is None or subprocess.run(["kpsewhich", "booktabs.sty"]).returncode
    rules = r"\let\toprule\hline\let\midrule\hline\let\bottomrule\hline" if bare else r"\usepackage{booktabs}"
    parts = [t.latex() for t in (tables.summary_table(study), *tables.difference_tables(study)) if t.rows]
    text = "\n\n".join([r"\documentclass{article}", rules, r"\begin{document}", *parts, r"\end{document}"])
    (tmp_path / "t.tex").write_text(text)
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    answer = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0 and (tmp_path / "t.pdf").exists(), answer.stdout[-2000:]


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
