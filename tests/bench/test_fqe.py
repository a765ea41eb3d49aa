"""Fitted Q evaluation against values that are known, the intervals, and whole choices among tiny runs."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from tensordict import TensorDict
from whole_runs import QUICK, TINY

from rlsuite.bench import choose
from rlsuite.bench.candidates import Candidate, true_return
from rlsuite.bench.choose import ChooseArgs
from rlsuite.bench.fqe import Fit, FittedQ
from rlsuite.errors import ConfigError
from rlsuite.offline.load import load_dataset
from rlsuite.offline.transforms import DataOptions, transformed
from rlsuite.registry import agent_class
from rlsuite.report.statistics import rank_correlation, ranks, regret
from rlsuite.runs.config import OfflineConfig
from rlsuite.runs.mapping import RunConfig, config_to_dict
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.start import train


def chain():
    """A place on a line that moves by the action; every step pays the place reached, beyond 1 it ends."""
    g = torch.Generator().manual_seed(0)
    place, action = torch.rand(600, 1, generator=g), torch.rand(600, 1, generator=g) * 0.4 - 0.2
    following = (place + action).clamp(min=0)
    over = following >= 1
    next_td = {"observation": following, "reward": following, "terminated": over}
    return TensorDict({"observation": place, "action": action, "next": TensorDict(next_td, [600])}, [600])


def rolled_out(place, step, gamma):
    """The discounted value of walking by `step` from each place, until the end or long enough."""
    value, alive, discount = torch.zeros_like(place), torch.ones_like(place), 1.0
    for _ in range(100):
        place = (place + step).clamp(min=0)
        value = value + discount * alive * place
        alive, discount = alive * (place < 1), discount * gamma
    return value


def test_fitted_values_are_those_of_walking():
    """Three policies: to the end, staying, and back to nothing."""
    rows, steps = chain(), torch.tensor([0.15, 0.0, -0.15])
    acted = steps.view(3, 1, 1)
    fit = Fit(gamma=0.8, hidden=(32, 32), updates=1_500, batch_size=64, lr=3e-3, tau=0.02)
    fitted = FittedQ(rows, acted.expand(3, 600, 1), fit)
    places = torch.tensor([[0.17], [0.32], [0.47], [0.62]])  # far from where an end is a step away or not
    values = fitted.values(places, acted.expand(3, 4, 1))
    assert values.shape == (3, 2, 4)
    for k, step in enumerate(steps):
        expected = rolled_out(places.squeeze(-1), step, 0.8)
        torch.testing.assert_close(values[k].mean(0), expected, rtol=0.1, atol=0.15)
    errors = fitted.td_errors(rows[:100], acted.expand(3, 100, 1))
    assert errors.shape == (3, 2, 100) and errors.square().mean().sqrt() < 0.15
    again = FittedQ(rows, acted.expand(3, 600, 1), fit)
    assert torch.equal(again.values(places, acted.expand(3, 4, 1)), values)


def test_candidates_do_not_feel_one_another():
    rows, fit = chain(), Fit(updates=5, batch_size=16, hidden=(8,))
    first, second = torch.zeros(600, 1), torch.full((600, 1), 0.1)
    both = FittedQ(rows, torch.stack((first, second)), fit)
    alone = FittedQ(rows, first.unsqueeze(0), fit)
    shown = rows["observation"][:5], torch.zeros(1, 5, 1)
    values = both.values(shown[0], torch.zeros(2, 5, 1))
    torch.testing.assert_close(values[:1], alone.values(*shown), rtol=1e-4, atol=1e-5)
    assert not torch.equal(values[0], values[1])


def test_rank_correlation_is_scipys_and_regret_is_counted():
    g = np.random.default_rng(0)
    for x, y in ((g.normal(size=9), g.normal(size=9)), (np.array([1.0, 1, 2, 3]), np.array([4.0, 2, 2, 9]))):
        assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
        assert ranks(x).tolist() == (stats.rankdata(x) - 1).tolist()
    assert rank_correlation(np.ones(3), np.arange(3.0)) == 0
    assert regret(np.array([0.1, 0.9, 0.3]), np.array([5.0, 7.0, 11.0])) == 4


def test_intervals_hold_the_mean_and_narrow_with_what_is_known():
    g = np.random.default_rng(0)
    wide, narrow = (choose.value_interval(g.normal(size=(2, 2, n)), g) for n in (10, 1_000))
    assert (wide.low < wide.value).all() and (wide.value < wide.high).all()
    assert (narrow.high - narrow.low < wide.high - wide.low).all()
    same = choose.value_interval(np.full((1, 2, 4), 3.0), g)
    assert same.low == same.high == same.value == 3


def test_worth_leaves_out_what_is_not_known():
    estimate = choose.Estimate(*[np.array([1.0, 2.0, 3.0, 4.0])] * 3)
    unknown = choose.Estimate(*[np.full(4, np.nan)] * 3)
    judged = choose.Judged(estimate, estimate, unknown, np.array([10.0, 30.0, np.nan, 20.0]))
    verdict = choose.worth(judged, 0)
    assert set(verdict) == {"fqe"} and verdict["fqe"]["candidates"] == 3
    assert verdict["fqe"]["regret"][0] == 10 and verdict["fqe"]["regret_by_chance"] == 10
    assert verdict["fqe"]["rank_correlation"][0] == pytest.approx(0.5)


def learn(path, dataset, agent, **changes):
    """Twenty updates on recorded rows, evaluated at their end."""
    kind, shared = agent_class(agent), ("env", "batch_size", "eval_episodes", "threads", "device", "loggers")
    fields = {name: QUICK[name] for name in shared} | changes
    config = OfflineConfig(dataset=str(dataset), steps=20, eval_every=20, checkpoint_every=20, **fields)
    own = kind.Config(**TINY)
    whole = RunConfig(agent_name=agent, preset="default", train=config, agent=own)
    with RunFolder.create(path, config_to_dict(whole), {}) as folder:
        train(kind, own, config, folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, recorded):
    """An agent without critics, one whose batches have the next action, and one of two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for agent, fields in (("bc", {}), ("rebrac", {}), ("iql", {"seeds": 2})):
        learn(folder / agent, recorded, agent, **fields)
    return folder


def test_a_choice_among_runs(runs, recorded, tmp_path, capsys):
    line = ChooseArgs(
        runs=tuple(runs / name for name in ("bc", "rebrac", "iql")),
        dataset=str(recorded),
        updates=20,
        hidden=(8,),
        out=tmp_path / "out",
    )
    assert choose.main(line) == 0
    text = capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / "choose.json").read_text())
    rows = saved["candidates"]
    assert sorted(row["agent"] for row in rows) == ["bc", "iql", "iql", "rebrac"]
    assert [row["fqe"] for row in rows] == sorted((row["fqe"] for row in rows), reverse=True)
    assert f"choice by fitted Q evaluation: {rows[0]['run']}" in text
    for row in rows:
        assert row["fqe_low"] <= row["fqe"] <= row["fqe_high"]
        assert np.isfinite(row["return"]) and np.isnan(row["td_error"]) == (row["agent"] == "bc")
    assert -1 <= saved["fqe"]["rank_correlation"][0] <= 1 and saved["fqe"]["regret"][0] >= 0
    assert saved["fqe"]["candidates"] == 4 and saved["td_error"]["candidates"] == 3
    assert all(row["trained_on_it"] for row in rows) and "4 of 4 candidates were trained on them" in text


def test_the_table_tells_runs_apart():
    end = "-rlsuite-hopper-medium-expert-v0"
    assert choose.labels([f"runs/d4rl/iql{end}", f"runs/d4rl/bc{end}"]) == [f"iql{end}", f"bc{end}"]
    assert choose.labels([str(Path("runs/a/bc").absolute()), "runs/b/bc"]) == ["a/bc", "b/bc"]
    assert choose.labels(["runs/bc", "runs/bc"]) == ["bc", "bc"]
    (name,) = choose.labels(["runs/" + "a" * 40 + "b" * 40])
    assert name == "a" * 23 + "..." + "b" * 23


def test_held_out_episodes_are_whole_and_apart(recorded):
    data = load_dataset(str(recorded))
    line = ChooseArgs(runs=("x",), dataset="d", held_out=0.25, rows=120)
    fitted_on, held_out = choose.split(data, line)
    assert len(fitted_on.rows) + len(held_out.rows) <= 120
    count = len(fitted_on.episodes) + len(held_out.episodes)
    assert len(held_out.episodes) == max(1, round(0.25 * count))
    seen = {tuple(row) for row in fitted_on.rows["observation"].tolist()}
    assert not seen & {tuple(row) for row in held_out.rows["observation"].tolist()}


def test_rewards_keep_the_scale_of_training(recorded):
    """It is of all episodes' returns, also where a few are held out."""
    data = load_dataset(str(recorded))
    _, held_out = choose.split(data, ChooseArgs(runs=("x",), dataset="d", held_out=0.25))
    options = DataOptions(reward="locomotion")
    factor = transformed(data, options).rows["next", "reward"] / data.rows["next", "reward"]
    found = transformed(held_out, options, scale=data).rows["next", "reward"]
    torch.testing.assert_close(found, held_out.rows["next", "reward"] * factor[0])
    alone = transformed(held_out, options).rows["next", "reward"]
    assert not torch.allclose(found, alone)


def test_a_known_return_is_of_the_weights_that_are_judged(tmp_path):
    """Without episodes played now, what the run recorded of them."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "config.toml").write_text('agent_name = "bc"\n')
    lines = [
        {"step": step, "seed": seed, "eval/return_mean": value + seed}
        for step, value in ((10, 1.0), (20, 5.0), (30, 3.0))
        for seed in (0, 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    train = SimpleNamespace(env="x", seed=0)
    of = Candidate(path, 1, SimpleNamespace(config=SimpleNamespace(train=train)), None)
    found = [true_return(of, 0, checkpoint) for checkpoint in ("last", "best", "10", "25")]
    assert found == [4.0, 6.0, 2.0, 6.0]


def test_runs_of_different_tasks_are_refused(runs, recorded, monkeypatch):
    known = choose.candidates_of(runs / "bc", "last")[0]
    config = known.saved.config
    other = replace(config, train=replace(config.train, env="gym:Other-v0"))
    stranger = known._replace(saved=replace(known.saved, config=other))
    monkeypatch.setattr(choose, "candidates_of", lambda run, _: [known if run.name == "a" else stranger])
    with pytest.raises(ConfigError, match=r"different tasks \(gym:Other-v0, gym:ToyReach-v0\)"):
        choose.main(ChooseArgs(runs=(Path("a"), Path("b")), dataset=str(recorded)))


def test_runs_of_other_sizes_are_refused(runs, tmp_path, recorded, monkeypatch):
    data = load_dataset(str(recorded))
    wide_rows = data.rows.copy()
    wide_rows["observation"] = torch.cat([wide_rows["observation"]] * 2, -1)
    monkeypatch.setattr(choose, "load_dataset", lambda *_, **__: replace(data, rows=wide_rows))
    with pytest.raises(ConfigError, match="judge runs by data of their environment"):
        choose.main(ChooseArgs(runs=(runs / "bc",), dataset="d"))


@pytest.mark.parametrize(
    ("fields", "message"), [({"runs": ()}, "name the runs"), ({"dataset": ""}, "name the data")]
)
def test_lines_without_runs_or_data_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ChooseArgs(**{"runs": ("x",), "dataset": "d", **fields})
