"""Row 20: in other people's networks a reset changes the units it names, and not one bit of anything else."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rlsuite.blocks.heads import GaussianActor, GaussianCritic
from rlsuite.errors import ConfigError
from rlsuite.plugins.grama import GraMa
from rlsuite.plugins.neurons.chains import chain
from rlsuite.plugins.redo import BRO_SCHEDULE, ReDo, due, full_reset, shrink_and_perturb

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "foreach": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9, centered=True),
}


class Residual(nn.Module):
    """A stem, one block with norms that adds to the stream, and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Linear(3, 6), nn.LayerNorm(6)
        self.one, self.one_norm = nn.Linear(6, 5), nn.LayerNorm(5)
        self.two, self.two_norm = nn.Linear(5, 6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        stream = self.stem_norm(self.stem(x)).relu()
        inner = self.one_norm(self.one(stream)).relu()
        return self.head(stream + self.two_norm(self.two(inner)))


class Stacked(nn.Module):
    """Four networks as bare parameters, weights `[E, in, out]`."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.randn(4, 3, 7) * 0.5)
        self.first_bias = nn.Parameter(torch.zeros(4, 1, 7))
        self.last = nn.Parameter(torch.randn(4, 7, 2) * 0.4)

    def forward(self, x):
        return torch.baddbmm(self.first_bias, x.expand(4, *x.shape), self.first).tanh() @ self.last


def flat(*layers):
    return nn.Sequential(*layers), (torch.randn(8, 3),)


NETWORKS = {
    "relu": lambda: flat(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)),
    "no bias": lambda: flat(
        nn.Linear(3, 6, bias=False), nn.SiLU(), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 2)
    ),
    "norms": lambda: flat(
        nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4), nn.RMSNorm(4), nn.Linear(4, 1)
    ),
    "batch norm": lambda: flat(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ELU(), nn.Linear(6, 2)),
    "group norm, conv": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(12, 5), nn.PReLU(), nn.Linear(5, 2),
        ),
        (torch.randn(8, 2, 8, 8),),
    ),
    "conv1d": lambda: (
        nn.Sequential(nn.Conv1d(2, 4, 3, bias=False), nn.Mish(), nn.Flatten(), nn.Linear(24, 2)),
        (torch.randn(8, 2, 8),),
    ),
    "residual": lambda: (Residual(), (torch.randn(8, 3),)),
    "stacked parameters": lambda: (Stacked(), (torch.randn(8, 3),)),
    "twins of ours": lambda: (
        GaussianCritic(3, 2, (6, 5), members=2, activation="gelu", layer_norm=True),
        (torch.randn(8, 3), torch.randn(8, 2)),
    ),
    "twins of three seeds": lambda: (
        GaussianCritic(3, 2, (6, 5), members=2, activation="relu", lead=(3,), layer_norm=True),
        (torch.randn(3, 8, 3), torch.randn(3, 8, 2)),
    ),
}  # fmt: skip


def total(output):
    leaves = output if isinstance(output, tuple) else (output,)
    return sum((leaf - 1).square().mean() for leaf in leaves)


def trained(network, optimizer, steps=3):
    """A network with moments and a gradient."""
    torch.manual_seed(0)
    module, example = network()
    opt = optimizer(module.parameters())
    for _ in range(steps):
        opt.zero_grad()
        total(module(*example)).backward()
        opt.step()
    return module, opt, example


def entries(module, opt):
    """Every number a reset might touch, by parameter and kind."""
    found = {}
    for name, parameter in module.named_parameters():
        found[name, "value"] = parameter.detach().clone()
        found[name, "grad"] = parameter.grad.clone()
        for key, value in opt.state[parameter].items():
            if isinstance(value, torch.Tensor):
                found[name, key] = value.clone()
    return found


def touched(chains, masks, module):
    """By parameter: which entries a reset may change, written down independently of the code under test."""
    allowed = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in module.named_parameters()}
    names = {id(p): name for name, p in module.named_parameters()}
    for key, own in chains.items():
        mask, weight = masks[key], own.producer.weight
        for index in mask.nonzero().tolist():
            *lead, unit = index
            allowed[names[id(weight)]][tuple(lead)].select(own.producer.out_axis, unit).fill_(True)
            for vector in (own.bias, *own.gains, *own.shifts):
                if vector is not None:
                    allowed[names[id(vector)]].view(mask.shape)[tuple(index)] = True
            for reader in own.readers:
                place = allowed[names[id(reader.layer.weight)]][tuple(lead)]
                first = reader.start + unit * reader.repeat
                place.narrow(reader.layer.in_axis, first, reader.repeat).fill_(True)
    return allowed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_rows_columns_and_moments_change_and_nothing_else(network, optimizer, count):
    module, opt, example = trained(NETWORKS[network], OPTIMIZERS[optimizer])
    reset = GraMa(tau=0.7, generator=torch.Generator().manual_seed(3)).attach(module, opt, example=example)
    before = entries(module, opt)
    found = reset.reset()
    after = entries(module, opt)
    masks = {key: own.inactive for key, own in found.items()}
    assert any(mask.any() and not mask.all() for mask in masks.values()), (
        "a test that resets nothing shows nothing"
    )
    allowed = touched(reset.chains, masks, module)
    for (name, kind), old in before.items():
        new = after[name, kind]
        if kind == "step":
            assert torch.equal(new, old)
            continue
        assert torch.equal(new[~allowed[name]], old[~allowed[name]]), (name, kind)
        if kind != "value":
            assert not new[allowed[name]].any(), (name, kind)
    for key, own in reset.chains.items():
        name = own.producer.name
        axis = own.producer.weight.dim() + own.producer.out_axis - len(own.producer.lead)
        rows = before[name, "value"].movedim(axis + len(own.producer.lead), len(own.producer.lead))
        fresh = after[name, "value"].movedim(axis + len(own.producer.lead), len(own.producer.lead))
        assert (rows != fresh).flatten(len(own.producer.lead) + 1).any(-1)[masks[key]].all()
        for gain in own.gains:
            assert (gain.view(masks[key].shape)[masks[key]] == 1).all()
        for reader in own.readers:
            assert (reader.layer.weight.abs().sum() > 0).item()
    count("resets of strangers' networks, every entry checked")


@pytest.mark.parametrize("network", ["relu", "residual", "group norm, conv", "twins of three seeds"])
def test_redo_touches_what_it_may(network, count):
    module, opt, example = trained(NETWORKS[network], OPTIMIZERS["adam"])
    reset = ReDo(tau=0.9, generator=torch.Generator().manual_seed(3)).attach(module, opt, example=example)
    module(*example)
    before = entries(module, opt)
    masks = {key: own.inactive for key, own in reset.reset().items()}
    assert any(mask.any() for mask in masks.values())
    allowed = touched(reset.chains, masks, module)
    after = entries(module, opt)
    biases = {name for name, _ in before if name.endswith("bias")}
    for (name, kind), old in before.items():
        new = after[name, kind]
        if kind == "step":
            assert torch.equal(new, old)
            continue
        assert torch.equal(new[~allowed[name]], old[~allowed[name]]), (name, kind)
        if name in biases and kind.startswith("exp_avg") and "norm" not in name:
            continue  # biases keep their moments where they are a layer's
        if kind.startswith("exp_avg"):
            assert not new[allowed[name]].any()
    count("resets of strangers' networks, every entry checked")


def test_redo_sets_biases_to_zero_and_keeps_their_moments():
    module, opt, example = trained(NETWORKS["relu"], OPTIMIZERS["adam"])
    reset = ReDo(tau=0.9).attach(module, opt, example=example)
    module(*example)
    moments = opt.state[module[0].bias]["exp_avg"].clone()
    mask = reset.reset()["0"].inactive
    assert mask.any()
    assert not module[0].bias[mask].any()
    assert torch.equal(opt.state[module[0].bias]["exp_avg"], moments)
    assert module[0].weight.abs().max() <= math.sqrt(6 / (3 + 6)) + 0.6


@pytest.mark.parametrize("outgoing", ["keep", "small"])
def test_other_ways_with_outgoing_weights(outgoing):
    module, opt, _ = trained(NETWORKS["relu"], OPTIMIZERS["adam"])
    reset = GraMa(tau=0.7, outgoing=outgoing).attach(module, opt)
    before = module[4].weight.detach().clone()
    mask = reset.reset()["2"].inactive
    assert mask.any()
    columns = module[4].weight.norm(dim=0)
    if outgoing == "keep":
        assert torch.equal(module[4].weight, before)
    else:
        live = before.norm(dim=0)[~mask].nanmedian()
        torch.testing.assert_close(columns[mask], (0.1 * live).expand(int(mask.sum())))
        assert torch.equal(module[4].weight[:, ~mask], before[:, ~mask])


@settings(max_examples=20, deadline=None)
@given(
    widths=st.lists(st.integers(2, 6), min_size=1, max_size=3),
    activation=st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.Softplus]),
    norm=st.booleans(),
    bias=st.booleans(),
    tau=st.floats(0.1, 1.5),
    seed=st.integers(0, 99),
)
def test_random_networks(widths, activation, norm, bias, tau, seed):
    torch.manual_seed(seed)
    layers, inputs = [], 3
    for width in widths:
        layers += [
            nn.Linear(inputs, width, bias=bias),
            *([nn.LayerNorm(width)] if norm else []),
            activation(),
        ]
        inputs = width
    module = nn.Sequential(*layers, nn.Linear(inputs, 2))
    opt = torch.optim.Adam(module.parameters())
    total(module(torch.randn(8, 3))).backward()
    opt.step()
    reset = GraMa(tau=tau).attach(module, opt)
    assert len(reset.chains) == len(widths)
    before = entries(module, opt)
    masks = {key: own.inactive for key, own in reset.reset().items()}
    allowed = touched(reset.chains, masks, module)
    after = entries(module, opt)
    for key, old in before.items():
        if key[1] != "step":
            assert torch.equal(after[key][~allowed[key[0]]], old[~allowed[key[0]]])


def test_one_seed_feels_nothing_of_another():
    """Seed 1 of a batch of two is reset bit for bit as it is alone, from its own stream."""

    def run(seeds):
        lead = (len(seeds),) if len(seeds) > 1 else ()
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        inits = [torch.Generator().manual_seed(100 + seed) for seed in seeds]
        rows = torch.stack(
            [torch.randn(16, 3, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        actor = GaussianActor(
            3, 2, (6, 5), log_std_range=(-5, 2), activation="relu", lead=lead,
            generator=tuple(inits) if lead else inits[0],
        )  # fmt: skip
        x = rows if lead else rows[0]
        gaussian = actor(x)
        loss = (gaussian.mean - 1).square().mean((-2, -1)) + gaussian.std.square().mean((-2, -1))
        loss.sum().backward()
        reset = GraMa(tau=0.7, generator=tuple(sources) if lead else sources[0]).attach(actor, example=(x,))
        found = reset.reset()
        assert any(own.inactive.any() for own in found.values())
        return {name: p.detach() for name, p in actor.named_parameters()}

    together, alone, other = run((0, 1)), run((1,)), run((2, 1))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name][1], tensor)
        assert torch.equal(together[name][1], other[name][1])


def test_functional_stacks_of_torch_func(count):
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1)) for _ in range(4)]
    stacked, _ = torch.func.stack_module_state(models)
    opt = torch.optim.Adam(stacked.values())
    base = copy.deepcopy(models[0]).to("meta")

    def call(parameters, x):
        return torch.func.functional_call(base, parameters, (x,))

    x = torch.randn(8, 3)
    torch.vmap(call, (0, None))(stacked, x).square().sum().backward()
    opt.step()
    reset = GraMa(tau=0.6).attach(models[0], opt, parameters=stacked)
    before = {name: p.detach().clone() for name, p in stacked.items()}
    mask = reset.reset()["0"].inactive
    assert mask.shape == (4, 6)
    assert mask.any()
    changed = (stacked["0.weight"] != before["0.weight"]).any(-1)
    assert torch.equal(changed, mask)
    assert not opt.state[stacked["0.weight"]]["exp_avg"][mask].any()
    with pytest.raises(ConfigError, match="preact"):
        GraMa(mode="preact").attach(models[0], opt, parameters=stacked)
    count("strangers' networks refused")


def test_one_optimiser_over_several_modules_and_one_reset_over_both():
    torch.manual_seed(0)
    one, two = (NETWORKS["relu"]()[0] for _ in range(2))
    opt = torch.optim.Adam([*one.parameters(), *two.parameters()])
    reset = GraMa(tau=0.7).attach(one, opt, name="one.").attach(two, opt, name="two.")
    x = torch.randn(8, 3)
    (total(one(x)) + total(two(x))).backward()
    opt.step()
    found = reset.reset()
    assert set(found) == {"one.0", "one.2", "two.0", "two.2"}
    for key, module in (("one.0", one), ("two.0", two)):
        assert found[key].inactive.any()
        assert not opt.state[module[0].weight]["exp_avg_sq"][found[key].inactive].any()
    with pytest.raises(ConfigError, match="name="):
        reset.attach(one, opt, name="one.")


def test_moments_that_cannot_be_told_apart(count):
    module, _, _ = trained(NETWORKS["relu"], OPTIMIZERS["adam"])
    opt = torch.optim.Adafactor(module.parameters())
    opt.step()
    with pytest.raises(ConfigError, match="reset_moments=False"):
        GraMa(tau=0.9).attach(module, opt).reset()
    count("strangers' networks refused")


def test_written_down_chains_are_those_found():
    module, _ = NETWORKS["norms"]()
    traced = GraMa().attach(module).chains
    for name, own in {
        "0": chain(module, "0", ["3"], norm="1"),
        "3": chain(module, "3", ["5"], norm="4"),
    }.items():
        assert own.parameters()
        assert [id(p) for p in own.parameters()] == [id(p) for p in traced[name].parameters()]
    with pytest.raises(ConfigError, match="no submodule"):
        chain(module, "7")


def test_shrink_and_perturb_and_full_reset():
    one, two = (NETWORKS["relu"]()[0] for _ in range(2))
    opt = torch.optim.Adam(one.parameters())
    total(one(torch.randn(4, 3))).backward()
    opt.step()
    before = [p.detach().clone() for p in one.parameters()]
    shrink_and_perturb(one.parameters(), two.parameters(), keep=0.75)
    for parameter, old, new in zip(one.parameters(), before, two.parameters(), strict=True):
        torch.testing.assert_close(parameter, 0.75 * old + 0.25 * new)
    assert opt.state
    full_reset(one.parameters(), two.parameters(), [opt])
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert not opt.state
    assert due(BRO_SCHEDULE, 15_000, 15_001)
    assert not due(BRO_SCHEDULE, 15_001, 50_000)
    with pytest.raises(ConfigError, match="keep"):
        shrink_and_perturb([], [], keep=1.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="row 20, GPU part: needs a CUDA device for a graph")
def test_a_captured_step_fires_no_hook_and_is_reported(caplog):
    """What is replayed as a CUDA graph runs no Python: a plug-in that follows its optimiser never sees it."""
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).cuda()
    optimizer = torch.optim.Adam(net.parameters(), capturable=True)
    reset = ReDo(period=2).attach(net, optimizer)
    rows = torch.rand(8, 3, device="cuda")

    def update():
        optimizer.zero_grad(set_to_none=False)
        net(rows).square().mean().backward()
        optimizer.step()

    with torch.cuda.stream(torch.cuda.Stream()):
        update()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    reset.step()  # takes what the hooks have seen so far
    reset.step()
    caplog.clear()
    for _ in range(2):
        graph.replay()
        reset.step()
    assert "no layer has seen a batch" in caplog.text
