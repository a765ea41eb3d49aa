"""Row 20: in other people's networks a reset changes the units it names, and not one bit of anything else."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strangers import (
    NETWORKS,
    OPTIMIZERS,
    check,
    entries,
    image,
    perceptron,
    residual,
    stacked,
    total,
    trained,
)
from torch import nn

from rlsuite.blocks.heads import GaussianActor
from rlsuite.blocks.networks import NetShape
from rlsuite.errors import ConfigError
from rlsuite.plugins.grama import GraMa
from rlsuite.plugins.neurons.chains import chain
from rlsuite.plugins.redo import BRO_SCHEDULE, ReDo, due, full_reset, shrink_and_perturb


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_rows_columns_and_moments_change_and_nothing_else(network, optimizer, count):
    module, opt, example, chains = trained(NETWORKS[network], OPTIMIZERS[optimizer])
    reset = GraMa(tau=0.7, generator=torch.Generator().manual_seed(3)).attach(module, opt, example=example)
    before = entries(module, opt)
    masks = {key: found.inactive for key, found in reset.reset().items()}
    assert any(mask.any() and not mask.all() for mask in masks.values()), (
        "a test that resets nothing shows nothing"
    )
    check(chains, masks, before, entries(module, opt))
    count("resets of strangers' networks, every entry checked")


@pytest.mark.parametrize("network", ["relu", "residual", "group norm, conv", "twins of three seeds"])
def test_redo_touches_what_it_may(network, count):
    module, opt, example, chains = trained(NETWORKS[network], OPTIMIZERS["adam"])
    reset = ReDo(tau=0.9, generator=torch.Generator().manual_seed(3)).attach(module, opt, example=example)
    module(*example)
    before = entries(module, opt)
    masks = {key: found.inactive for key, found in reset.reset().items()}
    assert any(mask.any() for mask in masks.values())
    check(chains, masks, before, entries(module, opt), initialiser="xavier", kept_moments=True)
    count("resets of strangers' networks, every entry checked")


def test_redo_sets_biases_to_zero_and_keeps_their_moments():
    module, opt, example, _ = trained(NETWORKS["relu"], OPTIMIZERS["adam"])
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
    module, opt, *_ = trained(NETWORKS["relu"], OPTIMIZERS["adam"])
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


WIDTHS = st.lists(st.integers(2, 6), min_size=1, max_size=3)
ARCHITECTURES = st.one_of(
    st.builds(
        lambda widths, activation, norm, biases: lambda: perceptron(
            widths, activation, norm, biases[: len(widths)]
        ),
        WIDTHS,
        st.sampled_from([nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.Softplus, nn.GELU, nn.Hardswish]),
        st.sampled_from([None, nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d]),
        st.lists(st.booleans(), min_size=3, max_size=3),
    ),
    st.builds(
        lambda channels, norm, bias, width: lambda: image(channels, norm, bias, width),
        st.lists(st.integers(1, 4), min_size=1, max_size=2),
        st.sampled_from([None, nn.BatchNorm2d, lambda made: nn.GroupNorm(made, made)]),
        st.booleans(),
        st.integers(2, 5),
    ),
    st.builds(lambda widths, bias: lambda: residual(widths, bias), WIDTHS, st.booleans()),
    st.builds(
        lambda members, widths, bias: lambda: stacked(members, widths, bias),
        st.integers(1, 3), WIDTHS, st.booleans(),
    ),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(ARCHITECTURES, st.sampled_from(sorted(OPTIMIZERS)), st.floats(0.1, 1.5), st.integers(0, 99))
def test_random_networks(network, optimizer, tau, seed):
    module, opt, example, chains = trained(network, OPTIMIZERS[optimizer], steps=2)
    source = torch.Generator().manual_seed(seed)
    reset = GraMa(tau=tau, generator=source).attach(module, opt, example=example)
    before = entries(module, opt)
    masks = {key: found.inactive for key, found in reset.reset().items()}
    check(chains, masks, before, entries(module, opt))


@settings(max_examples=40, deadline=None)
@given(
    ARCHITECTURES, st.sampled_from(["adam", "sgd"]), st.floats(0.1, 1.5), st.integers(0, 2**20), st.booleans()
)
def test_no_frozen_parameter_changes_by_a_bit(network, optimizer, tau, seed, later):
    """Frozen before the reset is attached, or afterwards; biases, scales, readers and whole layers."""
    module, opt, example, chains = trained(network, OPTIMIZERS[optimizer], steps=1)
    parameters = dict(module.named_parameters())
    pick = torch.Generator().manual_seed(seed)
    frozen = {name for name in parameters if torch.rand((), generator=pick) < 0.4}
    live = [each.weight for each in chains if each.weight not in frozen]
    if not live:
        return
    reset = GraMa(tau=tau, generator=torch.Generator().manual_seed(seed))
    if later:
        reset.attach(module, opt, example=example)
    for name in frozen:
        parameters[name].requires_grad_(False)
    if not later:
        layers = [name.removesuffix(".weight") for name in live]
        reset.attach(module, opt, example=example, layers=layers)
    before = entries(module, opt)
    scores = reset.reset()
    after = entries(module, opt)
    for name in frozen:
        for key, value in before.items():
            assert key[0] != name or torch.equal(after[key], value), key
    for name in live:
        assert scores[name.removesuffix(".weight")].inactive.any() == (
            not torch.equal(before[name, "value"], after[name, "value"])
        )


def test_one_seed_feels_nothing_of_another():
    """Seed 1 of a batch of two is reset bit for bit as it is alone, from its own stream."""

    def run(seeds):
        lead = (len(seeds),) if len(seeds) > 1 else ()
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        inits = [torch.Generator().manual_seed(100 + seed) for seed in seeds]
        rows = torch.stack(
            [torch.randn(16, 3, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )
        shape = NetShape(hidden=(6, 5), lead=lead, generator=tuple(inits) if lead else inits[0])
        actor = GaussianActor(3, 2, shape, log_std_range=(-5, 2))
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


class Halves(torch.optim.SGD):
    """An optimiser of nobody's, with one number for every row of a bias."""

    def step(self, closure=None):
        """Leave a state that has no entry for each weight."""
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["rows"] = torch.ones(len(parameter), 1)


def test_moments_that_cannot_be_told_apart(count):
    """Known kinds are refused at attach, others before the first write; without moments both do."""
    module, opt, *_ = trained(NETWORKS["relu"], OPTIMIZERS["adam"])
    for kind in (torch.optim.Adafactor, torch.optim.LBFGS):
        with pytest.raises(ConfigError, match="reset_moments=False"):
            GraMa(tau=0.9).attach(module, kind(module.parameters()))
        assert GraMa(tau=0.9, reset_moments=False).attach(module, kind(module.parameters())).reset()
    reset, opt = GraMa(tau=0.9), Halves(module.parameters())
    reset.attach(module, opt)
    opt.step()
    total(module(torch.randn(8, 3))).backward()
    before = entries(module, opt)
    with pytest.raises(ConfigError, match=r'"rows" of shape \[6, 1\].*reset_moments=False'):
        reset.reset()
    after = entries(module, opt)
    assert all(torch.equal(after[key], old) for key, old in before.items())
    assert not reset.resets["0"].any()
    with pytest.raises(ConfigError, match='"rows"'):
        GraMa().attach(module, opt)
    count("strangers' networks refused", 3)


class OneStep(torch.optim.Optimizer):
    """Adam's state as some optimisers keep it: one step count for all parameters."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1e-2})
        self.count = torch.zeros(())

    def step(self, closure=None):
        """Make the state; moves nothing."""
        self.count += 1
        for parameter in self.param_groups[0]["params"]:
            moments = {key: torch.ones_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            self.state[parameter] = {"step": self.count, **moments}


def test_a_step_count_that_all_parameters_share_is_not_reset(count):
    """Refused in one line that names the flag, at attach or before the first write; else it stays."""
    module = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    opt = OneStep(module.parameters())
    reset = GraMa(tau=0.9, reset_step=True).attach(module, opt)  # no state yet
    total(module(torch.randn(16, 3))).backward()
    opt.step()
    before = entries(module, opt)
    with pytest.raises(ConfigError, match=r"OneStep has one step count.*--grama\.reset-step"):
        reset.reset()
    after = entries(module, opt)
    assert all(torch.equal(after[key], old) for key, old in before.items())
    with pytest.raises(ConfigError, match=r"--redo\.reset-step"):
        ReDo(reset_step=True).attach(module, opt)
    mask = GraMa(tau=0.9).attach(module, opt).reset()["0"].inactive
    assert mask.any()
    state = opt.state[module[0].weight]
    assert state["step"] is opt.count
    assert opt.count == 1
    assert not state["exp_avg"][mask].any()
    assert state["exp_avg"][~mask].all()
    count("strangers' networks refused", 2)


def test_a_step_count_of_shape_one_is_no_moment_of_a_layer_of_one_unit():
    """A bias of one unit has the shape of a step count that is kept as a vector."""
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 1))
    opt = torch.optim.Adam(module.parameters(), lr=1e-2)
    total(module(torch.randn(16, 3))).backward()
    opt.step()
    for state in opt.state.values():
        state["step"] = state["step"].view(1)
    GraMa(tau=2.0).attach(module, opt).reset()
    assert all(state["step"] == 1 for state in opt.state.values())


def test_streams_that_do_not_fit_are_refused_at_attach():
    module, *_ = NETWORKS["relu"]()
    with pytest.raises(ConfigError, match="2 random streams"):
        GraMa(generator=(torch.Generator(), torch.Generator())).attach(module)


def test_written_down_chains_are_those_found():
    module, *_ = NETWORKS["norms"]()
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
