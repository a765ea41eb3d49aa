"""The running scale of rewards against numbers computed by hand, and its independence of seeds."""

import math

import pytest
import torch

from rlsuite.blocks.reward_scale import RewardScale

pytestmark = pytest.mark.usefixtures("float64")

REWARDS, ENDS = (1.0, 2.0, -1.0, 4.0, 1.0), (False, False, True, False, False)


def play(scale, rewards=REWARDS, ends=ENDS, envs=1):
    """Returns carried to the next step, and the scale, after every step."""
    carried, seen = None, []
    for reward, end in zip(rewards, ends, strict=True):
        carried = scale.observe(torch.full((envs,), reward), torch.full((envs,), end), carried)
        seen.append((carried[0].item() / scale.gamma, scale.scale.item()))
    return seen


def test_the_scale_follows_returns_that_end_with_their_episode():
    scale = RewardScale(0.9, "bound", 5.0)
    assert scale(torch.tensor([3.0])).item() == 3.0
    returns, scales = zip(*play(scale), strict=True)
    assert returns == pytest.approx((1, 2.9, 0, 4, 4.6))  # the third, 1.61, is carried nowhere
    assert scales == pytest.approx((0.2, 0.9500263233, 0.7920978394, 1.1610693398, 1.3670455636), abs=1e-9)
    assert scale.greatest.item() == pytest.approx(4.6)
    assert scale.var.item() == pytest.approx(1.868813563, abs=1e-9)
    assert scale(torch.tensor([3.0])).item() == pytest.approx(3 / 1.3670455636)


def test_the_greatest_return_bounds_the_scaled_ones_where_the_rule_says_so():
    steady = (1.0,) * 200
    bounded, spread, off = (RewardScale(0.99, rule, 5.0) for rule in ("bound", "std", "off"))
    for scale in (bounded, spread, off):
        play(scale, steady, (False,) * 200)
    assert bounded.greatest.item() / bounded.scale.item() <= 5 + 1e-9
    assert spread.scale.item() == pytest.approx(math.sqrt(spread.var.item() + 1e-8))
    assert off.scale.item() == 1.0 and off.var.item() == spread.var.item()


def test_many_envs_are_many_returns():
    g = torch.Generator().manual_seed(0)
    rewards, scale = torch.randn(50, 4, generator=g), RewardScale(0.9, "std", 5.0)
    carried, returns, running = None, [], torch.zeros(4)
    for step, row in enumerate(rewards):
        done = torch.tensor([step % (7 + env) == 0 for env in range(4)])
        carried = scale.observe(row, done, carried)
        running = running * 0.9 + row
        returns.append(running.clone())
        running[done] = 0
    plain = torch.cat(returns)
    assert scale.mean.item() == pytest.approx(plain.mean().item())
    assert scale.var.item() == pytest.approx(plain.var(correction=0).item(), abs=1e-4)
    assert scale.greatest.item() == plain.abs().max().item()


def test_seeds_have_scales_of_their_own():
    both, first = RewardScale(0.9, "bound", 5.0, lead=(2,)), RewardScale(0.9, "bound", 5.0)
    carried = alone = None
    for reward in REWARDS:
        done = torch.zeros(4, dtype=torch.bool)
        carried = both.observe(torch.tensor([reward, 2 * reward, 70.0, -70.0]), done, carried)
        alone = first.observe(torch.tensor([reward, 2 * reward]), done[:2], alone)
    assert both.scale.shape == (2, 1)
    assert torch.equal(both.scale[0], first.scale)
    assert both.scale[1] > 10 * both.scale[0]
    assert both(torch.ones(2, 3)).shape == (2, 3)


def test_a_reward_that_is_no_number_counts_as_nothing():
    scale = RewardScale(0.9, "bound", 5.0)
    play(scale, (1.0, math.nan, math.inf), (False,) * 3)
    assert scale.scale.isfinite() and scale.greatest.item() == 1.0
