"""What our networks say of their hidden layers is what the trace finds; ties and frozen parameters."""

import importlib
import inspect

import pytest
import torch
from agents.helpers import small_agent
from torch import nn

from rlsuite.blocks import heads
from rlsuite.blocks.chains import hidden_layers
from rlsuite.blocks.convolution import ConvTrunk
from rlsuite.blocks.networks import NETWORKS, RESIDUAL, NetShape, network
from rlsuite.errors import ConfigError
from rlsuite.plugins.grama import GraMa
from rlsuite.plugins.neurons.chains import chain
from rlsuite.plugins.neurons.parts import written_chains
from rlsuite.plugins.neurons.tracing import find_chains
from rlsuite.plugins.redo import ReDo

LEADS = [(), (2,), (3, 2)]
DEPTHS = [(8,), (8, 8), (8, 8, 8)]


def names(net, chains):
    """Chains by name: everything that a reset touches, and in which order."""
    known = {id(p): name for name, p in net.named_parameters()}

    def called(*parameters):
        return tuple(None if p is None else known[id(p)] for p in parameters)

    return [
        (
            each.producer.name,
            (each.producer.out_axis, each.producer.in_axis, each.producer.lead),
            called(each.bias),
            called(*each.gains),
            called(*each.shifts),
            [(r.layer.name, r.layer.out_axis, r.start, r.repeat, r.module) for r in each.readers],
            each.shared,
            each.module,
        )
        for each in chains
    ]


def assert_equal(net, *example):
    """Structure is equal, and so are activations, wherever they are seen."""
    written, traced = written_chains(net), find_chains(net, example)
    assert names(net, written) == names(net, traced)
    net.train()
    resets = [ReDo().attach(net, chains=chains) for chains in (written, traced)]
    output = net(*example)
    leaves = output if isinstance(output, tuple) else (output,)
    sum(leaf.sum() for leaf in leaves).backward()
    scores = [reset.report() for reset in resets]
    assert list(scores[0]) == list(scores[1])
    for key, layer in scores[0].items():
        assert torch.equal(layer.score, scores[1][key].score), key


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("hidden", DEPTHS, ids=str)
@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("name", [*NETWORKS, "mlp, norms"])
def test_every_network_knows_its_hidden_layers(name, lead, hidden, dropout):
    norms = {"layer_norm": True} if name == "mlp, norms" else {}
    net = network(name.split(",")[0], 4, hidden, 2, lead=lead, dropout=dropout, **norms)
    assert_equal(net, torch.randn(*lead, 6, 4))


HEADS = [each for _, each in inspect.getmembers(heads, inspect.isclass) if each.__module__ == heads.__name__]
HEADS = [each for each in HEADS if issubclass(each, nn.Module) and not each.__name__.startswith("_")]


@pytest.mark.parametrize("lead", LEADS[:2], ids=str)
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_every_actor_and_critic_knows_its_hidden_layers(head, lead):
    needed = inspect.signature(head.__init__).parameters
    shape, fields = NetShape(hidden=(8, 8), lead=lead), {}
    sizes, example = (4, shape), (torch.randn(*lead, 6, 4),)
    if "action" in needed:
        sizes = (4, 3, shape)
    if "log_std_range" in needed:
        fields["log_std_range"] = (-5, 2)
    if "quantiles" in needed:
        fields["quantiles"] = 5
    if "members" in needed:
        fields["members"] = 2
        example = (*example, *([torch.randn(*lead, 6, 3)] if "action" in needed else []))
    assert_equal(head(*sizes, **fields), *example)
    if head is heads.ValueNetwork:
        assert_equal(head(*sizes), *example)


def test_networks_of_others_are_traced():
    class Own(heads.ValueNetwork):
        """A stranger's subclass: who knows what its forward does."""

    for net in (
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)),
        Own(3, NetShape(hidden=(4,))),
        ConvTrunk((4, 4, 1), (8,), 2),
    ):
        assert hidden_layers(net) is None
        assert written_chains(net) is None


@pytest.mark.parametrize("agent", ["sac", "td3", "dsac_t", "stac", "iql", "bc", "td3_bc", "odice", "recoil"])
def test_the_plug_in_never_traces_an_agent_of_ours(agent, monkeypatch):
    tracing = importlib.import_module("rlsuite.plugins.neurons.tracing")
    monkeypatch.setattr(tracing, "find_chains", lambda *args: pytest.fail("traced"))
    plugin = importlib.import_module("rlsuite.plugins.grama")
    made = small_agent(agent, hidden=(8, 8))
    resets = plugin.GraMaPlugin(plugin.GraMaConfig(), made, torch.Generator()).resets
    assert all(reset.chains for reset in resets.values())


def test_a_network_without_hidden_layers_is_refused_as_the_trace_refuses_it():
    net = network("mlp", 3, (), 2)
    assert written_chains(net) == ()
    with pytest.raises(ConfigError, match="no hidden layer"):
        GraMa().attach(net, chains=written_chains(net))


def test_what_a_shared_activation_adds_to_the_stream_is_seen_before_it_is_called_again():
    """BroNet's stem and blocks share one ReLU: its last call is a block's."""
    torch.manual_seed(0)
    net = network("bronet", 4, (8, 8, 8), 1)
    x = torch.randn(16, 4)
    reset = ReDo().attach(net)
    net(x)
    expected = net.act(net.stem_norm(net.stem(x))).abs().mean(0)
    torch.testing.assert_close(reset.report()["stem"].score, expected / expected.mean())


def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU())
    net.append(nn.Linear(3, 1))
    net[2].weight = net[0].weight
    return net


def test_tied_weights_are_refused_by_name():
    net = tied()
    with pytest.raises(ConfigError, match=r"0\.weight and 2\.weight are one tensor.*layers=\['4'\]"):
        GraMa().attach(net)
    with pytest.raises(ConfigError, match=r"0 cannot be reset: 0\.weight and 2\.weight are one tensor"):
        GraMa().attach(net, layers=["0"])
    assert set(GraMa().attach(net, layers=["4"]).chains) == {"4"}
    with pytest.raises(ConfigError, match=r"0\.weight and 2\.weight are one tensor"):
        GraMa().attach(net, chains=[chain(net, "0", ["2"])])


def test_a_reader_that_is_tied_to_another_layer_is_refused():
    """As in language models: the head's weight is the embedding's."""
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 9))
    net[4].weight = net[0].weight
    x = torch.randint(9, (8,))
    with pytest.raises(ConfigError, match=r"3 cannot be reset: 0\.weight and 4\.weight are one tensor"):
        GraMa().attach(net, example=(x,), layers=["3"])
    assert set(GraMa().attach(net, example=(x,), layers=["1"]).chains) == {"1"}


def test_a_module_with_two_names_is_no_tie():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    net.first = net[0]
    holder = nn.ModuleDict({"body": net, "again": net[0]})
    holder.forward = lambda x: net[:3](x)
    assert set(GraMa().attach(holder, example=(torch.randn(2, 3),)).chains) == {"body.0"}


def test_frozen_readers_keep_their_columns():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    net[2].requires_grad_(False)
    optimizer = torch.optim.Adam(net[0].parameters(), lr=1e-2)
    reset = GraMa(tau=0.9).attach(net, optimizer)
    assert "2 (frozen: not cut)" in reset.summary()
    head = [p.detach().clone() for p in net[2].parameters()]
    net(torch.randn(16, 3)).square().mean().backward()
    optimizer.step()
    before = net[0].weight.detach().clone()
    mask = reset.reset()["0"].inactive
    assert mask.any()
    assert torch.equal((net[0].weight != before).any(-1), mask)
    assert all(torch.equal(p, old) for p, old in zip(net[2].parameters(), head, strict=True))


def test_what_is_frozen_after_attaching_is_left_alone():
    """As loops do that switch a critic's gradients off while the actor learns."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    reset = GraMa(tau=0.9).attach(net)
    net(torch.randn(16, 3)).square().mean().backward()
    net.requires_grad_(False)
    before = [p.detach().clone() for p in net.parameters()]
    assert reset.reset()["0"].inactive.any()
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    assert not reset.resets["0"].any()


def test_residual_networks_are_those_with_streams():
    for name in NETWORKS:
        shared = any(each.shared for each in written_chains(network(name, 4, (8, 8), 2)))
        assert shared == (name in RESIDUAL)
