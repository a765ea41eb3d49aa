"""DSAC-T against the numbers of its specification (T1 to T8), all in float64."""

import copy
import math

import pytest
import torch
from helpers import check_loss_module, random_batch, small_agent
from torch.nn import functional as F

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.dsac_t import DSACT, DSACTConfig, DSACTLoss, alpha_loss
from rlsuite.agents.gaussian_returns import clipped_sample, critic_loss, return_targets, running_spread
from rlsuite.agents.optim import polyak
from rlsuite.blocks.heads import Gaussian, squash
from rlsuite.replay.batch import Batch

pytestmark = pytest.mark.usefixtures("float64")


def t(*values):
    return torch.tensor(values)


def rows(reward=1.0, terminated=0.0, gamma=0.99):
    return Batch(t(0.0), t(0.0), t(reward), t(0.0), t(terminated), gamma)


def twins():
    """Means 10 and 9, deviations 2 and 4, noise 0.5 and -5: shape [2, 1]."""
    return Gaussian(t(10.0, 9.0)[:, None], t(2.0, 4.0)[:, None]), t(0.5, -5.0)[:, None]


def test_t1_targets_take_the_twin_with_the_smaller_mean_and_clamp_its_noise():
    following, noise = twins()
    y_q, y_z = return_targets(rows(), following, noise, t(-1.5), t(0.2))
    assert y_q.item() == pytest.approx(10.207, abs=1e-12)
    assert y_z.item() == pytest.approx(-1.673, abs=1e-12)
    clipped = clipped_sample(t(8.0)[:, None], y_z, t(1.5))
    assert clipped.item() == pytest.approx(3.5, abs=1e-12)


def test_t1_termination_leaves_the_reward():
    following, noise = twins()
    y_q, y_z = return_targets(rows(terminated=1.0), following, noise, t(-1.5), t(0.2))
    assert (y_q.item(), y_z.item()) == (1.0, 1.0)


def test_a_tie_of_the_means_goes_to_the_second_twin():
    following = Gaussian(t(9.0, 9.0)[:, None], t(2.0, 4.0)[:, None])
    _, y_z = return_targets(rows(), following, t(1.0, 1.0)[:, None], t(0.0), t(0.2))
    assert y_z.item() == pytest.approx(1 + 0.99 * 13)


def gradients(mu, sigma, y_q, clipped, spread, form):
    """d loss / d (mu, sigma) for one sample whose clipped target is given."""
    mean = t(mu)[None].requires_grad_()
    std = t(sigma)[None].requires_grad_()
    # Inside three running deviations the clip is the identity; the cases of T2 are all inside or at it.
    loss = critic_loss(Gaussian(mean, std), t(y_q), t(clipped), t(spread), form)
    return [g.item() for g in torch.autograd.grad(loss, (mean, std))]


T2_INPUTS = [(0.0, 1.0, 2.0, 3.0, 1.0), (8.0, 2.0, 10.207, 3.5, 1.5), (0.0, 0.01, 1.0, 0.5, 1.0)]
T2_PAPER = [(-2.0, -8.0), (-1.26498780, -4.71450617), (-10.98901099, -2.74887289)]
T2_RELEASE = [(-1.81818182, -2.89256198), (-1.21115854, -1.60060976), (-9.99000999, -11.34320225)]


@pytest.mark.parametrize(("inputs", "expected"), list(zip(T2_INPUTS, T2_PAPER, strict=True)))
def test_t2_gradients_of_the_paper_form(inputs, expected):
    assert gradients(*inputs, "paper") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("inputs", "expected"), list(zip(T2_INPUTS, T2_RELEASE, strict=True)))
def test_t2_gradients_of_the_release_form(inputs, expected):
    assert gradients(*inputs, "release") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_t2_the_mean_feels_no_change_of_the_sampled_target_and_the_deviation_none_of_the_expected(form):
    base = gradients(0.0, 1.0, 2.0, 3.0, 1.0, form)
    other_sample = gradients(0.0, 1.0, 2.0, -1.0, 1.0, form)
    other_mean = gradients(0.0, 1.0, 5.0, 3.0, 1.0, form)
    assert base[0] == other_sample[0]
    assert base[1] != other_sample[1]
    assert base[1] == other_mean[1]
    assert base[0] != other_mean[0]


def test_t3_running_spread_starts_at_the_first_batch_and_moves_before_use():
    std = torch.full((1, 5), 2.0)
    spread = running_spread(torch.zeros(1), torch.zeros(()), std, 0.005)
    assert spread.item() == 2.0
    spread = running_spread(spread, torch.ones(()), 2 * std, 0.005)
    assert spread.item() == pytest.approx(2.01, abs=1e-12)
    # b = 6.03 in that same step: a far sample ends exactly there
    assert clipped_sample(torch.zeros(1, 1), t(100.0), spread).item() == pytest.approx(6.03, abs=1e-12)
    # the code's omega: square of the mean deviation, 4 for {1, 3}, not the mean square, 5
    assert running_spread(torch.zeros(1), torch.zeros(()), t(1.0, 3.0)[None], 1.0).square().item() == 4.0


def test_a_batch_that_is_not_finite_leaves_the_running_spread():
    spread = running_spread(t(2.0), torch.ones(()), t(math.nan, 1.0)[None], 0.005)
    assert spread.item() == 2.0


def settle(form, draw_target, steps, bootstrapped):
    """Fit one Gaussian return with free mean and rho; the target moves every second step (T4)."""
    g = torch.Generator().manual_seed(0)
    online = torch.nn.ParameterList([torch.zeros(1, 1), torch.zeros(1, 1)])
    target = copy.deepcopy(online).requires_grad_(False)
    spread, optimizer = torch.zeros(1), torch.optim.Adam(online, lr=3e-3)
    tail = []
    for k in range(steps):
        reward = draw_target(g)
        y_q = y_z = reward
        if bootstrapped:
            following = Gaussian(target[0].expand(2, 256), F.softplus(target[1]).expand(2, 256))
            noise = torch.randn(2, 256, generator=g)
            batch = Batch(None, None, reward, None, torch.zeros(256), 0.9)
            y_q, y_z = return_targets(batch, following, noise, torch.zeros(256), torch.zeros(()))
        std = F.softplus(online[1])
        spread = running_spread(spread, torch.tensor(k), std.detach(), 0.005)
        loss = critic_loss(Gaussian(online[0].expand(1, 256), std.expand(1, 256)), y_q, y_z, spread, form)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if k % 2 == 0:
            polyak(target, online, 0.005)
        if k >= steps * 3 // 4:
            tail.append((online[0].item(), std.item()))
    means, stds = zip(*tail, strict=True)
    return sum(means) / len(means), sum(stds) / len(stds)


@pytest.mark.parametrize(("form", "low", "high"), [("paper", 2.15, 2.35), ("release", 0.82, 0.93)])
def test_t4_deviation_of_a_bootstrapped_return(form, low, high):
    mean, std = settle(form, lambda g: torch.randn(256, generator=g), 12_000, bootstrapped=True)
    assert low < std < high
    assert abs(mean) < 0.05


@pytest.mark.parametrize(("form", "fixed_point"), [("paper", 1.995), ("release", 1.362)])
def test_t4_deviation_of_a_plain_fit(form, fixed_point):
    mean, std = settle(form, lambda g: 3 + 2 * torch.randn(256, generator=g), 6_000, bootstrapped=False)
    assert std == pytest.approx(fixed_point, abs=0.03)
    assert mean == pytest.approx(3.0, abs=0.05)


def scaled(c, form):
    return [g / c for g in gradients(0.0, 2 * c, c, 3 * c, 2 * c, form)]


@pytest.mark.parametrize("c", [0.01, 0.1, 1.0, 10.0, 100.0])
def test_t5_the_papers_mean_gradient_scales_with_the_reward(c):
    assert scaled(c, "paper")[0] == pytest.approx(-1.0, abs=1e-12)


def test_t5_deviation_and_release_form_do_not():
    found = [scaled(c, "paper")[1] for c in (1.0, 10.0, 100.0, 0.1)]
    assert found == pytest.approx([-2.5309, -2.5006, -2.5, -0.6481], abs=1e-4)
    found = [scaled(c, "release")[0] for c in (1.0, 0.1, 0.01, 100.0)]
    assert found == pytest.approx([-0.9756, -0.2857, -0.1, -0.5], abs=1e-4)
    assert scaled(100.0, "release")[1] * 100 == pytest.approx(131.18, abs=0.01)


def test_t6_squashed_density():
    mean, std, u = t(0.3, -0.7), t(0.5, 1.2), t(0.1, 0.9)
    noise = (u - mean) / std
    action, log_prob = squash(Gaussian(mean, std), noise, 2 * math.log(2.0))
    assert (2 * action).tolist() == pytest.approx([0.199336, 1.432595], abs=1e-6)
    assert log_prob.item() == pytest.approx(-2.952590, abs=1e-6)
    assert squash(Gaussian(mean, std), noise)[1].item() == pytest.approx(-1.566296, abs=1e-6)


def test_t6_density_is_finite_far_out():
    _, log_prob = squash(Gaussian(t(40.0), t(1.0)), t(0.0))
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2 * math.pi) - 2 * (math.log(2) - 40), rel=1e-9)


def test_t7_temperature():
    log_alpha = torch.nn.Parameter(torch.ones(1))
    loss = alpha_loss(log_alpha, t(-1.0, -2.0), -2.0)
    optimizer = torch.optim.Adam([log_alpha], lr=3e-4)
    loss.backward()
    assert log_alpha.grad.item() == pytest.approx(3.5)
    optimizer.step()
    assert log_alpha.item() == pytest.approx(0.9997, abs=1e-9)
    assert log_alpha.exp().item() == pytest.approx(2.71747, abs=1e-5)


def test_t7_first_temperature_is_e():
    assert small_agent("dsac_t").log_alpha.exp().item() == pytest.approx(2.71828, abs=1e-5)


def parts_of(agent):
    return {p.name: [x.detach().clone() for x in p.module.parameters()] for p in agent.parts()}


def test_t8_delay():
    agent = small_agent("dsac_t")
    before = parts_of(agent)
    for k in range(4):
        agent.update(random_batch(seed=k))
        after = parts_of(agent)
        for name in before:
            moved = any(not torch.equal(a, b) for a, b in zip(before[name], after[name], strict=True))
            assert moved == (name == "critic" or k % 2 == 0), (name, k)
        if k % 2 == 0:
            for name in ("actor", "critic"):
                target = f"target_{name}"
                for old, new, online in zip(before[target], after[target], after[name], strict=True):
                    torch.testing.assert_close(new, 0.995 * old + 0.005 * online, rtol=0, atol=1e-12)
        before = after


def test_the_actor_sees_the_critics_before_their_step():
    """P7: with a critic learning rate of 1 the actor's gradient is still that of the first critic."""
    slow, fast = (small_agent("dsac_t", lr_critic=lr) for lr in (1e-9, 1.0))
    batch = random_batch()
    slow.update(batch)
    fast.update(batch)
    for a, b in zip(slow.actor.parameters(), fast.actor.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


def test_entropy_is_measured_in_environment_units():
    """P2: the log-density carries the half range and the critics see scaled actions."""
    wide, unit = (
        small_agent("dsac_t", spaces=Spaces(observation=4, action=2, half_range=h))
        for h in ((2.0, 0.5), (1.0, 1.0))
    )
    batch = random_batch()
    wide_metrics, unit_metrics = wide.update(batch), unit.update(batch)
    assert wide_metrics["entropy"].item() == pytest.approx(unit_metrics["entropy"].item(), abs=1e-12)
    three = small_agent("dsac_t", spaces=Spaces(observation=4, action=2, half_range=(3.0, 3.0)))
    shift = three.update(batch)["entropy"] - unit_metrics["entropy"]
    assert shift.item() == pytest.approx(2 * math.log(3), abs=1e-12)


@pytest.mark.parametrize(
    ("observation", "action", "critic", "actor"),
    [(376, 17, 232_962, 236_834), (17, 6, 138_242, 139_276), (11, 3, 135_938, 136_198)],
)
def test_parameter_counts_of_the_authors_networks(observation, action, critic, actor):
    spaces = Spaces(observation=observation, action=action, half_range=(1.0,) * action)
    agent = DSACT(spaces, DSACTConfig(), make_generators(0))
    assert sum(p.numel() for p in agent.critic.parameters()) == 2 * critic
    assert sum(p.numel() for p in agent.actor.parameters()) == actor


@pytest.mark.parametrize("form", ["paper", "release"])
def test_the_loss_module_has_the_agents_gradients(form):
    agent, twin = (small_agent("dsac_t", critic_loss=form) for _ in range(2))
    module = DSACTLoss(
        twin.actor, twin.critic, twin.config, half_range=(2.0, 0.5), generator=twin.generators["learn"]
    )
    batch = random_batch()
    check_loss_module(module, agent, batch)
