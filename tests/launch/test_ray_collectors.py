"""The example of actors on a Ray cluster runs, is short, and learns from what they send."""

import importlib.util
from pathlib import Path

import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_collectors.py"


def test_actors_send_rows_and_the_learner_learns_from_them(cluster, capsys):
    assert len(EXAMPLE.read_text().splitlines()) < 60
    spec = importlib.util.spec_from_file_location("ray_collectors", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    agent, replay = module.main(frames=160, actors=2, batch=40)
    assert len(replay) == 160 and agent.update_count == 160
    rows = replay[:]
    assert len(rows["observation"].unique(dim=0)) > 80  # worlds of two actors, not one twice
    assert rows["action"].abs().max() <= 1 and rows["next", "reward"].lt(0).all()
    assert not torch.equal(rows["observation"], rows["next", "observation"])
    assert capsys.readouterr().out.count("rows, reward") == 4
