"""Correlated exploration noise: its variance, its memory, its spectrum, and where episodes begin."""

import pytest
import torch

from rlsuite.blocks.exploration import OU_RATE, CorrelatedNoise

STEPS, ENVS = 4096, 64


def series(kind, steps=STEPS, envs=ENVS, begins=()):
    """Noise `[steps, envs]` of one action."""
    g, noise = torch.Generator().manual_seed(0), CorrelatedNoise(kind)
    state = torch.randn(envs, 1, noise.filters, generator=g)
    values = []
    for step in range(steps):
        fresh = torch.randn(state.shape, generator=g)
        state = noise(state, fresh, torch.full((envs,), step in begins))
        values.append(noise.value(state).squeeze(-1))
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
    after = noise(state, fresh, torch.tensor([True, False]))
    assert (after[0] == 0).all() and (after[1] > 30).all()
