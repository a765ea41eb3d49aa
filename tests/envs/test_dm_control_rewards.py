"""`tolerance` against dm_control's."""

import math

import numpy as np
import pytest
import torch
from dm_control.utils import rewards
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsuite.envs.tasks.dmc.rewards import SIGMOIDS, ZERO_ALLOWED, tolerance
from rlsuite.errors import ConfigError

BOUNDS = ((0.0, 0.0), (-1.0, 2.0), (0.5, math.inf), (-math.inf, 0.5), (-math.inf, math.inf), (3.0, 3.0))
MARGINS = (0.0, 0.1, 1.0, 7.5)
X = np.concatenate((np.linspace(-12, 12, 2401), [-1.0, 0.0, 0.5, 2.0, 3.0, 1e300, -1e300, np.inf, -np.inf]))
# The last digits of exp, cosh and their like differ between libraries.
CLOSE = 1e-14


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_equal_on_a_grid(sigmoid, bounds, margin):
    values = (0.01, 0.1, 0.5, 0.9) + ((0.0,) if sigmoid in ZERO_ALLOWED else ())
    for value in values:
        options = {"margin": margin, "sigmoid": sigmoid, "value_at_margin": value}
        with np.errstate(all="ignore"):  # theirs evaluates both sides of every bound
            theirs = rewards.tolerance(X, bounds, **options)
        ours = tolerance(torch.from_numpy(X), bounds, **options)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE)


@settings(max_examples=300, deadline=None)
@given(
    x=st.floats(-1e6, 1e6),
    ends=st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)).map(sorted),
    margin=st.floats(0, 1e3).filter(lambda margin: margin == 0 or margin > 1e-6),
    value=st.floats(0.001, 0.999),
    sigmoid=st.sampled_from(sorted(SIGMOIDS)),
)
def test_equal_anywhere_and_between_0_and_1(x, ends, margin, value, sigmoid):
    options = {"margin": margin, "sigmoid": sigmoid, "value_at_margin": value}
    with np.errstate(all="ignore"):
        theirs = rewards.tolerance(x, tuple(ends), **options)
    ours = tolerance(torch.tensor([x], dtype=torch.float64), tuple(ends), **options).item()
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert 0 <= ours <= 1


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_the_margin_is_where_the_value_is(sigmoid):
    x = torch.tensor([[-2.0, 3.0], [0.0, 1.0]], dtype=torch.float64)
    worth = tolerance(x, (0, 1), margin=2, sigmoid=sigmoid, value_at_margin=0.3)
    torch.testing.assert_close(worth, torch.tensor([[0.3, 0.3], [1, 1]], dtype=torch.float64))


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_precision_and_missing_numbers_are_kept(sigmoid):
    x = torch.tensor([0.0, 0.5], dtype=torch.float32)
    assert tolerance(x, margin=1, sigmoid=sigmoid).dtype == torch.float32
    assert tolerance(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": (2, 1)}, "lower"),
        ({"bounds": (math.nan, 1)}, "lower"),
        ({"margin": -1}, "negative"),
        ({"margin": 1, "sigmoid": "gausian"}, 'Did you mean "gaussian"'),
        ({"margin": 1, "value_at_margin": 0}, "above 0"),
        ({"margin": 1, "value_at_margin": 1, "sigmoid": "linear"}, "0 or more"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        tolerance(torch.zeros(1), **options)
