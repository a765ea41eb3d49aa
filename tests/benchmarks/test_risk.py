"""How the berth is measured, on paths whose distances are known; and one whole small run."""

import csv

import pytest
import torch
from risk import PATH_COLUMNS, PathTrace, berth, crosses, main, play, write_paths
from tensordict import TensorDict

from rlsuite.envs.toys.risky_pointmass import RADIUS

nan = float("nan")


def paths(*episodes):
    """Episodes of places `(x, y)`, filled up with nan, as `[T + 1, B, 2]`."""
    longest = max(map(len, episodes))
    filled = [[*episode, *[(nan, nan)] * (longest - len(episode))] for episode in episodes]
    return torch.tensor(filled, dtype=torch.float64).transpose(0, 1)


def test_which_straight_ways_lead_through_the_disc():
    starts = torch.tensor([[0.9, 0.9], [0.9, 0.35], [1.0, 0.3], [0.35, 0.9], [0.1, 0.1]], dtype=torch.float64)
    assert crosses(starts).tolist() == [True, True, False, True, False]


THROUGH = [(0.9, 0.9), (0.5, 0.5), (0.15, 0.15)]
AROUND = [(0.9, 0.9), (0.95, 0.5), (0.9, 0.1), (0.5, 0.1), (0.1, 0.1)]


def test_a_path_through_the_middle_and_one_around():
    through, around = berth(paths(THROUGH)), berth(paths(AROUND))
    assert through["nearest"] == pytest.approx(-RADIUS)
    assert (through["inside_share"], through["inside_steps"], through["near_steps"]) == (1.0, 1.0, 1.0)
    assert through["penalties"] == pytest.approx(0.1)
    assert through["length"] == 2.0
    assert around["nearest"] == pytest.approx(0.1)  # at (0.5, 0.1)
    assert (around["inside_share"], around["inside_steps"], around["penalties"]) == (0.0, 0.0, 0.0)
    assert around["length"] == 4.0


def test_episodes_are_averaged_and_end_where_they_end():
    both = berth(paths(THROUGH, AROUND))
    assert both["episodes"] == 2
    assert both["nearest"] == pytest.approx((0.1 - RADIUS) / 2)
    assert both["length"] == 3.0
    assert both["penalties"] == pytest.approx(0.05)


def test_starts_inside_or_with_a_free_way_do_not_count():
    free, inside = [(1.0, 0.3), (0.9, 0.2)], [(0.5, 0.55), (0.5, 0.5)]
    assert berth(paths(THROUGH, free, inside)) == berth(paths(THROUGH))


def test_written_paths_hold_every_place_once(tmp_path):
    write_paths(tmp_path / "paths.csv", {(0.25, 3): paths(THROUGH, AROUND)})
    with (tmp_path / "paths.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == PATH_COLUMNS
    assert len(rows) == len(THROUGH) + len(AROUND)
    assert rows[1] == {"beta": "0.25", "seed": "3", "episode": "0", "step": "1", "x": "0.5", "y": "0.5"}


@pytest.mark.long
def test_a_small_study_writes_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr("risk.EPISODES", 20)
    words = ["--betas", "0.5", "--steps", "40"]
    words += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    main(words)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"berth.csv", "paths.csv", "paths.png"}
    with (tmp_path / "out" / "berth.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["beta"], row["steps"]) for row in rows] == [("0.5", "40")]
    again, returns = play(tmp_path / "runs" / "beta0.5-s0", episodes=5, seed=3)
    assert again.shape[1:] == (5, 2) and len(returns) == 5
    assert (again[0] >= 0.3).all()


def test_a_trace_ends_with_its_episode():
    trace = PathTrace()
    for place, running in ((0.5, (True, True)), (0.4, (True, False))):
        now, later = torch.full((2, 2), place), torch.full((2, 2), place - 0.1)
        step = TensorDict({"observation": now, "next": TensorDict({"observation": later}, [2])}, [2])
        trace.add(step, torch.tensor(running))
    found = trace.paths()
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64))
    assert found[:, 1, 0].isnan().tolist() == [False, False, True]
    assert trace.errors() == {}
