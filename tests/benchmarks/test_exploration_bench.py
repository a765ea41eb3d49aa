"""The count of cars that reach their goal by untrained policies."""

import csv

import exploration
import torch
from torch import nn


class Pusher(nn.Module):
    """Pushes the way that the car moves: it reaches the goal."""

    def forward(self, observation, state, step_count):
        return torch.where(observation[:, 1:] >= 0, 1.0, -1.0)


def test_a_policy_that_pumps_reaches_the_goal_and_one_that_rests_does_not():
    agent = nn.Module()
    agent.policy = nn.Module()
    agent.policy.module = Pusher()
    assert exploration.reached(agent, 0) == exploration.CARS
    agent.policy.module = lambda observation, *_: torch.zeros(len(observation), 1)
    assert exploration.reached(agent, 0) == 0


def test_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(exploration, "STEPS", 3)
    assert exploration.main(["--out", str(tmp_path / "table.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert len(rows) == 2 * len(exploration.NOISES) and {row["reached"] for row in rows} == {"0"}
