"""Networks of unit norm: their numbers, their statistics, their independence, and what brings them back."""

import math

import pytest
import torch

from rlsuite.blocks.normed import (
    SHIFT,
    BatchNorm,
    FlashTrunk,
    HyperTrunk,
    RMSNorm,
    UnitLinear,
    UnitShape,
    project,
    unit,
)
from rlsuite.blocks.unit_heads import CategoricalCritic, UnitActor, UnitGaussianCritic, half

pytestmark = pytest.mark.usefixtures("float64")


def t(*values):
    return torch.tensor(values)


def numbers(tensor):
    return tensor.detach().flatten().tolist()


def set_to(parameter, *values):
    with torch.no_grad():
        parameter.copy_(torch.tensor(values).view_as(parameter))


def test_projection_brings_rows_gains_and_shifts_to_their_norm():
    layer, norm, rms = UnitLinear(2, 2, bias=True), BatchNorm(2, unit_norm=True), RMSNorm(2)
    set_to(layer.weight, 3.0, 4.0, 0.0, 0.5)
    set_to(layer.bias, 7.0, 8.0)
    set_to(norm.weight, 1.0, 2.0)
    set_to(norm.bias, 0.0, 2.0)
    set_to(rms.weight, 3.0, 4.0)
    project(torch.nn.ModuleList([layer, norm, rms]))
    assert numbers(layer.weight) == pytest.approx([0.6, 0.8, 0, 1], abs=2e-8)
    assert numbers(layer.bias) == [7, 8]
    assert numbers(norm.weight) == pytest.approx([0.4714045205, 0.9428090411], abs=1e-9)
    assert numbers(norm.bias) == pytest.approx([0, 0.9428090411], abs=1e-9)
    assert numbers(rms.weight) == pytest.approx([0.8485281374, 1.1313708499], abs=1e-9)
    free = BatchNorm(2)
    set_to(free.weight, 1.0, 2.0)
    project(free)
    assert numbers(free.weight) == [1, 2]  # XQC's


def test_projection_leaves_what_no_step_moved():
    layer = UnitLinear(3, 2)
    before = layer.weight.detach().clone() * 2
    with torch.no_grad():
        layer.weight.mul_(2)
    project(layer, t(math.nan))
    assert torch.equal(layer.weight, before)
    project(layer, t(1.0))
    torch.testing.assert_close(layer.weight.norm(dim=-1), torch.ones(2), rtol=0, atol=1e-7)


def test_batch_norm_sees_the_mixture_and_keeps_its_running_statistics():
    both, alone = t(0.0, 2.0, 10.0, 12.0)[:, None], t(0.0, 2.0)[:, None]
    norm = BatchNorm(1)
    assert numbers(norm(both, "batch")) == pytest.approx(
        [-1.1766965845, -0.7844643897, 0.7844643897, 1.1766965845], abs=1e-9
    )
    assert numbers(norm(alone, "batch")) == pytest.approx([-0.999995, 0.999995], abs=1e-7)
    assert numbers(norm(both)) == pytest.approx(numbers(both), rel=1e-5)  # statistics of nothing yet
    norm(both, "learn")
    assert norm.mean.item() == pytest.approx(0.06)
    assert norm.var.item() == pytest.approx(1.3366666667)


@pytest.mark.parametrize("lead", [(), (2,), (3, 2)])
def test_batch_norm_is_torchs_of_every_network(lead):
    g = torch.Generator().manual_seed(0)
    norm = BatchNorm(5, lead=lead)
    with torch.no_grad():
        norm.weight.normal_(generator=g)
        norm.bias.normal_(generator=g)
    x = torch.randn(*lead, 16, 5, generator=g) * 3 + 1
    weights = torch.randn(*lead, 16, 5, generator=g)
    x.requires_grad_()
    y = norm(x, "learn")
    (y * weights).sum().backward()
    for place in torch.cartesian_prod(*map(torch.arange, lead)).view(-1, len(lead)) if lead else [()]:
        at = tuple(int(p) for p in place)
        plain = torch.nn.BatchNorm1d(5, momentum=0.01)
        plain.weight.data.copy_(norm.weight[at])
        plain.bias.data.copy_(norm.bias[at])
        rows = x.detach()[at].requires_grad_()
        expected = plain(rows)
        (expected * weights[at]).sum().backward()
        torch.testing.assert_close(y[at], expected)
        torch.testing.assert_close(x.grad[at], rows.grad)
        torch.testing.assert_close(norm.weight.grad[at], plain.weight.grad)
        torch.testing.assert_close(norm.mean[at], plain.running_mean)
        torch.testing.assert_close(norm.var[at], plain.running_var)
        torch.testing.assert_close(norm(x)[at], plain.eval()(rows))


def test_a_batch_that_is_not_finite_moves_no_statistics():
    norm = BatchNorm(2, lead=(2,))
    x = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0))
    x[0, 3, 1] = math.inf
    norm(x, "learn")
    assert numbers(norm.mean[0]) == [0, 0] and numbers(norm.var[0]) == [1, 1]
    assert (norm.mean[1] != 0).all()


def test_simbav2s_normalisations():
    shifted = torch.cat((t(1.0, 2.0), t(SHIFT)))
    assert numbers(unit(shifted)) == pytest.approx([0.2672612419, 0.5345224838, 0.8017837257], abs=1e-8)
    x, y = t(1.0, 0.0), t(0.0, 1.0)
    assert numbers(unit(x + (y - x) / 3)) == pytest.approx([0.894427191, 0.4472135955], abs=1e-8)
    trunk = HyperTrunk(3, (8, 8, 8), 2, lead=(), generator=None)
    share = trunk.steps[0](torch.ones(1, 8))
    assert numbers(share) == pytest.approx([1 / 3] * 8)  # 1 / (blocks + 1)
    assert numbers(trunk.stem_scale.weight) == pytest.approx([0.5] * 8)  # sqrt(2 / 8)
    assert numbers(trunk.scales[0].weight) == pytest.approx([0.25] * 32)  # sqrt(2 / 32)


def trainable(module):
    return sum(p.numel() for p in module.parameters())


def test_networks_have_the_authors_sizes():
    """Trainable numbers of a critic and of the actor at 17 observations and 6 actions."""
    sizes = (
        ("flash", (256,) * 3, (128,) * 3, 1_085_843, 268_590),
        ("flash", (128,) * 3, (64,) * 3, 280_851, 68_782),  # the preset narrow
        ("xqc", (512,) * 4, (256,) * 4, 854_163, 206_126),
        ("simbav2", (512,) * 3, (128,) * 2, 4_526_693, 168_716),
    )
    for name, wide, narrow, critic, actor in sizes:
        made = CategoricalCritic(
            17, 6, UnitShape(hidden=wide, trunk_name=name), members=1, atoms=101, bound=5.0
        )
        assert trainable(made) == critic
        assert trainable(UnitActor(17, 6, UnitShape(hidden=narrow, trunk_name=name))) == actor


@pytest.mark.parametrize("name", ["flash", "xqc", "simbav2"])
def test_every_row_begins_with_norm_one(name):
    network = UnitShape(hidden=(8, 8), trunk_name=name, lead=(2,)).trunk(5, 3, members=(2,))
    layers = [layer for layer in network.modules() if isinstance(layer, UnitLinear)]
    assert len(layers) >= 3
    for layer in layers:
        torch.testing.assert_close(layer.weight.norm(dim=-1), torch.ones(layer.weight.shape[:-1]))


def test_halves_are_the_halves_of_one_pass():
    critic = UnitGaussianCritic(4, 2, UnitShape(hidden=(8, 8)), members=2)
    s, a = torch.randn(10, 4), torch.randn(10, 2)
    whole = critic(s, a, "batch")
    assert torch.equal(critic(s, a, "batch", "second").mean, whole.mean[:, 5:])
    assert half(s, "first").shape == (5, 4)
    spread = UnitGaussianCritic(4, 2, UnitShape(hidden=(8, 8), trunk_name="simbav2"), members=2)
    for made in (critic, spread):
        head = (made.trunk.heads[0] if hasattr(made.trunk, "heads") else made.trunk.head).bias
        assert numbers(head[:, 1]) == pytest.approx([-2.2521684610] * 2)


def test_the_actors_log_std():
    actor = UnitActor(4, 1, UnitShape(hidden=(8, 8)))
    rows = torch.randn(3, 4)
    with torch.no_grad():
        actor.trunk.head.weight.zero_()
    for raw, expected in ((-1.0, -8.5695649357), (0.0, -4.0), (0.5, -1.2272970564), (1.0, 0.5695649357)):
        set_to(actor.trunk.head.bias, 0.0, raw)
        assert numbers(actor(rows).std.log()) == pytest.approx([expected] * 3)
    clamped = UnitActor(4, 1, UnitShape(hidden=(8, 8)), std="clamp")
    with torch.no_grad():
        clamped.trunk.head.weight.zero_()
    for raw, expected in ((-20.0, -10.0), (0.5, 0.5), (3.0, 2.0)):
        set_to(clamped.trunk.head.bias, 0.0, raw)
        assert numbers(clamped(rows).std.log()) == pytest.approx([expected] * 3)


def test_layer_norms_leave_inputs_as_they_are_and_have_no_statistics():
    trunk = FlashTrunk(3, (8, 8), 2, norm="layer", lead=(), generator=torch.Generator().manual_seed(0))
    assert not list(trunk.buffers())
    x = torch.randn(6, 3)
    torch.testing.assert_close(trunk(x)[:2], trunk(x[:2]))
