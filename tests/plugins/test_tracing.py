"""What the trace finds in networks of many kinds, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from rlsuite.errors import ConfigError
from rlsuite.plugins.grama import GraMa
from rlsuite.plugins.neurons.tracing import find_chains
from rlsuite.plugins.redo import ReDo

X = torch.randn(4, 3)


class Net(nn.Module):
    """Layers by name, and a forward given as a function of (self, *inputs)."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, *inputs):
        return self.function(self, *inputs)


def found(module, *example):
    """By layer: (readers with first column and repeat, shared)."""
    chains = find_chains(module, example or (X,))
    return {
        chain.name: (
            [(r.layer.name.removesuffix(".weight"), r.start, r.repeat) for r in chain.readers],
            chain.shared,
        )
        for chain in chains
    }


def test_functional_style_and_methods():
    net = Net(
        lambda self, x: self.c(torch.tanh(self.b(F.elu(self.a(x)).mul(2).clamp(-1, 1)))).exp(),
        a=nn.Linear(3, 5), b=nn.Linear(5, 4), c=nn.Linear(4, 2),
    )  # fmt: skip
    assert found(net) == {"a": ([("b", 0, 1)], False), "b": ([("c", 0, 1)], False)}


def test_concatenation_moves_columns():
    net = Net(
        lambda self, x, y: self.c(torch.cat((x, self.a(x).relu(), self.b(y).relu()), -1)),
        a=nn.Linear(3, 5), b=nn.Linear(2, 4), c=nn.Linear(12, 2),
    )  # fmt: skip
    assert found(net, X, X[:, :2]) == {"a": ([("c", 3, 1)], False), "b": ([("c", 8, 1)], False)}


def test_a_skip_from_the_input_makes_units_shared():
    net = Net(lambda self, x: self.b(x + self.a(x).relu()), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    assert found(net) == {"a": ([], True)}


def test_several_readers_and_several_heads():
    net = Net(
        lambda self, x: (self.v(h := self.a(x).relu()), self.p(h).log_softmax(-1)),
        a=nn.Linear(3, 5), v=nn.Linear(5, 1), p=nn.Linear(5, 2),
    )  # fmt: skip
    assert found(net) == {"a": ([("v", 0, 1), ("p", 0, 1)], False)}


def test_duelling_heads_are_no_hidden_layers():
    net = Net(
        lambda self, x: self.v(h := self.a(x).relu()) + self.p(h) - self.p(h).mean(-1, keepdim=True),
        a=nn.Linear(3, 5), v=nn.Linear(5, 1), p=nn.Linear(5, 2),
    )  # fmt: skip
    assert set(found(net)) == {"a"}


def test_pooling_means_and_permutations_of_images():
    net = Net(
        lambda self, x: self.d(F.adaptive_avg_pool2d(self.b(self.a(x).relu()).relu(), 2).flatten(1)),
        a=nn.Conv2d(1, 3, 3), b=nn.Conv2d(3, 4, 3), d=nn.Linear(16, 2),
    )  # fmt: skip
    image = torch.randn(2, 1, 9, 9)
    assert found(net, image) == {"a": ([("b", 0, 1)], False), "b": ([("d", 0, 4)], False)}
    net.function = lambda self, x: self.e(self.b(self.a(x).relu()).relu().mean((2, 3)))
    net.e = nn.Linear(4, 2)
    assert found(net, image)["b"] == ([("e", 0, 1)], False)
    net.function = lambda self, x: self.e(self.b(self.a(x).relu()).relu().permute(0, 2, 3, 1))
    assert found(net, image)["b"] == ([("e", 0, 1)], False)


def test_products_in_either_layout():
    net = nn.ParameterDict({"w": torch.randn(2, 3, 5), "b": torch.randn(2, 1, 5), "v": torch.randn(2, 4, 5)})
    holder = Net(
        lambda self, x: torch.einsum("ebi,eoi->ebo", (x @ self.p["w"] + self.p["b"]).relu(), self.p["v"]),
        p=net,
    )
    (chain,) = find_chains(holder, (X,))
    assert chain.producer.lead == (2,)
    assert chain.producer.units == 5
    assert chain.bias is net["b"]
    assert chain.readers[0].layer.inputs == 5
    holder.function = lambda self, x: F.linear((x @ self.p["w"][0]).relu(), self.p["v"][0])
    with pytest.raises(ConfigError, match="not followed"):
        find_chains(holder, (X,))  # slices of a parameter are not that parameter


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attend, self.head = nn.Linear(3, 4), nn.MultiheadAttention(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        h = self.embed(x)
        return self.head(self.attend(h, h, h)[0])


REFUSED = {
    "attention": (Attention(), X),
    "softmax over units that are then sorted": (
        Net(lambda self, x: self.b(self.a(x).sort(-1)[0]), a=nn.Linear(3, 4), b=nn.Linear(4, 1)), X,
    ),
    "weight through a function": (
        Net(lambda self, x: F.linear(self.a(x), self.b.weight.tanh()), a=nn.Linear(3, 4), b=nn.Linear(4, 1)),
        X,
    ),
    "gated halves": (nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 1)), X),
    "grouped convolution": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(36, 1)),
        torch.randn(2, 1, 7, 7),
    ),
    "computed weight": (
        nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 1)
        ),
        X,
    ),
    "recurrent": (
        Net(
            lambda self, x: self.b(self.g(self.a(x))[0]), a=nn.Linear(3, 4), g=nn.GRU(4, 4), b=nn.Linear(4, 1)
        ),
        X,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_at_attach(name):
    module, x = REFUSED[name]
    with pytest.raises(ConfigError, match="layers="):
        GraMa().attach(module, example=(x,))


def test_the_rest_of_such_a_network_can_be_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 8), nn.GLU(), nn.Linear(4, 1))
    assert set(GraMa().attach(net, layers=["0"]).chains) == {"0"}
    with pytest.raises(ConfigError, match="no hidden layer"):
        GraMa().attach(net, layers=["nought"])


def test_a_module_without_hidden_layers_or_without_a_known_input():
    with pytest.raises(ConfigError, match="no hidden layer"):
        GraMa().attach(nn.Linear(3, 2))
    with pytest.raises(ConfigError, match="no weights"):
        GraMa().attach(nn.ReLU())
    two = Net(lambda self, x, y: self.b(self.a(x) * y), a=nn.Linear(3, 4), b=nn.Linear(4, 1))
    with pytest.raises(ConfigError, match="example="):
        GraMa().attach(two)


def test_frozen_layers_and_forgotten_optimisers():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with pytest.raises(ConfigError, match="none of the optimisers"):
        GraMa().attach(net, torch.optim.Adam(net[0].parameters()))
    both = [torch.optim.Adam(net[:2].parameters()), torch.optim.SGD(net[2:].parameters())]
    assert set(GraMa().attach(net, both).chains) == {"0", "2"}
    net[0].requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen"):
        GraMa().attach(net)


def test_activations_that_no_module_shows_are_refused_by_redo():
    net = Net(
        lambda self, x: (x @ self.w).relu() @ self.v,
        w=nn.Parameter(torch.randn(3, 4)),
        v=nn.Parameter(torch.randn(4, 1)),
    )
    with pytest.raises(ConfigError, match="no module"):
        ReDo().attach(net, example=(X,))
    assert set(GraMa().attach(net, example=(X,)).chains) == {"w"}


def test_the_trace_leaves_no_trace():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 1))
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    GraMa().attach(net, example=(X,)).detach()
    GraMa().attach(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in net] == [True, True, False, True, True]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_a_hook_that_never_fires_is_reported(caplog):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    reset = ReDo(period=2).attach(net)
    assert reset.step() is None
    assert reset.step() == {}
    assert "no layer has seen a batch" in caplog.text


def test_following_an_optimiser_and_letting_go():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(net.parameters())
    reset = GraMa(tau=0.9, period=2).attach(net, optimizer).follow(optimizer)
    for _ in range(4):
        net(X).square().mean().backward()
        optimizer.step()
    assert reset.count == 4
    assert reset.resets["0"].item() > 0
    reset.detach()
    optimizer.step()
    assert reset.count == 4
    assert not optimizer._optimizer_step_post_hooks
