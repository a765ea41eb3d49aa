"""Correlated exploration noise: its variance, its memory, its spectrum, and where episodes begin."""

import pytest
import torch

from rlsuite.blocks.exploration import HELD_STEPS, OU_RATE, CorrelatedNoise, HeldNoise, StateDependentNoise

STEPS, ENVS = 4096, 64


def series(kind, steps=STEPS, envs=ENVS, begins=()):
    """Noise `[steps, envs]` of one action."""
    g, noise = torch.Generator().manual_seed(0), CorrelatedNoise(kind)
    state = torch.randn(envs, 1, noise.filters, generator=g)
    values = []
    for step in range(steps):
        fresh = torch.randn(state.shape, generator=g)
        state = noise(state, fresh, torch.full((envs,), 0 if step in begins else step + 1))
        values.append(noise.value(state, state).squeeze(-1))
    return torch.stack(values)


@pytest.mark.parametrize("kind", ["ou", "pink"])
def test_the_variance_is_one(kind):
    assert series(kind, envs=1024, steps=512).square().mean().item() == pytest.approx(1, abs=0.1)


def test_ornstein_uhlenbeck_forgets_at_its_rate_and_begins_at_rest():
    noise = series("ou", envs=512, steps=700, begins=(0,))
    assert (noise[0] == 0).all()
    tail = noise[300:]
    correlation = (tail[100:] * tail[:-100]).mean() / (tail[:-100].square()).mean()
    assert correlation.item() == pytest.approx((1 - OU_RATE) ** 100, abs=0.12)


def test_pink_noise_has_a_spectrum_of_one_over_f():
    power = torch.fft.rfft(series("pink"), dim=0).abs().square().mean(1)
    frequency = torch.arange(1, len(power))
    inside = (frequency > STEPS // 512) & (frequency < STEPS // 8)  # the octaves that the filters have
    x, y = frequency[inside].float().log(), power[1:][inside].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert slope.item() == pytest.approx(-1, abs=0.15)


def test_an_episode_begins_without_memory():
    noise = CorrelatedNoise("pink")
    state = torch.full((2, 3, noise.filters), 100.0)
    fresh = torch.zeros_like(state)
    after = noise(state, fresh, torch.tensor([0, 5]))
    assert (after[0] == 0).all() and (after[1] > 30).all()


def test_state_dependent_noise_has_variance_one_at_every_state_and_keeps_its_function():
    noise, g = StateDependentNoise(6, hold=4), torch.Generator().manual_seed(0)
    features = torch.randn(1, 6, generator=g).exp() * torch.tensor([[1e-3], [1.0], [1e3]])  # three lengths
    state, values = torch.zeros(3, 20_000, 6), []
    for step in range(9):
        fresh = torch.randn(state.shape, generator=g)
        state = noise(state, fresh, torch.full((3,), step))
        values.append(noise.value(state, features))
    for value in values:
        torch.testing.assert_close(value.var(-1), torch.ones(3), rtol=0, atol=0.05)
    assert all(torch.equal(values[4 * (step // 4)], values[step]) for step in range(9))
    between = (values[0] * values[4]).mean(-1)
    assert between.abs().max() < 0.05
    assert (noise.value(state, torch.zeros(3, 6)) == 0).all()


def test_near_states_get_near_noise_and_far_ones_other():
    noise, g = StateDependentNoise(64, hold=10), torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 1, 64, generator=g)
    state = torch.randn(1, 20_000, 64, generator=g)
    here, near, far = (noise.value(state, f) for f in (one, one + 0.05 * other, other))
    assert (here * near).mean().item() == pytest.approx(1, abs=0.03)
    assert abs((here * far).mean().item()) < 0.4


def test_held_noise_is_drawn_anew_after_a_random_number_of_steps():
    noise = HeldNoise()
    shares = noise.thresholds.diff(prepend=torch.zeros(1, dtype=torch.float64))
    expected = [0.6311750484, 0.1577937621, 0.0701305609, 0.0394484405]
    assert shares[:4].tolist() == pytest.approx(expected, abs=1e-9)
    whole = torch.cat((shares, 1 - noise.thresholds[-1:]))
    mean = (whole * torch.arange(1, HELD_STEPS + 1)).sum().item()
    assert mean == pytest.approx(2.1338317861, abs=1e-9)
    assert noise.durations(torch.tensor([0.5, 0.7, 0.95])).tolist() == [1, 2, 7]


def test_held_noise_is_one_value_for_its_duration_in_all_actions_of_an_env():
    g, noise = torch.Generator().manual_seed(0), HeldNoise()
    state, values, lengths = torch.zeros(64, 3, 2), [], []
    for step in range(512):
        state = noise(state, torch.randn(state.shape, generator=g), torch.full((64,), step))
        values.append(noise.value(state, state[..., 0]))
        lengths.append(state[..., 1])
    values, left = torch.stack(values), torch.stack(lengths)
    assert torch.equal(left, left[..., :1].expand_as(left))
    same = values[1:] == values[:-1]
    assert torch.equal(same, left[:-1] > 1)
    assert same.float().mean().item() == pytest.approx(1 - 1 / 2.1338, abs=0.01)
    assert values.square().mean().item() == pytest.approx(1, abs=0.05)


def test_an_episode_begins_with_fresh_held_noise():
    noise = HeldNoise()
    state = torch.tensor([5.0, 9.0]).expand(2, 1, 2)
    fresh = torch.tensor([1.0, 0.0]).expand(2, 1, 2)
    moved = noise(state, fresh, torch.tensor([3, 0]))
    assert moved[:, 0].tolist() == [[5.0, 8.0], [1.0, 1.0]]
