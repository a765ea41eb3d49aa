"""What the trace finds in networks of many kinds, and what it refuses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from rlsuite.errors import ConfigError
from rlsuite.plugins.grama import GraMa
from rlsuite.plugins.neurons.chains import chain
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


def readers_of(module, *example):
    """By layer: (readers with first column and repeat, shared)."""
    chains = find_chains(module, example or (X,))
    return {
        each.name: (
            [(r.layer.name.removesuffix(".weight"), r.start, r.repeat) for r in each.readers],
            each.shared,
        )
        for each in chains
    }


def test_functional_style_and_methods():
    net = Net(
        lambda self, x: self.c(torch.tanh(self.b(F.elu(self.a(x)).mul(2).clamp(-1, 1)))).exp(),
        a=nn.Linear(3, 5), b=nn.Linear(5, 4), c=nn.Linear(4, 2),
    )  # fmt: skip
    assert readers_of(net) == {"a": ([("b", 0, 1)], False), "b": ([("c", 0, 1)], False)}


def test_concatenation_moves_columns():
    net = Net(
        lambda self, x, y: self.c(torch.cat((x, self.a(x).relu(), self.b(y).relu()), -1)),
        a=nn.Linear(3, 5), b=nn.Linear(2, 4), c=nn.Linear(12, 2),
    )  # fmt: skip
    assert readers_of(net, X, X[:, :2]) == {"a": ([("c", 3, 1)], False), "b": ([("c", 8, 1)], False)}


def test_a_skip_from_the_input_makes_units_shared():
    net = Net(lambda self, x: self.b(x + self.a(x).relu()), a=nn.Linear(3, 3), b=nn.Linear(3, 2))
    assert readers_of(net) == {"a": ([], True)}


def test_several_readers_and_several_heads():
    net = Net(
        lambda self, x: (self.v(h := self.a(x).relu()), self.p(h).log_softmax(-1)),
        a=nn.Linear(3, 5), v=nn.Linear(5, 1), p=nn.Linear(5, 2),
    )  # fmt: skip
    assert readers_of(net) == {"a": ([("v", 0, 1), ("p", 0, 1)], False)}


def test_duelling_heads_are_no_hidden_layers():
    net = Net(
        lambda self, x: self.v(h := self.a(x).relu()) + self.p(h) - self.p(h).mean(-1, keepdim=True),
        a=nn.Linear(3, 5), v=nn.Linear(5, 1), p=nn.Linear(5, 2),
    )  # fmt: skip
    assert set(readers_of(net)) == {"a"}


def test_pooling_means_and_permutations_of_images():
    net = Net(
        lambda self, x: self.d(F.adaptive_avg_pool2d(self.b(self.a(x).relu()).relu(), 2).flatten(1)),
        a=nn.Conv2d(1, 3, 3), b=nn.Conv2d(3, 4, 3), d=nn.Linear(16, 2),
    )  # fmt: skip
    image = torch.randn(2, 1, 9, 9)
    assert readers_of(net, image) == {"a": ([("b", 0, 1)], False), "b": ([("d", 0, 4)], False)}
    net.function = lambda self, x: self.e(self.b(self.a(x).relu()).relu().mean((2, 3)))
    net.e = nn.Linear(4, 2)
    assert readers_of(net, image)["b"] == ([("e", 0, 1)], False)
    net.function = lambda self, x: self.e(self.b(self.a(x).relu()).relu().permute(0, 2, 3, 1))
    assert readers_of(net, image)["b"] == ([("e", 0, 1)], False)


def test_products_in_either_layout():
    net = nn.ParameterDict({"w": torch.randn(2, 3, 5), "b": torch.randn(2, 1, 5), "v": torch.randn(2, 4, 5)})
    holder = Net(
        lambda self, x: torch.einsum("ebi,eoi->ebo", (x @ self.p["w"] + self.p["b"]).relu(), self.p["v"]),
        p=net,
    )
    (layer,) = find_chains(holder, (X,))
    assert layer.producer.lead == (2,)
    assert layer.producer.units == 5
    assert layer.bias is net["b"]
    assert layer.readers[0].layer.inputs == 5
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
    "units that are sorted": (
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


ORDER = torch.tensor([3, 1, 2, 0, 7, 6, 5, 4])


def written(h, place):
    """Units written into a tensor of zeros, at `place`."""
    out = torch.zeros(h.shape)
    out[place] = h
    return out


def written_through_a_view(h):
    out = torch.zeros(h.shape)
    out[:, :8].copy_(h.flip(-1))
    return out


def by_rows(h):
    return torch.stack([row.flip(0) for row in h])


@torch.jit.script
def scripted(h):
    return h.flip(-1)


# Of eight units h and a constant [8, 8]: results of the same shape in which column i is not unit i.
LOSING = {
    "product with a constant": lambda h, w: h @ w,
    "linear with a constant": F.linear,
    "batched product": lambda h, w: torch.bmm(h[None], w[None])[0],
    "einsum": lambda h, w: torch.einsum("bi,ij->bj", h, w),
    "distances": torch.cdist,
    "spectrum": lambda h, w: torch.fft.fft(h).real,
    "flip": lambda h, w: h.flip(-1),
    "roll": lambda h, w: h.roll(1, -1),
    "sort": lambda h, w: h.sort(-1)[0],
    "sums": lambda h, w: h.cumsum(-1),
    "gather": lambda h, w: h.gather(-1, ORDER.expand(8, 8)),
    "index_select": lambda h, w: h.index_select(-1, ORDER),
    "index by a tensor": lambda h, w: h[:, ORDER],
    "index by a list": lambda h, w: h[:, ORDER.tolist()],
    "scatter": lambda h, w: torch.zeros(8, 8).scatter(-1, ORDER.expand(8, 8), h),
    "index_add": lambda h, w: torch.zeros(8, 8).index_add_(1, ORDER, h),
    "index_put": lambda h, w: torch.zeros(8, 8).index_put((ORDER,), h.T).T,
    "written by an index": lambda h, w: written(h, (slice(None), ORDER)),
    "written into a slice": lambda h, w: written(h, (slice(None), slice(None))),
    "written through a view": lambda h, w: written_through_a_view(h),
    "rows one by one": lambda h, w: by_rows(h),
    "transposed": lambda h, w: h.T,
    "transposed in place": lambda h, w: h.transpose_(0, 1),
    "reshaped across the batch": lambda h, w: h.T.reshape(2, 4, 8).transpose(0, 1).reshape(8, 8),
    "times its transpose": lambda h, w: h * h.T,
    "added to itself flipped": lambda h, w: h + h.flip(-1),
    "attention": lambda h, w: F.scaled_dot_product_attention(h[None], h[None], h[None])[0],
    "convolution over units": lambda h, w: F.conv1d(h[:, None], w[:1, None, :3], padding=1)[:, 0],
    "pooling over units": lambda h, w: F.max_pool1d(h[None], 3, 1, 1)[0],
    "shifted by padding": lambda h, w: F.pad(h, (1, -1)),
    "triangle": lambda h, w: h.tril(),
    "scripted": lambda h, w: scripted(h),
    "through Python": lambda h, w: torch.tensor(h.tolist()),
    "mapped": lambda h, w: torch.vmap(lambda row: row.flip(0))(h),
}


@pytest.mark.parametrize("name", LOSING)
def test_units_that_lose_their_columns_are_refused(name):
    change = LOSING[name]
    net = Net(lambda self, x: self.b(change(self.a(x), self.w)), a=nn.Linear(3, 8), b=nn.Linear(8, 2))
    net.register_buffer("w", torch.randn(8, 8))
    with pytest.raises(ConfigError, match=r"b\.weight reads|leave torch"):
        find_chains(net, (torch.randn(8, 3),))


class Swish(torch.autograd.Function):
    """An activation with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return x * torch.sigmoid(x)


def rms_norm(h):
    return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)


KEEPING = {
    "piecewise": lambda h: torch.where(h > 0, h, 0.1 * h) - torch.maximum(-h, torch.zeros_like(h)) ** 2,
    "gelu by hand": lambda h: 0.5 * h * (1 + torch.tanh(0.797 * (h + 0.0447 * h**3))),
    "tanh by hand": lambda h: 2 / (1 + torch.exp(-2 * h)) - 1,
    "in place": lambda h: h.clamp_(min=0).mul_(2),
    "own gradient": Swish.apply,
    "softmax": lambda h: h.softmax(-1),
    "norm by hand": rms_norm,
    "there and back": lambda h: h.view(2, 4, 8).permute(2, 0, 1).flatten(1).T[:, None].squeeze(1),
    "rows one by one": lambda h: torch.stack([row.relu() for row in h]),
    "split over the batch": lambda h: torch.cat(h.split(3)),
    "gated by data": lambda h: h * torch.rand(8, 8),
    "dropout by hand": lambda h: torch.where(torch.rand(8, 8) < 0.5, h, 0.0),
}


@pytest.mark.parametrize("name", KEEPING)
def test_activations_of_ones_own_are_followed(name):
    change = KEEPING[name]
    net = Net(lambda self, x: self.b(change(self.a(x))), a=nn.Linear(3, 8), b=nn.Linear(8, 2))
    assert readers_of(net, torch.randn(8, 3)) == {"a": ([("b", 0, 1)], False)}


def test_copies_of_units_are_all_its_columns():
    net = Net(
        lambda self, x: self.b(self.a(x).repeat_interleave(2, -1)), a=nn.Linear(3, 4), b=nn.Linear(8, 2)
    )
    assert readers_of(net) == {"a": ([("b", 0, 2)], False)}


def test_transposed_convolutions_are_layers():
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3)
    )
    image = torch.randn(2, 1, 9, 9)
    assert readers_of(net, image) == {"0": ([("2", 0, 1)], False), "2": ([("4", 0, 1)], False)}
    layer = chain(net, "2", ["4"]).producer
    assert (layer.out_axis, layer.in_axis) == (-3, -4)
    net[2] = nn.ConvTranspose2d(8, 8, 3, padding=1, groups=2)
    with pytest.raises(ConfigError, match="2 groups"):
        find_chains(net, (image,))


def test_a_layer_called_on_several_layers_units_owns_no_columns_of_either():
    net = Net(
        lambda self, x: self.c(self.a(x).relu()) + self.c(self.b(x).relu()),
        a=nn.Linear(3, 5), b=nn.Linear(3, 5), c=nn.Linear(5, 1),
    )  # fmt: skip
    assert readers_of(net) == {"a": ([], True), "b": ([], True)}
    net.function = lambda self, x: self.c(self.a(x)) + self.c(self.a(-x).relu())
    assert readers_of(net) == {"a": ([("c", 0, 1)], False)}


def test_a_scale_on_another_axis_belongs_to_no_unit():
    net = nn.Sequential(nn.Conv2d(1, 9, 3, padding=1), nn.LayerNorm(9), nn.Flatten(), nn.Linear(729, 1))
    (layer,) = find_chains(net, (torch.randn(2, 1, 9, 9),))
    assert layer.gains == ()
    assert (layer.readers[0].start, layer.readers[0].repeat) == (0, 81)


def test_data_where_units_could_be_makes_them_shared():
    net = Net(
        lambda self, x: self.b(torch.where(x[:, :1] > 0, self.a(x), torch.ones(4, 4))),
        a=nn.Linear(3, 4), b=nn.Linear(4, 2),
    )  # fmt: skip
    assert readers_of(net) == {"a": ([], True)}


def test_a_layer_called_again_shares_the_columns_that_change_hands_and_no_others():
    def refined(self, x):
        y = x.new_zeros(len(x), 2)
        for _ in range(2):  # b's units are read beside data first, then beside c's sum
            y = y + self.c(torch.cat((x, y, self.b(self.a(x).relu())), -1).tanh())
        return y

    net = Net(refined, a=nn.Linear(3, 5), b=nn.Linear(5, 4), c=nn.Linear(9, 2))
    assert readers_of(net) == {"a": ([("b", 0, 1)], False), "b": ([("c", 5, 1)], False)}
    net = Net(
        lambda self, x: self.c(self.a(x).relu()) + self.c(self.b(x).relu()) + self.c(x[:, :1].expand(-1, 4)),
        a=nn.Linear(3, 4), b=nn.Linear(3, 4), c=nn.Linear(4, 1),
    )  # fmt: skip
    assert readers_of(net) == {"a": ([], True), "b": ([], True)}


def test_weights_that_two_products_use_in_two_ways():
    net = Net(
        lambda self, x: self.b(F.linear(self.c(self.a(x)), self.c.weight.t())),
        a=nn.Linear(3, 4), b=nn.Linear(4, 2), c=nn.Linear(4, 5),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="as it is and turned"):
        find_chains(net, (X,))
    net.function = lambda self, x: self.b(torch.addmm(self.a(x), x, self.w))
    net.w = nn.Parameter(torch.randn(3, 4))
    with pytest.raises(ConfigError, match="no parameter"):
        find_chains(net, (X,))
    net.function = lambda self, x: F.linear(self.a(x), self.d.weight[[1, 0]])
    net.d = nn.Linear(4, 2)
    with pytest.raises(ConfigError, match="after __getitem__"):
        find_chains(net, (X,))


def test_a_named_layer_that_cannot_be_reset_is_refused_with_the_reason():
    net = nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(ConfigError, match=r"through glu\. Name the layers to be reset: layers=\['2'\]"):
        GraMa().attach(net)
    with pytest.raises(ConfigError, match=r"0 cannot be reset: 2\.weight reads 0.*there are 2"):
        GraMa().attach(net, layers=["0", "2"])
    assert set(GraMa().attach(net, layers=["2"]).chains) == {"2"}


def test_a_unit_that_is_lost_in_one_branch_is_lost():
    net = Net(
        lambda self, x: self.b(F.glu(h := self.a(x))) + self.c(h),
        a=nn.Linear(3, 8), b=nn.Linear(4, 2), c=nn.Linear(8, 2),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="a cannot be reset"):
        find_chains(net, (X,), layers=["a"])


def test_the_rest_of_such_a_network_can_be_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 8), nn.GLU(), nn.Linear(4, 1))
    assert set(GraMa().attach(net, layers=["0"]).chains) == {"0"}
    with pytest.raises(ConfigError, match="no hidden layer"):
        GraMa().attach(net, layers=["nought"])


def test_a_module_without_hidden_layers_or_without_a_known_input():
    with pytest.raises(ConfigError, match="no hidden layer"):
        GraMa().attach(nn.Linear(3, 2))
    with pytest.raises(ConfigError, match=r"2\.weight, 2\.bias have no shape yet"):
        GraMa().attach(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.LazyLinear(2)))
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
