"""FamO2O: numeric tests 1 to 4 and 12 of the specification, in float64."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import whole_runs as runs
from helpers import random_batch, small_agent
from torchrl.envs.utils import ExplorationType, set_exploration_type

import rlsuite
from rlsuite.agents.famo2o import (
    FamO2OConfig,
    FamO2OLoss,
    balance_loss,
    strength_code,
    strength_of,
    temperature_loss,
    with_code,
)
from rlsuite.agents.iql import advantage_weights, extraction_loss
from rlsuite.blocks.heads import Gaussian, squash
from rlsuite.blocks.noise import GivenNoise, Noise
from rlsuite.cli import eval as evaluation
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch

sys.path.append(str(Path(__file__).parents[1] / "training"))
from test_offline_training import learn

float64 = pytest.mark.usefixtures("float64")
CODES = {
    8.0: (0.98935825, -0.14550003, 0.36285241, 0.93184662, 0.01723462, 0.99985147),
    11.0: (-0.99999021, 0.0044257, 0.4886788, 0.87246377, 0.02369656, 0.9997192),
    14.0: (0.99060736, 0.13673722, 0.60504504, 0.79619124, 0.03015751, 0.99954516),
    0.0: (0, 1, 0, 1, 0, 1),
}


@float64
def test_codes_of_strengths():
    found = strength_code(torch.tensor(list(CODES)))
    assert found.shape == (4, 6)
    for row, code in zip(found.tolist(), CODES.values(), strict=True):
        assert row == pytest.approx(code, abs=1e-8)


@float64
def test_strengths_of_numbers_in_the_unit_interval():
    unit = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    assert strength_of(unit, 8.0, 14.0).tolist() == [8, 9.5, 11, 12.5, 14]


def fixed_densities(*log_probs):
    """An actor whose log-densities at actions of 0 are these."""
    std = torch.tensor(log_probs).neg().exp() / (2 * math.pi) ** 0.5
    return lambda observation, noise: Gaussian(torch.zeros(len(log_probs), 1), std.unsqueeze(-1))


@float64
def test_weights_are_row_by_row_and_the_released_product_is_another():
    advantage, strength = torch.tensor([0.2, -0.1]), torch.tensor([8.0, 14.0])
    zero = torch.zeros(2, 1)
    batch, noise = Batch(zero, zero, zero[:, 0], zero, zero[:, 0], 0.99), GivenNoise([])
    weights = advantage_weights(advantage, torch.zeros(2), strength, 100.0)
    assert weights.tolist() == pytest.approx([4.95303242, 0.24659696], abs=1e-8)
    loss = extraction_loss(fixed_densities(-1.0, -2.0), batch, weights, noise)
    assert loss.item() == pytest.approx(2.72311318, abs=1e-8)
    # What the released code computes: strengths [N, 1] times advantages [N].
    product = advantage_weights(advantage, torch.zeros(2), strength.unsqueeze(-1), 100.0)
    wanted = [4.95303242, 0.44932896, 16.44464677, 0.24659696]
    assert product.flatten().tolist() == pytest.approx(wanted, abs=1e-8)
    released = -(product * torch.tensor([-1.0, -2.0])).mean()
    assert released.item() == pytest.approx(5.69738276, abs=1e-8) and abs(released - loss) > 2


def advantages_of(agent, batch):
    """Lagged values and state values as an update reads them."""
    with torch.no_grad():
        q = agent.target_critic(batch.observation, batch.action).amin(-2)
        return q, agent.value(batch.observation)


@float64
def test_the_agents_weight_is_of_the_strength_that_its_row_shows(monkeypatch):
    """By hand from what one call drew: the mean over rows of w(b_i, adv_i) times the misfit at b_i."""
    agent = small_agent("famo2o", beta=1.0, beta_high=9.0)
    batch = agent.read(random_batch())
    q, value = advantages_of(agent, batch)
    seen = {}

    def actor(observation, noise=None):
        seen["code"] = observation[:, -6:]
        return type(agent.actor).forward(agent.actor, observation, noise)

    monkeypatch.setattr(agent.actor, "forward", actor)
    loss, _ = agent.policy_loss(batch, q, value, Noise(torch.Generator().manual_seed(0)))
    every = agent.actor(torch.cat((batch.observation, seen["code"]), -1))
    misfit = 0.5 * ((batch.action - every.mean) / every.std).square().sum(-1) + every.std.log().sum(-1)
    misfit = misfit + 0.5 * math.log(2 * math.pi) * batch.action.shape[-1]
    angle = torch.atan2(seen["code"][:, 4], seen["code"][:, 5])  # b / 10000^(2 / 3), below pi
    strength = angle * 10_000 ** (2 / 3)
    assert strength.max() - strength.min() > 4 and (strength > 1).all() and (strength < 9).all()
    by_hand = ((strength * (q - value)).exp().clamp(max=100) * misfit).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-7)


@float64
def test_balance_policy_by_hand():
    policy = Gaussian(torch.tensor([[0.1]]), torch.tensor([[0.5]]))
    unit, log_density = squash(policy, torch.tensor([[0.4]]))
    assert unit.item() == pytest.approx(0.29131261, abs=1e-8)
    assert log_density.item() == pytest.approx(-0.21710981, abs=1e-8)
    assert strength_of(unit, 8.0, 14.0).item() == pytest.approx(11.87393784, abs=1e-8)
    loss = balance_loss(log_density, torch.tensor([-12.0]), torch.tensor(0.7))
    assert loss.item() == pytest.approx(11.84802313, abs=1e-8)
    log_temperature = torch.tensor([0.7]).log().requires_grad_()
    temperature_loss(log_temperature, log_density, -0.5).backward()
    assert log_temperature.grad.item() == pytest.approx(0.50197687, abs=1e-8)


@float64
def test_the_balance_step_moves_nothing_else_and_climbs_the_critics():
    agent = small_agent("famo2o", lr_balance=1e-2)
    batch = agent.read(random_batch())
    parts = {part.name: [p.clone() for p in part.module.parameters()] for part in agent.parts()}
    noise = Noise(torch.Generator().manual_seed(1))
    agent.move_balance(batch.observation, noise)
    moved = {
        part.name
        for part in agent.parts()
        if any(not torch.equal(a, b) for a, b in zip(parts[part.name], part.module.parameters(), strict=True))
    }
    assert moved == {"balance", "alpha"}
    with torch.no_grad():
        agent.log_temperature.fill_(-20.0)  # values alone
    losses = []
    for _ in range(60):
        again = Noise(torch.Generator().manual_seed(2))  # the same chance at every step
        losses.append(agent.move_balance(batch.observation, again)["loss/balance"].item())
    assert losses[-1] < losses[0]


@float64
def test_a_family_of_one_is_iql_on_observations_with_a_code():
    fields = {"expectile": 0.9, "actor_lr_decay": 0}
    agent = small_agent("famo2o", beta=3.0, beta_high=3.0)
    iql = small_agent("iql", beta=3.0, **fields)
    batch = agent.read(random_batch())
    coded = batch._replace(observation=with_code(batch.observation, torch.full((32,), 3.0)))
    q, value = advantages_of(agent, batch)
    ours, metrics = agent.policy_loss(batch, q, value, Noise(torch.Generator().manual_seed(0)))
    iql.actor = agent.actor
    theirs, more = iql.policy_loss(coded, q, value, Noise(torch.Generator().manual_seed(0)))
    assert torch.equal(ours, theirs) and torch.equal(metrics["weight/mean"], more["weight/mean"])
    for mine, other in zip(
        torch.autograd.grad(ours, agent.actor.parameters()),
        torch.autograd.grad(theirs, agent.actor.parameters()),
        strict=True,
    ):
        assert torch.equal(mine, other)


@float64
def test_strengths_are_uniform_on_data_and_the_balance_policys_afterwards():
    agent = small_agent("famo2o", beta=1.0, beta_high=9.0)
    batch = agent.read(random_batch())
    with torch.no_grad():
        agent.balance.trunk.head.weight.zero_()
        agent.balance.trunk.head.bias.fill_(10.0)  # always the greatest
        agent.balance.log_std.fill_(-10.0)
    shown = []
    agent.actor.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0][:, -6:]))
    q, value = advantages_of(agent, batch)
    for _ in range(2):
        agent.policy_loss(batch, q, value, Noise(torch.Generator().manual_seed(0)))
        agent.start_online()
    greatest = strength_code(torch.full((32,), 9.0))
    assert not torch.allclose(shown[1], greatest, atol=0.1)  # 0 and 2 are of the balance step
    assert torch.allclose(shown[3], greatest, atol=1e-3)
    assert agent.online.item() == 1 and "online" in agent.state_dict()


@float64
def test_settings_without_a_family_are_refused():
    with pytest.raises(ConfigError, match="at least beta"):
        FamO2OConfig(beta=9.0, beta_high=8.0)
    for fields in ({"deterministic": True}, {"order": "corl"}):
        with pytest.raises(ConfigError, match="leave out deterministic and order"):
            FamO2OConfig(**fields)


def act(agent, observation):
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        return agent.policy.module(observation)


def test_a_fixed_strength_changes_how_it_acts_and_nothing_of_what_it_learns():
    low, high, chosen = (
        small_agent("famo2o", beta=0.0, beta_high=10.0, lr_actor=1e-2, strength=strength)
        for strength in (0.0, 10.0, None)
    )
    for seed in range(30):
        for agent in (low, high, chosen):
            agent.update(random_batch(seed=seed))
    for a, b, c in zip(low.parameters(), high.parameters(), chosen.parameters(), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    observation = random_batch()["observation"]
    assert (act(low, observation) - act(high, observation)).abs().max() > 0.01
    family = chosen.policy.module.actor
    strength = family.strength(observation)
    assert strength.shape == (32,) and (strength >= 0).all() and (strength <= 10).all()


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_goes_online_resumes_and_is_deployed_with_any_strength(tmp_path, recorded, seeds, capsys):
    fields = {"beta": 0.0, "beta_high": 10.0, "lr_actor": 1e-2}
    settings = {"seeds": seeds, "then_online": 40, "offline_share": 0.5, "eval_every": 0}
    learn(tmp_path / "whole", recorded, "famo2o", fields, **settings)
    learn(tmp_path / "broken", recorded, "famo2o", fields, **settings | {"then_online": 30})
    learn(tmp_path / "broken", recorded, "famo2o", fields, resume=True, **settings)
    runs.assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert runs.weights(tmp_path / "whole")["online"].item() == 1
    returns = []
    for strength in ("0", "10"):
        words = [str(tmp_path / "whole"), "--agent-option", f"strength={strength}", "--json"]
        capsys.readouterr()
        assert evaluation.run([*words, "--import", "toys", "--episodes", "3"]) == 0
        returns.append(json.loads(capsys.readouterr().out)["return_mean"])
    assert returns[0] != returns[1]
    if seeds == 1:
        observation = torch.zeros(1, 4).numpy()
        policies = [rlsuite.load(tmp_path / "whole", agent_options={"strength": b}) for b in (0.0, 10.0)]
        shown = observation[:, : policies[0].observation_size]
        assert (policies[0].act(shown) != policies[1].act(shown)).any()
        with pytest.raises(ConfigError, match="strengh"):
            rlsuite.load(tmp_path / "whole", agent_options={"strengh": 1.0})


def test_the_family_of_every_seed_is_its_own():
    agent = small_agent("famo2o", lead=(2,))
    metrics = agent.update(random_batch(lead=(2,)))
    assert all(value.shape == (2,) for value in metrics.values())
    strengths = agent.policy.module.actor.strength(random_batch(lead=(2,))["observation"])
    assert strengths.shape == (2, 32)
    assert dataclasses.is_dataclass(agent.config)


def test_the_loss_module_has_the_balance_policys_gradients():
    agent = small_agent("famo2o")
    module = FamO2OLoss(agent.actor, agent.critic, agent.value, agent.balance, agent.config)
    losses = module(random_batch())
    assert set(losses.keys()) == set(module.out_keys) and len(module.out_keys) == 5
    losses["loss_balance"].backward()
    assert any(p.grad is not None and p.grad.any() for p in module.balance_params.values(True, True))
    assert all(p.grad is None for p in module.actor_params.values(True, True))
    losses["loss_temperature"].backward()
    assert module.log_temperature.grad.item() != 0
