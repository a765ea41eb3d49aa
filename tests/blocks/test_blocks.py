"""Blocks with leading axes equal the same networks one by one."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rlsuite.blocks.heads import GaussianActor, ScalarCritic
from rlsuite.blocks.mlp import MLP, Dropout, LayerNorm, Linear, TanhGELU, product
from rlsuite.blocks.networks import NetShape


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("lead", [(2,), (3, 2)])
@pytest.mark.parametrize("norm", [False, True])
def test_stacked_networks_equal_single_ones(lead, norm):
    stacked = MLP(5, (7, 6), 3, lead=lead, layer_norm=norm, activation="gelu", generator=generator())
    with torch.no_grad():  # norms start alike: make them differ
        for p in stacked.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator(1)))
    x = torch.randn(*lead, 9, 5, generator=generator(2))
    expected = torch.empty(*lead, 9, 3)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in lead)).reshape(-1, len(lead)).tolist():
        single = MLP(5, (7, 6), 3, layer_norm=norm, activation="gelu")
        for mine, theirs in zip(single.parameters(), stacked.parameters(), strict=True):
            mine.data.copy_(theirs[tuple(index)])
        expected[tuple(index)] = single(x[tuple(index)])
    torch.testing.assert_close(stacked(x), expected, rtol=1e-5, atol=1e-6)


def test_a_shared_input_reaches_every_member():
    layer = Linear(4, 3, lead=(2,), generator=generator())
    x = torch.randn(5, 4, generator=generator(1))
    assert layer(x).shape == (2, 5, 3)
    torch.testing.assert_close(layer(x)[1], x @ layer.weight[1].T + layer.bias[1])


@pytest.fixture
def tracing(monkeypatch):
    """Takes the branch of compiled updates, eagerly."""
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)


@pytest.mark.parametrize("lead", [(2,), (3, 2)])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_of_stacked_weights_lie_as_the_weights_do(tracing, lead, shared):
    drawn = generator()
    weight = torch.randn(*lead, 4, 5, dtype=torch.float64, generator=drawn, requires_grad=True)
    shape = () if shared else lead
    x = torch.randn(*shape, 6, 5, dtype=torch.float64, generator=drawn, requires_grad=True)
    upstream = torch.randn(*lead, 6, 4, dtype=torch.float64, generator=drawn)
    torch.testing.assert_close(product(x, weight), x @ weight.mT, rtol=0, atol=1e-13)
    ours = torch.autograd.grad(product(x, weight), (x, weight), upstream)
    theirs = torch.autograd.grad(x @ weight.mT, (x, weight), upstream)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    assert ours[1].is_contiguous()
    assert torch.autograd.gradgradcheck(product, (x, weight))


def test_products_of_stacked_networks_know_of_autocast(tracing):
    weight, x = torch.randn(2, 4, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = product(x, weight)
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
    assert weight.grad.dtype == x.grad.dtype == torch.float32


def test_initialisation_is_that_of_torch():
    layer = Linear(100, 400, lead=(3,), generator=generator())
    plain = nn.Linear(100, 400)
    bound = 1 / math.sqrt(100)
    for tensor in (layer.weight, layer.bias, plain.weight, plain.bias):
        assert tensor.abs().max().item() <= bound
        assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not torch.equal(layer.weight[0], layer.weight[1])


def test_layer_norm_equals_torch():
    mine, theirs = LayerNorm(6), nn.LayerNorm(6)
    x = torch.randn(4, 6, generator=generator())
    torch.testing.assert_close(mine(x), theirs(x))


def test_dropout_is_inverted_repeatable_and_off_in_evaluation():
    layer = Dropout(0.25, generator())
    x = torch.ones(100_000)
    y = layer(x)
    assert y.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(Dropout(0.25, generator())(x), y)
    assert torch.equal(layer.eval()(x), x)
    with pytest.raises(ValueError, match=r"1\.0"):
        Dropout(1.0)


def test_actor_clamps_its_log_std():
    actor = GaussianActor(3, 2, NetShape(hidden=(8,), generator=generator()), log_std_range=(-20.0, 0.5))
    out = actor(1e6 * torch.randn(50, 3, generator=generator(1)))
    assert out.std.max().item() == pytest.approx(math.exp(0.5))
    assert out.std.min() >= math.exp(-20) * 0.999


def test_critic_shapes():
    critic = ScalarCritic(3, 2, NetShape(hidden=(8,), lead=(4,), generator=generator()), members=2)
    assert critic(torch.zeros(4, 6, 3), torch.zeros(4, 6, 2)).shape == (4, 2, 6)


def test_gelu_by_tanh_is_torchs_in_eager_and_compiled_form(monkeypatch):
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64, requires_grad=True)
    true = torch.nn.functional.gelu(x, approximate="tanh")
    (slope,) = torch.autograd.grad(true.sum(), x)
    assert torch.equal(TanhGELU()(x), true)
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    form = TanhGELU()(x)
    assert_close(form, true, rtol=0, atol=1e-14)
    assert_close(torch.autograd.grad(form.sum(), x)[0], slope, rtol=0, atol=1e-14)
