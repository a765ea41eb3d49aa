"""Runs of agents that scale rewards: the scale follows every env step, and a resumed run goes on with it."""

import math
import shutil

import pytest
import torch
import whole_runs as runs
from safetensors.torch import load_file

from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.training.assembly import build
from rlsuite.training.online import train_steps


def test_the_scale_is_that_of_the_returns_of_every_env_step():
    kind = agent_class("simba_sac")
    config = TrainConfig(**{**runs.QUICK, "warmup_steps": 400, "steps": 401})
    run = build(kind, kind.Config(hidden=(16, 16)), config)
    try:
        train_steps(run, 400)
        packed, layout = run.replay.packed[:400], run.replay.layout
        reward, done = packed[:, layout.reward].view(-1, 4).double(), packed[:, layout.done].view(-1, 4)
        running, seen = torch.zeros(4, dtype=torch.float64), []
        for step in range(100):
            running = running * 0.99 + reward[step]
            seen.append(running.clone())
            running[done[step] != 0] = 0
        returns, scale = torch.cat(seen), run.agent.reward_scale
        assert done.any()
        assert scale.count.item() == 400
        assert scale.greatest.item() == pytest.approx(returns.abs().max().item(), rel=1e-5)
        assert scale.var.item() == pytest.approx(returns.var(correction=0).item(), rel=1e-4)
        wanted = max(math.sqrt(scale.var.item()), scale.greatest.item() / 5)
        assert scale.scale.item() == pytest.approx(wanted, rel=1e-5)
        torch.testing.assert_close(run.td.get("carried_return"), 0.99 * running, rtol=1e-5, atol=1e-6)
    finally:
        run.close()


@pytest.mark.parametrize(("agent", "seeds"), [("simba_sac", 1), ("dsac_flash", 2)])
def test_a_resumed_run_equals_the_unbroken_one(agent, seeds, tmp_path):
    fields = {"noise_correlation": "held"}
    for name in ("whole", "broken"):
        runs.train(tmp_path / name, agent, fields, seeds=seeds)
    shutil.rmtree(runs.newest(tmp_path / "broken"))
    earlier = runs.newest(tmp_path / "broken")
    assert earlier.name < runs.newest(tmp_path / "whole").name
    scale = load_file(earlier / "agent.safetensors")["reward_scale.scale"]
    runs.train(tmp_path / "broken", agent, fields, seeds=seeds, resume=True)
    ours, theirs = (runs.weights(tmp_path / name) for name in ("whole", "broken"))
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key
    assert not torch.equal(scale, ours["reward_scale.scale"])
    assert not torch.equal(ours["rates.critic.rate"], torch.tensor(3e-4))
