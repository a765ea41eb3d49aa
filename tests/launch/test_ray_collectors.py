"""The example of actors on a Ray cluster runs, is short, and its actors act with the learner's weights."""

import importlib.util
from pathlib import Path

import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_collectors.py"
CERTAIN = 20.0  # of a mean before tanh: whoever acts with it acts with 1


def test_actors_send_rows_and_act_with_the_weights_that_the_learner_sent(cluster, capsys, monkeypatch):
    assert len(EXAMPLE.read_text().splitlines()) < 60
    spec = importlib.util.spec_from_file_location("ray_collectors", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    plain = module.new_agent

    def certain(seed):
        agent = plain(seed)
        if seed == 0:  # the learner; actors make their own networks and wait for its weights
            agent.actor.trunk.head.bias.data[0] = CERTAIN
        return agent

    monkeypatch.setattr(module, "new_agent", certain)
    agent, replay = module.main(frames=160, actors=2, batch=40)
    assert len(replay) == 160 and agent.update_count == 160
    rows = replay[:]
    assert len(rows["observation"].unique(dim=0)) > 80  # worlds of two actors, not one twice
    assert (rows["action"][:40] > 0.99).all()  # later ones are of what the learner made of it
    assert rows["next", "reward"].lt(0).all()
    assert not torch.equal(rows["observation"], rows["next", "observation"])
    assert capsys.readouterr().out.count("rows, reward") == 4
