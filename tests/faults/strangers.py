"""Networks with their chains written down by hand, and what a reset must leave of every number in them.

Nothing here asks the code under test: neither which layers read a unit, nor within which bounds a fresh
weight lies.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from rlsuite.blocks.heads import GaussianCritic
from rlsuite.blocks.networks import NetShape

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "foreach": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9, centered=True),
}


ONE_AND_ZERO = (("one", 1.0), ("zero", 0.0))  # what a norm's scale and shift become


@dataclass(frozen=True)
class Own:
    """What belongs to the units of one weight: names of parameters, and axes from the end.

    `readers`: (weight, axis of its columns, first column, columns of each unit).
    """

    weight: str
    bias: str | None = None
    norm: str | None = None
    readers: tuple[tuple[str, int, int, int], ...] = ()
    out: int = -2
    inputs: int = -1

    @property
    def norms(self):
        """Names of the norm's scale and shift."""
        return () if self.norm is None else (f"{self.norm}.weight", f"{self.norm}.bias")


def own(name, *readers, bias=True, norm=None, **axes):
    """An `Own` of a torch layer, read from the first column on unless a reader says otherwise."""
    found = tuple((f"{r}.weight", -1, 0, 1) if isinstance(r, str) else r for r in readers)
    return Own(f"{name}.weight", f"{name}.bias" if bias else None, norm, found, **axes)


class Residual(nn.Module):
    """A stem, blocks with norms that add to the stream, and a head."""

    def __init__(self, widths=(5,), stream=6, bias=True):
        super().__init__()
        self.stem, self.stem_norm = nn.Linear(3, stream, bias=bias), nn.LayerNorm(stream)
        self.one = nn.ModuleList(nn.Linear(stream, width, bias=bias) for width in widths)
        self.one_norm = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.two = nn.ModuleList(nn.Linear(width, stream, bias=bias) for width in widths)
        self.two_norm = nn.ModuleList(nn.LayerNorm(stream) for _ in widths)
        self.head = nn.Linear(stream, 2)

    def forward(self, x):
        stream = self.stem_norm(self.stem(x)).relu()
        for one, one_norm, two, two_norm in zip(
            self.one, self.one_norm, self.two, self.two_norm, strict=True
        ):
            stream = stream + two_norm(two(one_norm(one(stream)).relu()))
        return self.head(stream)


def residual(widths=(5,), bias=True):
    """A residual network: whatever is added to the stream has no columns of its own."""
    chains = [own("stem", bias=bias, norm="stem_norm")]
    for i in range(len(widths)):
        chains += [
            own(f"one.{i}", f"two.{i}", bias=bias, norm=f"one_norm.{i}"),
            own(f"two.{i}", bias=bias, norm=f"two_norm.{i}"),
        ]
    return Residual(widths, bias=bias), (torch.randn(8, 3),), chains


class Stacked(nn.Module):
    """Networks as bare parameters, weights `[E, in, out]`."""

    def __init__(self, members=4, widths=(7,), bias=True):
        super().__init__()
        sizes = (3, *widths, 2)
        self.weights = nn.ParameterList(torch.randn(members, one, two) * 0.5 for one, two in pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(members, 1, size) for size in widths if bias)

    def forward(self, x):
        x = x.expand(len(self.weights[0]), *x.shape)
        for i, weight in enumerate(self.weights[:-1]):
            x = torch.baddbmm(self.biases[i], x, weight) if len(self.biases) else x @ weight
            x = x.tanh()
        return x @ self.weights[-1]


def stacked(members=4, widths=(7,), bias=True):
    """An ensemble of bare parameters, whose columns are their second axis from the end."""
    chains = [
        Own(
            f"weights.{i}", f"biases.{i}" if bias else None,
            readers=((f"weights.{i + 1}", -2, 0, 1),), out=-1, inputs=-2,
        )
        for i in range(len(widths))
    ]  # fmt: skip
    return Stacked(members, widths, bias), (torch.randn(8, 3),), chains


def perceptron(widths, activation=nn.ReLU, norm=None, biases=None):
    """A perceptron; `biases` says which of its hidden layers have one."""
    layers, chains, inputs = [], [], 3
    biases = [True] * len(widths) if biases is None else biases
    step = 2 if norm is None else 3
    for i, (width, bias) in enumerate(zip(widths, biases, strict=True)):
        layers += [
            nn.Linear(inputs, width, bias=bias),
            *([] if norm is None else [norm(width)]),
            activation(),
        ]
        behind = None if norm is None else str(step * i + 1)
        chains.append(own(str(step * i), str(step * (i + 1)), bias=bias, norm=behind))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 2)), (torch.randn(8, 3),), chains


def image(channels, norm=None, bias=True, width=5):
    """Convolutions with kernels of 2, one pooling, and a perceptron on the flattened rest."""
    layers, chains, inputs, side, at = [], [], 2, 8, 0
    for i, made in enumerate(channels):
        last = i == len(channels) - 1
        conv, place = nn.Conv2d(inputs, made, 2, bias=bias), at
        normed = [] if norm is None else [norm(made)]
        layers += [conv, *normed, nn.ReLU(), *([nn.MaxPool2d(2)] if not i else [])]
        side = (side - 1) // 2 if not i else side - 1
        at = len(layers)
        behind = None if norm is None else str(place + 1)
        reader = (f"{at + 1}.weight", -1, 0, side * side) if last else (f"{at}.weight", -3, 0, 1)
        chains.append(own(str(place), reader, bias=bias, norm=behind, out=-4, inputs=-3))
        inputs = made
    layers += [nn.Flatten(), nn.Linear(inputs * side * side, width), nn.PReLU(), nn.Linear(width, 2)]
    chains.append(own(str(at + 1), str(at + 3)))
    return nn.Sequential(*layers), (torch.randn(8, 2, 8, 8),), chains


def _twins(lead):
    critic = GaussianCritic(
        3, 2, NetShape(hidden=(6, 5), activation="gelu", layer_norm=True, lead=lead), members=2
    )
    chains = [
        own("trunk.0", "trunk.3", norm="trunk.1"),
        own("trunk.3", "trunk.6", norm="trunk.4"),
    ]
    return critic, (torch.randn(*lead, 8, 3), torch.randn(*lead, 8, 2)), chains


NETWORKS = {
    "relu": lambda: perceptron((6, 5)),
    "no bias": lambda: perceptron((6, 5), nn.SiLU, biases=[False, False]),
    "norms": lambda: (
        nn.Sequential(
            nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4), nn.RMSNorm(4), nn.Linear(4, 1)
        ),
        (torch.randn(8, 3),),
        [own("0", "3", norm="1"), own("3", "5", norm="4")],
    ),
    "batch norm": lambda: perceptron((6,), nn.ELU, nn.BatchNorm1d),
    "group norm, conv": lambda: image((4, 3), lambda made: nn.GroupNorm(1, made)),
    "conv1d": lambda: (
        nn.Sequential(nn.Conv1d(2, 4, 3, bias=False), nn.Mish(), nn.Flatten(), nn.Linear(24, 2)),
        (torch.randn(8, 2, 8),),
        [own("0", ("3.weight", -1, 0, 6), bias=False, out=-3, inputs=-2)],
    ),
    "transposed conv": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 5, 3, padding=1), nn.ReLU(),
            nn.Conv2d(5, 2, 3),
        ),
        (torch.randn(8, 1, 8, 8),),
        [
            own("0", ("2.weight", -4, 0, 1), out=-4, inputs=-3),
            own("2", ("4.weight", -3, 0, 1), out=-3, inputs=-4),
        ],
    ),
    "residual": residual,
    "stacked parameters": stacked,
    "twins of ours": lambda: _twins(()),
    "twins of three seeds": lambda: _twins((3,)),
}  # fmt: skip


def total(output):
    """A loss that reaches every output."""
    leaves = output if isinstance(output, tuple) else (output,)
    return sum((leaf - 1).square().mean() for leaf in leaves)


def trained(network, optimizer, steps=3):
    """A network with moments and a gradient, its optimiser, its input and its chains."""
    torch.manual_seed(0)
    module, example, chains = network()
    opt = optimizer(module.parameters())
    for _ in range(steps):
        opt.zero_grad()
        total(module(*example)).backward()
        opt.step()
    return module, opt, example, chains


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


def marked(like, index, axis, start, count=1):
    """A mask of the entries of one unit in a tensor with the leading axes `index`."""
    mask = torch.zeros_like(like, dtype=torch.bool)
    mask[tuple(index)].narrow(axis, start, count).fill_(True)
    return mask


def check(chains, masks, before, after, *, initialiser="torch", kept_moments=False):
    """Hold every number after a reset to what it must be.

    Args:
        chains: by hand.
        masks: by the producer's name: the units that the reset flagged, `[*lead, H]`.
        before: `entries` before it.
        after: `entries` after it.
        initialiser: "torch" for U(+-1/sqrt(fan in)), bias as well; "xavier" with a bias of 0.
        kept_moments: whether biases keep theirs (ReDo).
    """
    assert set(masks) == {chain.weight.removesuffix(".weight") for chain in chains}
    parts = {name: {} for name, _ in before}  # by kind: what is fresh, one, zero, or cut

    def mark(name, kind, mask):
        parts[name][kind] = parts[name].get(kind, torch.zeros_like(mask)) | mask

    for chain in chains:
        mask = masks[chain.weight.removesuffix(".weight")]
        for *lead, unit in mask.nonzero().tolist():
            mark(chain.weight, "row", marked(before[chain.weight, "value"], lead, chain.out, unit))
            for name, kind in ((chain.bias, "bias"), *zip(chain.norms, ("one", "zero"), strict=False)):
                if (name, "value") in before:
                    mark(name, kind, marked(before[name, "value"], lead, -1, unit))
            for name, axis, first, repeat in chain.readers:
                value = before[name, "value"]
                mark(name, "cut", marked(value, lead, axis, first + unit * repeat, repeat))
    for (name, kind), old in before.items():
        new, own_parts = after[name, kind], parts[name]
        if kind == "step":
            assert torch.equal(new, old), (name, kind)
            continue
        touched = torch.zeros_like(old, dtype=torch.bool)
        for mask in own_parts.values():
            touched |= mask
        if kept_moments and "bias" in own_parts and kind not in ("value", "grad"):
            touched.zero_()
        assert torch.equal(new[~touched], old[~touched]), f"{name} {kind}: more has changed than was flagged"
        if kind != "value":
            assert not new[touched].any(), f"{name} {kind}: not forgotten"
    for chain in chains:
        value = before[chain.weight, "value"]
        lead = value.shape[: value.dim() + min(chain.out, chain.inputs)]
        one = value[(0,) * len(lead)]
        fan_in = one.numel() // value.shape[chain.out]
        if chain.out > chain.inputs and value.dim() > 3:  # torch's rule for a transposed convolution
            fan_in = one.numel() // value.shape[chain.inputs]
        fan_out = one.numel() // value.shape[chain.inputs]
        bound = 1 / math.sqrt(fan_in) if initialiser == "torch" else math.sqrt(6 / (fan_in + fan_out))
        _fresh(chain.weight, parts, before, after, bound)
        if chain.bias is not None and initialiser == "torch":
            _fresh(chain.bias, parts, before, after, 1 / math.sqrt(fan_in))
        expected = [(name, "cut", 0.0) for name, *_ in chain.readers]
        expected += [(name, *part) for name, part in zip(chain.norms, ONE_AND_ZERO, strict=False)]
        if initialiser == "xavier":
            expected.append((chain.bias, "bias", 0.0))
        for name, kind, number in expected:
            if kind in parts.get(name, {}):
                assert (after[name, "value"][parts[name][kind]] == number).all(), f"{name}: not {number}"


def _fresh(name, parts, before, after, bound):
    """Entries that were redrawn lie within the initialiser's bound, and are neither the old nor all alike."""
    own_parts = parts[name]
    drawn = own_parts.get("row", own_parts.get("bias"))
    if drawn is None:
        return
    drawn = drawn & ~own_parts.get("cut", torch.zeros_like(drawn))
    old, new = before[name, "value"][drawn], after[name, "value"][drawn]
    assert (new != old).all(), f"{name}: not redrawn"
    assert (new.abs() <= bound).all(), f"{name}: beyond {bound}"
    assert new.numel() < 2 or new.unique().numel() > 1, f"{name}: all alike"
