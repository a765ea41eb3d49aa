"""The table of value losses against numbers worked out by hand, their minima, and IQL with each of them."""

import copy
import math

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from torch.nn import functional as F

from rlsuite.agents.iql import (
    HUBER_DELTA,
    IQLConfig,
    IQLLoss,
    clipped_share,
    critic_loss,
    with_random_actions,
)
from rlsuite.agents.value_losses import (
    VALUE_LOSSES,
    ValueLossConfig,
    chi2_conjugate,
    row_mean,
    value_loss,
)
from rlsuite.blocks.noise import Noise

pytestmark = pytest.mark.usefixtures("float64")

GAPS = (2.0, -1.0, 0.5, -3.0, -5.0)
OTHERS = ("gumbel", "chi2", "tv")


def t(*values):
    return torch.tensor(values)


def entries(kind, gaps, **fields):
    """Every row's loss, and the slopes of these by V."""
    value = torch.zeros(len(gaps), requires_grad=True)
    config = ValueLossConfig(value_loss=kind, **fields)
    losses = VALUE_LOSSES[kind](t(*gaps) - value, config)
    losses.sum().backward()
    return losses.detach(), value.grad


def close(found, *expected, tolerance=1e-9):
    assert found.tolist() == pytest.approx(list(expected), abs=tolerance)


def test_the_conjugate_of_chi_square_and_its_slope():
    x = t(-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0).requires_grad_()
    close(chi2_conjugate(x), -1, -1, -0.75, 0, 1.25, 3, 8)
    chi2_conjugate(x).sum().backward()
    close(x.grad, 0, 0, 0.5, 1, 1.5, 2, 3)


def test_tv_entries_and_slopes():
    losses, slopes = entries("tv", GAPS, alpha=0.8)
    close(losses, 1.2, 0.2, 0.3, 0.6, 1.0)
    close(slopes, -0.6, 0.2, -0.6, 0.2, 0.2)
    assert losses.mean().item() == pytest.approx(0.66)


def test_chi2_does_not_rise_again_below_minus_four():
    losses, slopes = entries("chi2", GAPS, alpha=0.8)
    close(losses, 2.0, 0.2, 0.35, 0.6, 1.0)
    close(slopes, -1.4, 0.2, -0.8, 0.2, 0.2)
    assert losses.mean().item() == pytest.approx(0.83)
    gaps = t(*GAPS)
    published = 0.8 * (gaps + gaps.square() / 4).clamp(min=0) - 0.2 * gaps
    assert published.mean().item() == pytest.approx(1.03) and published[-1].item() == pytest.approx(2)
    torch.testing.assert_close(published[:-1], losses[:-1])


def test_gumbel_entries_and_slopes():
    losses, slopes = entries("gumbel", (2.0, -1.0, 0.5, -3.0), loss_temperature=1.0)
    close(losses, 0.593994, 0.049787, 0.020127, 0.277409, tolerance=1e-6)
    close(slopes / 4, -0.216166, 0.021387, -0.021949, 0.032149, tolerance=1e-6)
    assert losses.mean().item() == pytest.approx(0.235329, abs=1e-6)


def test_gumbel_rows_above_the_clip_pull_no_more():
    losses, slopes = entries("gumbel", (10.0, 0.0), loss_temperature=1.0)
    assert losses.mean().item() == pytest.approx(0.496352, abs=1e-6)
    close(slopes, 0, 0, tolerance=0)
    far, _ = entries("gumbel", (-3.0, -2.0), loss_temperature=1.0)
    assert far.mean().item() == pytest.approx(4.329030, abs=1e-6)


def test_gumbel_of_every_seed_has_its_own_scale():
    config = ValueLossConfig(value_loss="gumbel", loss_temperature=1.0)
    q, value = torch.stack((t(2.0, -1.0, 0.5, -3.0), t(6.0, 0.0, 1.0, 2.0))), torch.zeros(2, 4)
    both = value_loss(q, value, config)
    assert both.shape == (2,) and both[0].item() == pytest.approx(0.235329, abs=1e-6)
    assert torch.equal(both[1], value_loss(q[1], value[1], config))


@pytest.mark.parametrize(
    ("kind", "fields", "low", "high"),
    [
        ("gumbel", {"loss_temperature": 1.0, "exp_clip": 50.0}, 8.901557, 8.901557),
        ("gumbel", {"loss_temperature": 2.0, "exp_clip": 50.0}, 7.838154, 7.838154),
        ("gumbel", {"loss_temperature": 5.0, "exp_clip": 50.0}, 5.821198, 5.821198),
        ("chi2", {"alpha": 0.6}, 8.0, 8.0),
        ("chi2", {"alpha": 0.8}, 10.0, 10.0),
        ("tv", {"alpha": 0.8}, 10.0, 10.0),
        ("tv", {"alpha": 0.6}, 0.0, 1.0),
        ("expectile", {"expectile": 0.7}, 5.615385, 5.615385),
    ],
)
def test_minima_for_samples_of_0_1_and_10(kind, fields, low, high):
    """By bisection of the slope, whose sign says on which side the minimum lies."""
    config, samples = ValueLossConfig(value_loss=kind, **fields), t(0.0, 1.0, 10.0)

    def slope(point):
        value = torch.full((3,), point, requires_grad=True)
        value_loss(samples, value, config).backward()
        return value.grad.sum().item()

    left, right = -5.0, 15.0
    for _ in range(60):
        middle = (left + right) / 2
        left, right = (middle, right) if slope(middle) < 0 else (left, middle)
    assert low - 1e-6 <= left <= high + 1e-6
    if kind == "gumbel":
        b = fields["loss_temperature"]
        assert left == pytest.approx(b * (samples / b).exp().mean().log().item(), abs=1e-9)


@pytest.mark.parametrize("kind", sorted(VALUE_LOSSES))
def test_no_gradient_reaches_q_and_marked_rows_alone_count(kind):
    config = ValueLossConfig(value_loss=kind)
    q, value = t(2.0, -1.0, 0.5, -3.0).requires_grad_(), torch.zeros(4, requires_grad=True)
    rows = t(1.0, 0.0, 0.0, 1.0)
    value_loss(q, value, config, rows).backward()
    assert q.grad is None
    assert (value.grad != 0).tolist() == [True, False, False, True]
    assert row_mean(t(3.0, 100.0, -7.0, 5.0), rows).item() == 4


def test_the_default_is_the_expectile_to_the_bit():
    g = torch.Generator().manual_seed(0)
    q, value = (torch.randn(64, generator=g) for _ in "ab")
    gap = q - value
    expected = (torch.where(gap < 0, 1 - 0.7, 0.7) * gap.square()).mean(-1)
    assert torch.equal(value_loss(q, value, IQLConfig()), expected)


def test_huber_is_half_the_square_up_to_twenty():
    q, target = t(3.0, 42.98).unsqueeze(-1), t(2.98)
    half, linear = 0.5 * 0.02**2, HUBER_DELTA * (40 - HUBER_DELTA / 2)
    assert critic_loss(q, target, "official", "huber").item() == pytest.approx(half + linear)
    assert critic_loss(q, target, "corl", "huber").item() == pytest.approx((half + linear) / 2)


def test_random_actions_join_the_rows():
    agent, batch = small_agent("iql"), random_batch()
    rows = agent.read(batch)
    q, value = torch.zeros(32), torch.arange(32.0)
    assert with_random_actions(q, value, agent.critic, rows, 0, Noise(None)) == (q, value)
    noise = Noise(torch.Generator().manual_seed(1))
    wide, repeated = with_random_actions(q, value, agent.critic, rows, 2, noise)
    drawn = 2 * torch.rand(64, 2, generator=torch.Generator().manual_seed(1)) - 1
    expected = agent.critic(torch.cat((rows.observation, rows.observation)), drawn).amin(-2)
    torch.testing.assert_close(wide, torch.cat((q, expected)))
    assert torch.equal(repeated, value.repeat(3)) and not wide.requires_grad


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("order", ["official", "torchrl"])
def test_the_value_network_descends_the_loss_that_is_asked_for(kind, order):
    fields = {"value_loss": kind, "critic_loss": "huber", "value_layer_norm": True, "order": order}
    agent = small_agent("iql", **fields)
    plain, batch = copy.deepcopy(agent), random_batch()
    q = plain.target_critic(batch["observation"], batch["action"]).amin(-2)
    loss = VALUE_LOSSES[kind](q - plain.value(batch["observation"]), plain.config).mean()
    gradients = torch.autograd.grad(loss, list(plain.value.parameters()))
    metrics = agent.update(batch)
    for parameter, gradient in zip(agent.value.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    assert metrics["loss/value"].item() == pytest.approx(loss.item())
    assert ("value/clipped" in metrics) == (kind == "gumbel")
    assert any(part.endswith("trunk.1.weight") for part, _ in agent.value.named_parameters())


def test_the_share_of_clipped_rows():
    q, config = t(2.0, 14.0, 14.5, 99.0, -99.0), IQLConfig(loss_temperature=2.0, exp_clip=7.0)
    assert clipped_share(q, torch.zeros(5), config).item() == pytest.approx(0.4)


@pytest.mark.parametrize("kind", OTHERS)
def test_the_loss_module_has_the_agents_gradients(kind):
    """Seeds of torch's and the agent's stream are one, so that both draw the same uniform actions."""
    fields = {"value_loss": kind, "critic_loss": "huber", "random_actions": 1, "lr_value": 1e-30}
    agent, twin = (small_agent("iql", **fields) for _ in "ab")
    generator = torch.Generator()
    generator.set_state(agent.generators["learn"].get_state())
    module = IQLLoss(twin.actor, twin.critic, twin.value, twin.config, generator=generator)
    check_loss_module(module, agent, random_batch())


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("gumbel", {"loss_temperature": 0.1}),
        ("chi2", {"alpha": 0.8}),
        ("tv", {"alpha": 0.8}),
    ],
)
def test_values_of_a_bandit(kind, fields):
    """Q of 0 and 1, half the rows each: a soft maximum, and for tv and chi2 at 0.8 the better arm."""
    value = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([value], lr=1e-2)
    config = ValueLossConfig(value_loss=kind, exp_clip=20.0, **fields)
    for _ in range(600):
        loss = value_loss(t(0.0, 1.0), value.expand(2), config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = 0.1 * math.log((1 + math.exp(10)) / 2) if kind == "gumbel" else 1.0
    assert value.item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("field", "value"),
    [("loss_temperature", 0.0), ("exp_clip", 0.0), ("alpha", 1.0), ("alpha", 0.4), ("random_actions", -1)],
)
def test_config_refuses_values_outside_their_range(field, value):
    with pytest.raises(ValueError, match=field):
        IQLConfig(**{field: value})


def test_huber_is_torchs():
    g = torch.Generator().manual_seed(0)
    q, target = 60 * torch.randn(2, 16, generator=g), torch.zeros(16)
    expected = sum(F.huber_loss(row, target, delta=20.0) for row in q)
    torch.testing.assert_close(critic_loss(q, target, "official", "huber"), expected)
