"""Learning rates that fall: the numbers of the cosine, its end, and that an optimiser follows it."""

import pytest
import torch

from rlsuite.agents.optim import Adam
from rlsuite.blocks.schedule import CosineRate, FallingRate


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


@pytest.mark.parametrize(
    ("initial", "share", "form", "expected"),
    [
        (3e-4, 0.5, "cosine", (3e-4, 2.7803300859e-4, 2.25e-4, 1.7196699141e-4, 1.5e-4)),
        (3e-4, 0.1, "linear", (3e-4, 2.325e-4, 1.65e-4, 9.75e-5, 3e-5)),
        (1e-4, 0.5, "linear", (1e-4, 8.75e-5, 7.5e-5, 6.25e-5, 5e-5)),
    ],
)
def test_rates_fall_to_a_share_over_the_run_and_stay(initial, share, form, expected):
    rate = FallingRate(initial, share, form)
    rate.step()
    assert rate.rate.item() == pytest.approx(initial)  # nobody has said how long the run is
    rate.updates = 100
    found = [rate.rate.item()]
    for quarter in range(1, 5):
        rate.count.fill_(25 * quarter - 1)
        rate.step()
        found.append(rate.rate.item())
    assert found == pytest.approx(list(expected), rel=1e-6)
    rate.step()
    assert rate.rate.item() == pytest.approx(expected[-1], rel=1e-6)
