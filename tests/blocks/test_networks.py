"""Residual networks and the denoiser: their papers' numbers, and independence of leading axes."""

import pytest
import torch
from agents.helpers import random_batch, small_agent, with_field

from rlsuite.blocks.networks import NETWORKS, RESIDUAL, Denoiser, MultiSkip, network
from rlsuite.errors import ConfigError
from rlsuite.plugins.grama import GraMa
from rlsuite.registry import agent_class
from rlsuite.strict import from_mapping


def zero_blocks(net):
    """Blocks that add nothing, a stem that repeats its input, and an end that changes nothing."""
    with torch.no_grad():
        for parameter in net.blocks.parameters():
            parameter.zero_()
    net.stem_norm = net.last = net.head = torch.nn.Identity()
    net.stem = torch.nn.Identity()
    return net


def test_the_stem_reaches_every_block():
    net = zero_blocks(MultiSkip(3, (3,) * 6, 3))
    x = torch.ones(1, 3, requires_grad=True)
    y = net(x)
    torch.testing.assert_close(y, torch.full((1, 3), 6.0))
    torch.testing.assert_close(torch.autograd.functional.jacobian(net, x)[0, :, 0], 6 * torch.eye(3))


@pytest.mark.parametrize(
    ("depth", "plain", "residual", "multiskip"), [(3, -0.125, 0.125, 1.875), (5, None, None, 1.96875)]
)
def test_scalar_chain(depth, plain, residual, multiskip):
    a = -0.5
    if plain is not None:
        assert a**depth == plain
        assert (1 + a) ** depth == residual
    m = 1.0
    for _ in range(depth):
        m = (1 + a) * m + 1
    assert m == multiskip


@pytest.mark.parametrize(
    ("width", "counts"), [(512, (2_394_624, 3_445_248, 4_495_872)), (1536, (11_902_464,))]
)
def test_parameters_of_the_plain_trunk(width, counts):
    for layers, count in zip((4, 8, 12), counts, strict=False):
        with torch.device("meta"):
            net = network("mlp", 3136, (width,) * layers, 1)
        assert sum(p.numel() for p in net.parameters()) - 1 == count  # the paper leaves the last bias out


@pytest.mark.parametrize("name", NETWORKS)
def test_leading_axes_are_independent(name):
    torch.manual_seed(0)
    net = network(name, 4, (8, 8, 8), 2, lead=(3, 2))
    x = torch.randn(3, 1, 5, 4)
    y = net(x)
    assert y.shape == (3, 2, 5, 2)
    y[1, 0].square().sum().backward()
    for parameter in net.parameters():
        others = parameter.grad.clone()
        others[1, 0] = 0
        assert not others.any()
    single = network(name, 4, (8, 8, 8), 2)
    single.load_state_dict({key: value[2, 1] for key, value in net.state_dict().items()})
    torch.testing.assert_close(single(x[2, 0]), y[2, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RESIDUAL)
def test_gradients_reach_the_stem_through_many_blocks(name):
    torch.manual_seed(0)
    net = network(name, 4, (16,) * 9, 1)
    net(torch.randn(8, 4)).sum().backward()
    stem = net.stem.weight.grad.norm()
    assert stem > 0.01 * net.blocks[-1].get_submodule("1").weight.grad.norm()


def test_the_denoiser_refines_step_by_step():
    torch.manual_seed(0)
    net = Denoiser(3, (8,), 2, steps=3)
    x = torch.randn(5, 3)
    y = torch.zeros(5, 2)
    for step in (2, 1, 0):
        time = net.time(net.embedding[step : step + 1]).expand(5, -1)
        y = y + net.net(torch.cat((x, y, time), -1)) / 3
    torch.testing.assert_close(net(x), y)


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "mlp"])
@pytest.mark.parametrize("agent", with_field("network"))
def test_every_agent_learns_with_every_network(agent, name, lead):
    seed = (0, 1) if lead else 0
    own = small_agent(agent, seed=seed, lead=lead, hidden=(8, 8), network=name)
    before = [p.detach().clone() for p in own.critic.parameters()]
    for update in range(2):
        metrics = own.update(random_batch(rows=8, lead=lead, seed=update))
    assert all(value.isfinite().all() for value in metrics.values())
    assert any(not torch.equal(p, b) for p, b in zip(own.critic.parameters(), before, strict=True))
    assert own.policy(random_batch(rows=8, lead=lead))["action"].shape == (*lead, 8, 2)


def test_resets_leave_residual_streams_whole():
    net = network("bronet", 4, (8, 8, 8), 1)
    chains = GraMa().attach(net).chains
    shared = {name for name, chain in chains.items() if chain.shared}
    assert shared == {"stem", "blocks.0.3", "blocks.1.3"}
    assert not any(chains[name].readers for name in shared)
    assert all(chain.gains for chain in chains.values())
    denoiser = GraMa().attach(network("denoiser", 4, (8, 8), 1), example=(torch.zeros(2, 4),)).chains
    assert {"net.0", "net.2", "time.0"} <= set(denoiser)
    assert "net.4" not in denoiser  # the head, although it feeds back


@pytest.mark.parametrize("name", RESIDUAL)
def test_widths_that_cannot_be_added(name):
    with pytest.raises(ConfigError, match="one width"):
        from_mapping(agent_class("sac").Config, {"network": name, "hidden": [8, 16]}, "here")
