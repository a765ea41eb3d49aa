"""The count of cars that reach their goal by untrained policies."""

import csv
from types import SimpleNamespace

import exploration
import torch


def policy_of(act):
    """An agent whose policy says `act` of speeds."""
    return SimpleNamespace(policy=SimpleNamespace(module=lambda observation, *_: act(observation[:, 1:])))


def test_a_policy_that_pumps_reaches_the_goal_and_one_that_rests_does_not():
    pumps = policy_of(lambda speed: torch.where(speed >= 0, 1.0, -1.0))
    assert exploration.reached(pumps, 0) == exploration.CARS
    assert exploration.reached(policy_of(torch.zeros_like), 0) == 0


def test_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(exploration, "STEPS", 3)
    assert exploration.main(["--out", str(tmp_path / "table.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert len(rows) == 2 * len(exploration.NOISES) and {row["reached"] for row in rows} == {"0"}
