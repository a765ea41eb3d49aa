"""The ensemble of dynamics: loss, elites and resampling by numbers, steps against maps that are known."""

import math

import pytest
import torch

from rlsuite.blocks.dynamics import (
    DynamicsEnsemble,
    Prediction,
    best_members,
    keep_improved,
    likelihood_loss,
    resampled,
)
from rlsuite.blocks.noise import Noise

pytestmark = pytest.mark.usefixtures("float64")


def source(seed=0, lead=()):
    """One generator, or one a seed."""
    if not lead:
        return torch.Generator().manual_seed(seed)
    return tuple(torch.Generator().manual_seed(seed + k) for k in range(lead[0]))


def small(lead=(), members=3, elites=2, seed=0, hidden=8):
    return DynamicsEnsemble(
        2, 1, (hidden,), members=members, elites=elites, lead=lead, generator=source(seed, lead)
    )


def rows(count, lead=(), seed=0):
    g = torch.Generator().manual_seed(seed)
    observation, action = torch.randn(*lead, count, 2, generator=g), torch.randn(*lead, count, 1, generator=g)
    after = observation + torch.cat((0.3 * action, observation[..., :1].sin()), -1)
    return observation, action, after, observation.sum(-1) * 0.1


def test_likelihood_by_hand():
    mean, log_var = torch.full((1, 1, 1), 0.2), torch.full((1, 1, 1), math.log(0.04))
    target = torch.full((1, 1, 1), 0.5)
    assert likelihood_loss(Prediction(mean, log_var), target).item() == pytest.approx(-0.96887582, abs=1e-8)
    weighted = likelihood_loss(Prediction(mean, log_var), target, torch.full((1, 1), 3.0))
    assert weighted.item() == pytest.approx(3 * -0.96887582, abs=1e-7)


def test_loss_sums_members_and_prices_wide_bounds():
    models = small()
    observation, action, after, reward = rows(5)
    predicted, target = models(observation, action), models.targets(observation, reward, after)
    each = [likelihood_loss(Prediction(*(p[m : m + 1] for p in predicted)), target[None]) for m in range(3)]
    expected = sum(each) + 0.01 * (3 * 0.5 + 3 * 10.0)  # three targets
    torch.testing.assert_close(models.loss(predicted, target), expected.squeeze(), rtol=1e-12, atol=0)


def test_decay_is_half_the_squared_weights_of_each_layer():
    models = small()
    first, last = (layer.weight for layer in (models.net[0], models.net[-1]))
    expected = 0.5 * (0.1 * first.square().sum() + 0.2 * last.square().sum())
    torch.testing.assert_close(models.decay((0.1, 0.2)), expected)
    torch.testing.assert_close(models.decay((0.3,)), 0.15 * (first.square().sum() + last.square().sum()))


def test_elites_are_the_members_of_least_loss():
    losses = torch.tensor([0.5, 0.2, 0.9, 0.3, 0.1, 0.4, 0.8])
    assert best_members(losses, 5).tolist() == [0, 1, 3, 4, 5]
    assert best_members(torch.stack((losses, -losses)), 2).tolist() == [[1, 4], [2, 6]]


def test_each_member_keeps_its_own_best_weights():
    """A member that got worse, or better by less than 1%, keeps the weights of then; the others go on."""
    kept, online, best = small(seed=1), small(seed=2), torch.full((3,), torch.inf)
    assert keep_improved(kept, online, best, torch.tensor([1.0, 1.0, math.nan])).tolist() == [
        True,
        True,
        False,
    ]
    then = [p.clone() for p in online.net.parameters()]
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(1.0)
    better = keep_improved(kept, online, best, torch.tensor([0.995, 0.5, 2.0]))
    assert better.tolist() == [False, True, True]
    assert best.tolist() == [1.0, 0.5, 2.0]
    for old, new, held in zip(then, online.net.parameters(), kept.net.parameters(), strict=True):
        assert torch.equal(held[0], old[0])
        assert torch.equal(held[1:], new[1:])
    assert torch.equal(kept.high, online.high)
    assert not keep_improved(kept, online, best, best.clone()).any()  # once more is no improvement


def test_steps_of_equal_members_without_variance_are_the_composed_map():
    models = small(members=4, elites=3)
    with torch.no_grad():
        for parameter in models.net.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
        models.low.fill_(-2000.0)
        models.high.fill_(-2000.0)  # a variance of e^-2000 is 0
    observation, action = torch.randn(6, 2), torch.randn(6, 1)
    noise, by_hand, total = Noise(source(3)), observation, torch.zeros(6)
    for _ in range(4):
        observation, reward = models.step(observation, action, noise)
        mean = models(by_hand, action).mean[0]
        by_hand, expected = by_hand + mean[:, :2], mean[:, 2]
        total += reward - expected
    torch.testing.assert_close(observation, by_hand, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total, torch.zeros(6), rtol=0, atol=1e-12)


def test_steps_draw_elites_alone_and_a_sample():
    models = small(members=3, elites=2)
    models.elites.copy_(torch.tensor([0, 2]))
    observation, action = torch.randn(1, 2).expand(4000, 2), torch.zeros(4000, 1)
    with torch.no_grad():
        models.net[-1].weight.zero_()
        models.net[-1].bias.zero_()
        models.net[-1].bias[:, 2] = torch.tensor([1.0, 50.0, 3.0])  # rewards that members expect
        models.low.fill_(2 * math.log(0.1))
        models.high.fill_(2 * math.log(0.1) + 1e-9)
    _, reward = models.step(observation, action, Noise(source(5)))
    first = reward < 2
    assert 0.45 < first.double().mean() < 0.55
    spread = models(observation[:1], action[:1]).log_var[0, 0, 2].detach().mul(0.5).exp()
    for part, mean in ((reward[first], 1.0), (reward[~first], 3.0)):
        assert part.mean() == pytest.approx(mean, abs=0.03)
        assert part.std() == pytest.approx(float(spread), rel=0.05)


def test_moments_of_inputs_and_where_asked_of_targets():
    models, g = small(), torch.Generator().manual_seed(0)
    inputs, targets = 3 + 2 * torch.randn(50, 3, generator=g), 5 * torch.randn(50, 3, generator=g)
    inputs[:, 1] = 7.0
    models.adopt(inputs)
    torch.testing.assert_close(models.input_mean, inputs.mean(0))
    assert models.input_std[1] == 1
    torch.testing.assert_close(models.input_std[0], inputs[:, 0].std(correction=0))
    assert torch.equal(models.target_std, torch.ones(3))
    observation, action, after, reward = rows(4)
    raw = models.targets(observation, reward, after)
    torch.testing.assert_close(raw[:, :2], after - observation)
    models.adopt(inputs, targets)
    scaled = models.targets(observation, reward, after)
    torch.testing.assert_close(scaled * models.target_std + models.target_mean, raw)
    seen = models(observation, action).mean[0]
    shown, gained = models.step(observation, action, _Silent())
    expected = seen * models.target_std + models.target_mean
    torch.testing.assert_close(shown - observation, expected[:, :2])
    torch.testing.assert_close(gained, expected[:, 2])


class _Silent(Noise):
    """Draws zeros: the first elite, and means."""

    def __init__(self):
        super().__init__(None)

    def uniform(self, like):
        return torch.zeros_like(like)

    normal = uniform


def test_log_variances_stay_near_their_bounds_and_have_gradients():
    models = small()
    with torch.no_grad():
        models.net[-1].bias[:, 3:] = torch.tensor([-1e3, 0.0, 1e3])
    log_var = models(*rows(4)[:2]).log_var
    assert (log_var[..., 0] - -10.0).abs().max() < 1e-3
    assert (log_var[..., 2] - 0.5).abs().max() < 1e-3
    log_var.sum().backward()
    assert (models.high.grad.abs() > 0).any()
    assert (models.low.grad.abs() > 0).any()


@pytest.mark.parametrize("lead", [(), (2,)])
def test_resampled_rows(lead):
    sets = resampled(100, 10, 4, lead, source(0, lead))
    assert sets.counts.shape == (*lead, 100, 4)
    assert sets.held_out.shape == (*lead, 10)
    flat, held = sets.counts.view(-1, 100, 4), sets.held_out.view(-1, 10)
    for counts, out in zip(flat, held, strict=True):
        assert len(set(out.tolist())) == 10
        assert not counts[out].any()
        assert (counts.sum(0) == 90).all()
        assert not torch.equal(counts[:, 0], counts[:, 1])
        assert (counts == 0).double().mean() == pytest.approx(0.1 + 0.9 * math.exp(-1), abs=0.06)
    if lead:
        alone = resampled(100, 10, 4, (), source(1))
        assert torch.equal(sets.counts[1], alone.counts)


def test_it_learns_a_map_and_the_noise_of_it():
    models = small(members=2, elites=2, hidden=32)  # of eight units some stay where a sine is a line
    observation, action, after, reward = rows(256)
    noisy = after + 0.1 * torch.randn(after.shape, generator=torch.Generator().manual_seed(9))
    optimizer = torch.optim.Adam(models.parameters(), lr=1e-2)
    target = models.targets(observation, reward, noisy)
    first = models.errors(observation, action, target)
    for _ in range(1000):
        optimizer.zero_grad()
        models.loss(models(observation, action), target).backward()
        optimizer.step()
    last = models.errors(observation, action, target)
    assert (last < 0.1 * first).all()
    std = (0.5 * models(observation, action).log_var).exp().mean((0, 1))
    assert std[:2].tolist() == pytest.approx([0.1, 0.1], rel=0.3)
    assert std[2] < 0.06
