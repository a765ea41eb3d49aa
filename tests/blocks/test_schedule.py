"""Learning rates that fall: the numbers of the cosine, its end, and that an optimiser follows it."""

import pytest
import torch

from rlsuite.agents.optim import Adam
from rlsuite.blocks.schedule import CosineRate


def test_the_cosine_of_a_million_updates_and_its_end():
    schedule = CosineRate(3e-4, 1_000_000)
    assert schedule.rate.item() == pytest.approx(3e-4)
    for count, rate in (
        (250_000, 2.5607e-4),
        (500_000, 1.5e-4),
        (750_000, 4.3934e-5),
        (1_000_000, 0.0),
        (1_000_001, 0.0),
        (1_500_000, 0.0),
        (2_000_000, 0.0),
    ):
        schedule.count.fill_(count - 1)
        schedule.step()
        assert schedule.rate.item() == pytest.approx(rate, rel=1e-4, abs=1e-12)


def test_no_decay_and_held_rates_stay():
    constant = CosineRate(1e-3, 0)
    for _ in range(3):
        constant.step()
    assert constant.rate.item() == pytest.approx(1e-3) and constant.count == 0
    held = CosineRate(1e-3, 4)
    for _ in range(4):
        held.step()
    assert held.rate == 0
    held.hold()
    for _ in range(3):
        assert held.rate.item() == pytest.approx(1e-3)
        held.step()


def test_an_optimiser_follows_the_rate():
    schedule = CosineRate(1e-2, 2)
    weight, steady = (torch.nn.Parameter(torch.zeros(1)) for _ in "ab")
    optimizer = Adam(([weight], schedule.rate), ([steady], 1e-2))
    moved = []
    for _ in range(4):
        before = weight.item()
        weight.grad, steady.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
        schedule.step()
        moved.append(before - weight.item())
    assert moved == pytest.approx([1e-2, 0.5e-2, 0, 0], rel=1e-4)
    assert steady.item() == pytest.approx(-4e-2, rel=1e-4)
