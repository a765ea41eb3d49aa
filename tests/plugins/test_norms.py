"""GraMa behind norms: dead units are seen, as the released code and ReDo see them."""

import pytest
import torch
from faults.strangers import NETWORKS, image, perceptron, residual
from torch import nn

from rlsuite.blocks.heads import FlooredGaussianCritic, GaussianActor
from rlsuite.blocks.mlp import MLP
from rlsuite.blocks.networks import NetShape, network
from rlsuite.plugins.grama import GraMa
from rlsuite.plugins.redo import ReDo

WIDTH, INPUTS = 64, 20
MODES = ("weight", "preact")


def torch_norms():
    layers = [nn.Linear(INPUTS, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU()]
    layers += [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 3))


BEHIND_NORMS = {  # network, and the producers whose units are made dead
    "torch's LayerNorm": (torch_norms, ("0", "3")),
    "our LayerNorm": (lambda: MLP(INPUTS, (WIDTH, WIDTH), 3, layer_norm=True), ("0", "3")),
    "BroNet": (lambda: network("bronet", INPUTS, (WIDTH,) * 3, 3), ("blocks.0.0", "blocks.1.0")),
}


def kill(reset, names, dead):
    """Move what feeds the activations so far down that a ReLU is never above zero."""
    with torch.no_grad():
        for name in names:
            chain = reset.chains[name]
            (chain.shifts[0] if chain.shifts else chain.bias)[..., :dead] = -10 if chain.shifts else -1000


def backward(net, *example):
    output = net(*example)
    leaves = output if isinstance(output, tuple) else (output,)
    sum((leaf - torch.randn_like(leaf)).square().mean() for leaf in leaves).backward()


@pytest.mark.parametrize("dead", [6, 32])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BEHIND_NORMS)
def test_dead_units_behind_a_norm(name, mode, dead):
    torch.manual_seed(0)
    make, layers = BEHIND_NORMS[name]
    net = make()
    exact, usual = GraMa(tau=0, mode=mode).attach(net), GraMa(mode=mode).attach(net)
    redo, blind = ReDo(tau=0).attach(net), GraMa(mode=mode, norms=False).attach(net)
    kill(exact, layers, dead)
    backward(net, torch.randn(256, INPUTS))
    planted = torch.arange(WIDTH) < dead
    for layer in layers:
        assert torch.equal(exact.report()[layer].inactive, planted)
        assert torch.equal(redo.report()[layer].inactive, planted)
        flagged = usual.report()[layer].inactive
        assert flagged[:dead].all()
        assert flagged[dead:].sum() <= 5  # live ones whose samples cancel
        assert not blind.report()[layer].inactive.any()


def test_they_are_seen_after_training_as_well():
    torch.manual_seed(0)
    net = torch_norms()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    reset = GraMa().attach(net, optimizer)
    kill(reset, ("0", "3"), 6)
    x, y = torch.randn(256, INPUTS), torch.randn(256, 3)

    def update():
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()

    for _ in range(100):
        update()
    assert all(layer.inactive[:6].all() for layer in reset.report().values())
    reset.reset()
    assert torch.equal(net[1].weight[:6], torch.ones(6))
    assert not net[1].bias[:6].any()
    assert not optimizer.state[net[1].weight]["exp_avg"][:6].any()
    for _ in range(2):  # the first moves what reads them
        update()
    assert all((layer.score[:6] > 0).all() for layer in reset.report().values())


def released(gradient, tau):
    """Flag units as the authors' code does, each weight and each norm's scale by itself."""
    raw = gradient.abs().flatten(1).mean(1) if gradient.dim() > 1 else gradient.abs()
    return raw / (raw.mean() + 1e-9) <= tau


@pytest.mark.parametrize("seed", range(20))
def test_masks_are_those_of_the_released_code(seed):
    torch.manual_seed(seed)
    layers, inputs = [], 7
    for width in torch.randint(8, 33, (1 + seed % 3,)).tolist():
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), (nn.ReLU, nn.Tanh, nn.GELU)[seed % 3]()]
        inputs = width
    net = nn.Sequential(*layers, nn.Linear(inputs, 2))
    for norm in net[1:-1:3]:
        nn.init.normal_(norm.bias, std=3.0)  # some units are often dead, or saturated
    tau = (0.05, 0.2, 0.5, 0.9)[seed % 4]
    reset = GraMa(tau=tau).attach(net)
    backward(net, torch.randn(32, 7))
    by_norm = 0
    for at, layer in enumerate(net[:-1:3]):
        linear, norm = released(layer.weight.grad, tau), released(net[3 * at + 1].weight.grad, tau)
        assert torch.equal(reset.report()[str(3 * at)].inactive, linear | norm)
        by_norm += int((norm & ~linear).sum())
    assert by_norm or tau < 0.2  # a test in which the scale says nothing new shows nothing


def stac(lead):
    critic = FlooredGaussianCritic(3, 2, NetShape(hidden=(16, 16), layer_norm=True, lead=lead), members=1)
    return critic, (torch.randn(*lead, 32, 3), torch.randn(*lead, 32, 2))


def ours(name):
    return lambda: (network(name, 3, (8, 8, 8), 2), (torch.randn(32, 3),))


RELU_NETWORKS = {
    "perceptron": lambda: perceptron((8, 8))[:2],
    "without biases": lambda: perceptron((8, 8), biases=[True, False])[:2],
    "LayerNorm": lambda: perceptron((8, 8), norm=nn.LayerNorm)[:2],
    "RMSNorm": lambda: perceptron((8, 8), norm=nn.RMSNorm)[:2],
    "BatchNorm": lambda: perceptron((8, 8), norm=nn.BatchNorm1d)[:2],
    "convolutions": lambda: image((6, 6))[:2],
    "convolutions, BatchNorm": lambda: image((6, 6), nn.BatchNorm2d)[:2],
    "convolutions, GroupNorm": lambda: image((6, 6), lambda made: nn.GroupNorm(2, made))[:2],
    "transposed convolutions": lambda: NETWORKS["transposed conv"]()[:2],
    "residual": lambda: residual((8, 8))[:2],
    "BroNet": ours("bronet"),
    "SimBa": ours("simba"),
    "multi-skip": ours("multiskip"),
    "denoiser": ours("denoiser"),
    "STAC's critic": lambda: stac(()),
    "STAC's critic, three seeds": lambda: stac((3,)),
    "actor with norms": lambda: (
        GaussianActor(3, 2, NetShape(hidden=(8, 8), layer_norm=True), log_std_range=(-5, 2)),
        (torch.randn(32, 3),),
    ),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RELU_NETWORKS)
def test_what_redo_scores_zero_scores_zero(name, mode):
    torch.manual_seed(1)
    net, example = RELU_NETWORKS[name]()
    resets = [GraMa(tau=0, mode=mode).attach(net, example=example), ReDo(tau=0).attach(net, example=example)]
    killed = [key for key, chain in resets[0].chains.items() if chain.shifts or chain.bias is not None]
    kill(resets[0], killed, 2)
    backward(net, *example)
    by_gradient, by_activation = (reset.report() for reset in resets)
    zeros = 0
    for key, layer in by_activation.items():
        assert not (layer.inactive & ~by_gradient[key].inactive).any(), key
        zeros += int(layer.inactive.sum())
    assert zeros >= 2


def test_a_layer_without_gradient_at_its_scale_is_scored_by_its_weight():
    torch.manual_seed(0)
    net = torch_norms()
    net[1].weight.requires_grad_(False)
    reset, old = GraMa(tau=0.7).attach(net), GraMa(tau=0.7, norms=False).attach(net)
    backward(net, torch.randn(64, INPUTS))
    assert torch.equal(reset.report()["0"].score, old.report()["0"].score)
    assert not torch.equal(reset.report()["3"].score, old.report()["3"].score)


def test_forgetting_drops_the_gradients_of_scales_too():
    net = torch_norms()
    reset = GraMa().attach(net)
    backward(net, torch.randn(8, INPUTS))
    reset.forget()
    assert net[1].weight.grad is None
    assert not reset.report()
