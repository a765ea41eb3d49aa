"""Utilities on numbers and tensors, statistics of laws, and the arithmetic of the stock."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlsuite.errors import ConfigError
from rlsuite.returns.laws import cvar, mean, project_to_quantiles, quantile, upper_cvar, wasserstein
from rlsuite.returns.objectives import (
    Custom,
    Exponential,
    Lower,
    Mean,
    MeanCVaR,
    Norm,
    Range,
    Target,
    Upper,
    check_discount,
    check_shaping,
    make_utility,
    next_stock,
)
from rlsuite.returns.stock import STOCK_LIMIT, advance, default_range, embed, relabelled

F = Fraction
SCALAR = (Mean(), Lower(), Upper(), MeanCVaR(0.5, 0.25), Target(), Target(2.0), Range(0, 2), Exponential(0.1))
LAW = {F(-2): F(1, 4), F(5): F(3, 4)}


@pytest.mark.parametrize("utility", SCALAR, ids=str)
def test_tensors_and_numbers_get_the_same(utility):
    xs = [-3.0, -1.0, 0.0, 0.5, 2.0, 7.0]
    found = utility(torch.tensor(xs, dtype=torch.float64))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([float(utility(x)) for x in xs])


def test_the_norm_takes_the_last_axis():
    assert Norm()((F(1), F(-2))) == -3
    assert torch.equal(Norm()(torch.tensor([[1.0, -2.0], [0.0, 0.5]])), torch.tensor([-3.0, -0.5]))


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=6, unique=True), st.integers(1, 16), st.data())
def test_cvar_is_its_variational_form(values, sixteenths, data):
    weights = [data.draw(st.integers(1, 9)) for _ in values]
    law = {F(x): F(w, sum(weights)) for x, w in zip(values, weights, strict=True)}
    tau = F(sixteenths, 16)
    assert cvar(law, tau) == max(b + Lower().mean(law, -b) / tau for b in law)
    assert upper_cvar(law, tau) == min(b + Upper().mean(law, -b) / tau for b in law)
    for weight in (F(0), F(1, 3), F(1)):
        mixed = max(b + MeanCVaR(weight, tau).mean(law, -b) for b in law)
        assert mixed == weight * mean(law) + (1 - weight) * cvar(law, tau)
    assert cvar(law, F(1)) == mean(law) == upper_cvar(law, F(1))


@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=8), st.lists(st.integers(-9, 9), min_size=1, max_size=8)
)
def test_lipschitz_utilities_move_by_no_more_than_the_distance_of_laws(left, right):
    laws = [{F(x): F(values.count(x), len(values)) for x in values} for values in (left, right)]
    gap = wasserstein(*laws)
    assert gap == wasserstein(laws[1], laws[0]) >= abs(mean(laws[0]) - mean(laws[1]))
    for utility in (Lower(), Upper(), Target(), MeanCVaR(F(1, 2), F(1, 4))):
        moved = abs(utility.mean(laws[0], F(1)) - utility.mean(laws[1], F(1)))
        assert moved <= Fraction(utility.lipschitz) * gap


def test_quantiles_and_their_bias():
    """Section 7, test 5 of the specification, and pitfall 6."""
    assert quantile(LAW, F(1, 4)) == -2
    assert project_to_quantiles(LAW, 4) == [-2, 5, 5, 5]
    assert project_to_quantiles(LAW, 3) == [-2, 5, 5]
    assert project_to_quantiles(LAW, 10) == [-2] * 3 + [5] * 7
    biased = {
        1: None,
        3: (F(-7, 3), 1.8889),
        4: (F(-7, 4), 2.6667),
        10: (F(-21, 10), 2.2),
        50: (F(-91, 50), 2.5733),
    }
    for count, wanted in biased.items():
        if wanted is None:
            continue
        atoms = project_to_quantiles(LAW, count)
        value = sum(Lower()(F(-5) + x) for x in atoms) / count
        assert value == wanted[0]
        assert float(5 + value / F(3, 4)) == pytest.approx(wanted[1], abs=1e-4)


def test_the_stock_path():
    """Section 7, test 1: the whole return is visible from every step."""
    gamma, rewards = F(9, 10), [F(1), F(-1, 2), F(2), F(1, 4)]
    stocks = [F(-17, 10)]
    for reward in rewards:
        stocks.append(next_stock(stocks[-1], reward, gamma))
    assert [float(c) for c in stocks] == pytest.approx(
        [-1.7, -0.777778, -1.419753, 0.644719, 0.994132], abs=1e-6
    )
    for t in range(5):
        after = sum(gamma**i * r for i, r in enumerate(rewards[t:]))
        assert gamma**t * (stocks[t] + after) == F(65225, 100_000)
    floats = torch.tensor([[-1.7]], dtype=torch.float64)
    for reward in rewards:
        floats = advance(floats, torch.tensor(float(reward)), 0.9)
    assert floats.item() == pytest.approx(0.994132, abs=1e-6)


def test_stocks_stay_finite_and_what_is_no_number_stays_none():
    huge = torch.tensor([[1.0, -1.0, float("nan")]], dtype=torch.float64)
    for _ in range(400):
        huge = advance(huge, torch.zeros(1, 3, dtype=torch.float64), 0.5)
    assert huge[0, :2].tolist() == [STOCK_LIMIT, -STOCK_LIMIT] and huge[0, 2].isnan()
    assert huge.float()[0, :2].isfinite().all()


def test_relabelled_rows_tell_the_same_rewards():
    generator = torch.Generator().manual_seed(0)
    stock, reward = torch.randn(2, 64, 2, generator=generator, dtype=torch.float64)
    discount = torch.full((64, 1), 0.9**3, dtype=torch.float64)
    after = advance(stock, reward, discount)
    fresh = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    chosen = torch.arange(64).unsqueeze(1) % 2 == 0
    new, following = relabelled(stock, after, discount, fresh, chosen)
    assert torch.equal(new[::2], fresh[::2]) and torch.equal(new[1::2], stock[1::2])
    assert torch.equal(following[1::2], after[1::2])
    torch.testing.assert_close(discount * following - new, reward)


def test_the_embedding_is_bounded_and_tells_signs_beyond_the_bound():
    bound = torch.tensor([10.0])
    found = embed(torch.tensor([[-1e30], [-10.0], [0.0], [5.0], [1e30]]), bound)
    assert found.shape == (5, 4) and found.isfinite().all() and found.abs().max() < 30
    assert found[:, 0].tolist() == [-1, -1, 0, 0.5, 1]
    assert found[:, 2].tolist() == [1, 0, 0, 0, 0] and found[:, 3].tolist() == [0, 0, 0, 0, 1]
    assert default_range(-3.0, 12.0) == (-13.5, 4.5)


@pytest.mark.parametrize(
    ("utility", "allowed"),
    [
        (Mean(), True),
        (Lower(), True),
        (Upper(), True),
        (Target(), True),
        (MeanCVaR(), True),
        (Norm(), True),
        (Custom(lambda x: -(abs(x) ** 3)), True),
        (Target(1), False),
        (Range(0, 1), False),
        (Exponential(1.0), False),
        (Custom(lambda x: min(x, 1)), False),
        (Custom(lambda x: x * x * x - x), False),
    ],
    ids=lambda value: str(value).partition(" at 0x")[0],
)
def test_discounts(utility, allowed):
    check_discount(utility, 1)
    if allowed:
        check_discount(utility, 0.9)
    else:
        with pytest.raises(ConfigError, match=r"gamma = 0\.9"):
            check_discount(utility, 0.9)
    with pytest.raises(ConfigError, match=r"in \(0, 1\]"):
        check_discount(utility, 0)


def test_a_target_is_sent_into_the_stock():
    with pytest.raises(ConfigError, match=r"c_0 = -7"):
        check_discount(Target(7), 0.5)


def test_shaping_needs_homogeneity():
    check_shaping(Lower(), 0.9)
    with pytest.raises(ConfigError, match="shaped reward"):
        check_shaping(Custom(lambda x: -x * x), 0.9)


def test_utilities_by_name():
    assert make_utility("mean_cvar", tau=0.5, weight=0.1) == MeanCVaR(0.1, 0.5)
    assert make_utility("range", goal=1, high=2) == Range(1, 2)
    with pytest.raises(ConfigError, match="allowed are mean, lower"):
        make_utility("cvar")
    for wrong in (
        lambda: Range(2, 1),
        lambda: MeanCVaR(2, 0.5),
        lambda: MeanCVaR(0.5, 0),
        lambda: Exponential(0),
    ):
        with pytest.raises(ConfigError):
            wrong()
