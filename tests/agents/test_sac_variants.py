"""SAC as the STAC paper's baseline: its preset, its temperature step, its networks."""

import math

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from torch import nn

from rlsuite.agents.optim import descend_alpha
from rlsuite.agents.sac import SACConfig, SACLoss
from rlsuite.blocks.heads import RAW_STD_FLOOR
from rlsuite.blocks.mlp import LayerNorm
from rlsuite.presets import load_preset

PAPER = load_preset("sac", "stac_paper", "HalfCheetah-v4")[1]


def baseline(**fields):
    return small_agent("sac", **{**PAPER, **fields})


def test_preset_is_the_papers_baseline():
    train, agent = load_preset("sac", "stac_paper", "Swimmer-v4")
    config = SACConfig(**agent)
    assert (train["warmup_steps"], train["warmup_policy"]) == (10_000, "tanh_normal")
    assert (config.target_entropy, config.alpha_init, config.evaluation) == (-1.0, 0.2, "mean")
    assert config.critic_scale == 0.5
    assert SACConfig(**PAPER).target_entropy is None
    agent = baseline()
    for network in (agent.actor, agent.critic):
        kinds = [type(layer) for layer in network.trunk]
        assert kinds.count(LayerNorm) == 2 and kinds.index(LayerNorm) < kinds.index(nn.ReLU)


def test_temperature_descends_by_the_gradient_itself():
    agent = baseline(lr_alpha=0.01)
    metrics = agent.update(random_batch())
    gap = -2.0 - metrics["entropy"].item()  # target less entropy
    assert agent.log_alpha.item() == pytest.approx(math.log(0.2) + 0.01 * gap, abs=1e-6)
    adam = baseline(lr_alpha=0.01, alpha_step="adam")
    adam.update(random_batch())
    assert adam.log_alpha.item() == pytest.approx(math.log(0.2) + math.copysign(0.01, gap), abs=1e-5)


@pytest.mark.parametrize("name", ["sac", "stac"])
def test_a_small_temperature_keeps_its_small_steps(name):
    """At alpha 0.003 and a gap of 0.05 a step of STAC is 4.5e-8: lost in single precision."""
    agent = baseline() if name == "sac" else small_agent("stac")
    assert agent.log_alpha.dtype == torch.float64
    agent.update(random_batch())
    assert agent.log_alpha.dtype == torch.float64
    with torch.no_grad():
        agent.log_alpha.fill_(math.log(0.003))
    for _ in range(1000):
        alpha = agent.log_alpha.detach().exp()
        descend_alpha(agent.log_alpha, torch.full((8,), 1.95), -2.0, 3e-4 * alpha)  # entropy -1.95
    assert agent.log_alpha.item() - math.log(0.003) == pytest.approx(-4.5e-5, rel=1e-3)


def test_the_actors_deviation_has_the_papers_floor():
    actor = baseline().actor
    with torch.no_grad():
        actor.trunk[-1].bias[2:] = -100.0
    std = actor(random_batch()["observation"]).std
    torch.testing.assert_close(std, torch.full_like(std, math.log1p(math.exp(RAW_STD_FLOOR))))


@pytest.mark.parametrize("step", ["adam", "sgd"])
@pytest.mark.usefixtures("float64")
def test_the_loss_module_has_the_agents_gradients(step):
    agent, twin = (baseline(lr_critic=1e-30, alpha_step=step) for _ in "ab")
    module = SACLoss(twin.actor, twin.critic, twin.config, actions=2, generator=twin.generators["learn"])
    check_loss_module(module, agent, random_batch())


def test_a_batch_that_is_not_finite_moves_no_temperature():
    agent = baseline()
    before = agent.log_alpha.clone()
    broken = random_batch()
    broken["observation"][0] = math.nan
    agent.update(broken)
    assert torch.equal(agent.log_alpha, before)
    agent.update(random_batch())
    assert not torch.equal(agent.log_alpha, before)
