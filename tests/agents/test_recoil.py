"""ReCOIL against numbers worked out by hand, on batches of both kinds, and in a small imitation."""

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent

from rlsuite.agents.base import Spaces
from rlsuite.agents.recoil import (
    ReCOILConfig,
    ReCOILLoss,
    critic_objective,
    critic_target,
    value_objective,
)
from rlsuite.agents.value_losses import value_loss
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch

pytestmark = pytest.mark.usefixtures("float64")


def t(*values):
    return torch.tensor(values)


def batch_of(expert, terminated=None, discount=0.99):
    """A batch of which little is read; every reward is 1000."""
    zeros = torch.zeros_like(expert)
    ends = zeros if terminated is None else terminated
    return Batch(zeros, zeros, zeros + 1000, zeros, ends, discount, expert=expert)


HALVES = t(0.0, 0.0, 1.0, 1.0)


def test_targets_and_the_critics_loss():
    batch = batch_of(HALVES)
    target = critic_target(batch, t(180.0, -60.0, 7.0, 7.0), ReCOILConfig())
    assert target.tolist() == pytest.approx([176.2, -61.4, 200, 200])
    q = t(190.0, -50.0, 150.0, 210.0)
    single = critic_objective(q.unsqueeze(0), target, batch, ReCOILConfig())
    assert single.item() == pytest.approx((1345.22 + 114.98) / 2) == pytest.approx(730.1)
    twins = critic_objective(torch.stack((q, q)), target, batch, ReCOILConfig())
    assert twins.item() == pytest.approx(2 * 730.1)


def test_the_order_of_the_rows_does_not_matter():
    mixed, order = t(1.0, 0.0, 1.0, 0.0), [2, 0, 3, 1]
    q, value = t(190.0, -50.0, 150.0, 210.0)[order], t(180.0, -60.0, 7.0, 7.0)[order]
    target = critic_target(batch_of(mixed), value, ReCOILConfig())
    assert critic_objective(q.unsqueeze(0), target, batch_of(mixed), ReCOILConfig()).item() == pytest.approx(
        730.1
    )


def test_a_terminal_transition_ends_in_minus_the_bound():
    batch = batch_of(t(0.0, 1.0), terminated=t(1.0, 1.0))
    assert critic_target(batch, t(180.0, 180.0), ReCOILConfig()).tolist() == pytest.approx([-200, 200])


def test_three_steps_cost_what_three_single_ones_do():
    one = critic_target(batch_of(t(0.0)), t(50.0), ReCOILConfig())
    for _ in range(2):
        one = critic_target(batch_of(t(0.0)), one, ReCOILConfig())
    three = critic_target(batch_of(t(0.0), discount=t(0.99**3)), t(50.0), ReCOILConfig())
    torch.testing.assert_close(one, three)


def test_demonstrations_do_not_enter_the_value_loss():
    config = ReCOILConfig(value_loss="expectile", expectile=0.8)
    q, value = t(2.0, -1.0, 50.0, -70.0), torch.zeros(4, requires_grad=True)
    loss = value_objective(q, value, batch_of(HALVES), config)
    assert loss.item() == pytest.approx(value_loss(q[:2], torch.zeros(2), config).item())
    loss.backward()
    assert (value.grad != 0).tolist() == [True, True, False, False]
    wide = value_objective(torch.cat((q, q)), torch.zeros(8), batch_of(HALVES), config)
    assert wide.item() == pytest.approx(loss.item())


def test_rewards_are_never_read():
    agents, batch = [small_agent("recoil") for _ in "ab"], random_batch()
    other = batch.clone()
    other["next", "reward"] *= 100
    for agent, rows in zip(agents, (batch, other), strict=True):
        agent.update(rows)
    for a, b in zip(*(agent.parameters() for agent in agents), strict=True):
        assert torch.equal(a, b)


def test_a_batch_must_mark_its_demonstrations():
    agent, batch = small_agent("recoil"), random_batch()
    with pytest.raises(ConfigError, match='"expert"'):
        agent.update(batch.exclude("expert"))
    values = agent.values(batch.exclude("expert"))  # all are others
    assert values["td_error"].shape == (32,)
    assert agent.state_value(batch["observation"]) is None


@pytest.mark.parametrize("fields", [{}, {"value_loss": "expectile"}, {"order": "torchrl"}])
def test_the_loss_module_has_the_agents_gradients(fields):
    agent, twin = (small_agent("recoil", lr_value=1e-30, **fields) for _ in "ab")
    module = ReCOILLoss(twin.actor, twin.critic, twin.value, twin.config)
    assert "expert" in module.in_keys
    check_loss_module(module, agent, random_batch())


def test_values_of_both_kinds_are_logged():
    agent, batch = small_agent("recoil"), random_batch()
    value = agent.value(batch["observation"]).detach()
    metrics = agent.update(batch)
    assert metrics["value/other"].item() == pytest.approx(value[:16].mean().item())
    assert metrics["value/expert"].item() == pytest.approx(value[16:].mean().item())


def test_demonstrated_actions_are_preferred():
    """One state, where others act with 0.5 and -0.5 alike and demonstrations with 0.5 alone."""
    action = t(0.5, -0.5).repeat(8).unsqueeze(-1)
    action = torch.cat((action, torch.full((16, 1), 0.5)))
    batch = random_batch(spaces=Spaces(observation=1, action=1, half_range=(1.0,)))
    batch["observation"] = batch["next", "observation"] = torch.ones(32, 1)
    batch["action"], batch["next", "terminated"] = action, torch.zeros(32, 1, dtype=torch.bool)
    rates = dict.fromkeys(("lr_critic", "lr_value", "lr_actor"), 3e-3)
    agent = small_agent(
        "recoil", spaces=Spaces(observation=1, action=1, half_range=(1.0,)), tau=0.1, bound=2.0, gamma=0.5,
        loss_temperature=1.0, beta=3.0, actor_lr_decay=0, **rates,
    )  # fmt: skip
    for _ in range(400):
        agent.update(batch)
    q = agent.critic(batch["observation"], action).mean(0)
    assert q[0] > q[1] + 0.5
    assert agent.actor(batch["observation"]).mean[0].item() > 0.35  # all rows alike would give 0.25
