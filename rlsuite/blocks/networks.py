"""Trunks of actors and critics by name: perceptron, BroNet, SimBa, multi-skip residual, denoiser.

All take the arguments of `MLP`, and leading axes are independent networks. In residual networks `hidden`
holds the width of the stem and once more the same width for every block. Their linear layers begin orthogonal
with gain sqrt(2) and zero biases, the head as torch's default does (our choice: outputs begin as small as a
perceptron's).
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlsuite.blocks.mlp import (
    ACTIVATIONS,
    MLP,
    Activation,
    Dropout,
    Head,
    LayerNorm,
    Layers,
    Lead,
    Linear,
    Norm,
    orthogonal_,
    through,
)
from rlsuite.blocks.noise import Noise, Source
from rlsuite.errors import ConfigError, unknown_name
from rlsuite.targets import is_target, load_target

Network = Literal["mlp", "bronet", "simba", "multiskip", "denoiser"] | str
"""Name of a trunk, or MODULE:CLASS of one of the user's own; see `network`."""

GAIN = math.sqrt(2)
SIMBA_EXPANSION = 4  # width inside a block over that of the stream; Lee et al. 2024
TIME_FEATURES = 16  # of the denoiser's embedded step; DACER's code
TIME_PERIOD = 10_000.0  # longest period of the embedding, in steps; Ho et al. 2020
DENOISING_STEPS = 5  # passes of the denoiser; DACER takes 20 and that many times the cost. Our choice


class _Residual(nn.Module):
    """Base of the three residual networks: sizes, one way to make layers, and a linear head."""

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: Activation = "relu",
        lead: Lead = (),
        dropout: float = 0.0,
        generator: Source = None,
        dropout_generator: Source = None,
    ) -> None:
        super().__init__()
        check_widths("residual", hidden)
        self.width = hidden[0]
        self.act = ACTIVATIONS[activation]()
        self._shape: dict[str, Any] = {"lead": lead, "generator": generator}
        self._dropout = (dropout, dropout_generator)
        self.stem = self.linear(inputs, self.width)
        self.blocks = nn.ModuleList([self.block() for _ in hidden[1:]])
        self.last = self.end()
        orthogonal_(self, GAIN, generator)
        self.head = Head(self.width, outputs, lead=lead, generator=generator)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """Make a linear layer, with dropout behind it where there is any."""
        layer = Linear(inputs, outputs, **self._shape)
        rate, source = self._dropout
        return Layers(layer, Dropout(rate, source)) if rate else layer

    def norm(self) -> LayerNorm:
        """Make a norm of the stream's width."""
        return LayerNorm(self.width, lead=self._shape["lead"])

    def block(self) -> nn.Module:
        """Make what one block adds to the stream."""
        raise NotImplementedError

    def end(self) -> nn.Module:
        """Make what stands before the head."""
        return nn.Identity()


class BroNet(_Residual):
    """BRO's network (Nauman et al. 2024, arXiv 2405.16158): the blocks' last layers are normalised, too.

    Stem of linear, norm, activation; each block adds norm(linear(activation(norm(linear(x))))).
    """

    def block(self) -> nn.Module:
        """Make linear, norm, activation, linear, norm."""
        width = self.width
        return Layers(
            self.linear(width, width), self.norm(), self.act, self.linear(width, width), self.norm()
        )

    def __init__(self, *sizes: Any, **fields: Any) -> None:
        super().__init__(*sizes, **fields)
        self.stem_norm = self.norm()

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`."""
        x = self.act(self.stem_norm(through(self.stem, x, noise)))
        for block in self.blocks:
            x = x + block(x, noise)
        return self.head(x)


class SimBa(_Residual):
    """SimBa's network (Lee et al. 2024, arXiv 2410.09754): norms before the blocks, one after the last.

    Each block adds linear(activation(linear(norm(x)))), four times as wide inside. The running statistics of
    the observations that belong to it are the agents' `normalize_observations`.
    """

    def block(self) -> nn.Module:
        """Make norm, linear to four times the width, activation, linear back."""
        wide = SIMBA_EXPANSION * self.width
        return Layers(self.norm(), self.linear(self.width, wide), self.act, self.linear(wide, self.width))

    def end(self) -> nn.Module:
        """Make the norm of the whole stream."""
        return self.norm()

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`."""
        x = through(self.stem, x, noise)
        for block in self.blocks:
            x = x + block(x, noise)
        return self.head(through(self.last, x, noise))


class MultiSkip(_Residual):
    """Residual network whose stem reaches every block (Castanyer et al. 2025, arXiv 2506.15544).

    x0 = norm(linear(x)); every block adds its own output and x0 once more, so that no gradient to the stem
    can vanish; then norm(linear(x)).
    """

    def block(self) -> nn.Module:
        """Make twice activation, linear, norm."""
        width = self.width
        halves = [(self.act, self.linear(width, width), self.norm()) for _ in range(2)]
        return Layers(*[part for half in halves for part in half])

    def end(self) -> nn.Module:
        """Make linear and norm."""
        return Layers(self.linear(self.width, self.width), self.norm())

    def __init__(self, *sizes: Any, **fields: Any) -> None:
        super().__init__(*sizes, **fields)
        self.stem_norm = self.norm()

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`."""
        skip = x = self.stem_norm(through(self.stem, x, noise))
        for block in self.blocks:
            x = x + block(x, noise) + skip
        return self.head(through(self.last, x, noise))


class RefiningMLP(nn.Module):
    """Refines its output in several passes through one MLP, as DACER's actor does (arXiv 2405.15177).

    Every pass sees the input, the output so far (zeros at first) and the embedded step, and adds a share of
    its result. Noise is left out: a deterministic sampler serves as a network anywhere (our choice).

    Args:
        inputs: I.
        hidden: widths of the MLP.
        outputs: O.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
        steps: passes.
        fields: those of `MLP`.
    """

    embedding: Tensor

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        lead: Lead = (),
        generator: Source = None,
        steps: int = DENOISING_STEPS,
        **fields: Any,
    ) -> None:
        super().__init__()
        self.lead, self.outputs, self.steps = lead, outputs, steps
        half = TIME_FEATURES // 2
        time = torch.arange(steps).unsqueeze(-1) * TIME_PERIOD ** (-torch.arange(half) / half)
        self.register_buffer("embedding", torch.cat((time.sin(), time.cos()), -1), persistent=False)
        shape: dict[str, Any] = {"lead": lead, "generator": generator}
        self.time = MLP(TIME_FEATURES, (2 * TIME_FEATURES,), TIME_FEATURES, activation="silu", **shape)
        self.net = MLP(inputs + outputs + TIME_FEATURES, hidden, outputs, **shape, **fields)

    @property
    def head(self) -> Linear:
        """The last layer."""
        return self.net.head

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`."""
        rows = x.shape[-2]
        x = x.expand(*self.lead, *x.shape[-2:])
        y = x.new_zeros(*x.shape[:-1], self.outputs)
        for step in range(self.steps - 1, -1, -1):
            time = self.time(self.embedding[step : step + 1]).expand(*self.lead, rows, TIME_FEATURES)
            y = y + self.net(torch.cat((x, y, time.to(x.dtype)), -1), noise).to(x.dtype) / self.steps
        return y


NETWORKS: dict[str, Any] = {
    "mlp": MLP,
    "bronet": BroNet,
    "simba": SimBa,
    "multiskip": MultiSkip,
    "denoiser": RefiningMLP,
}
RESIDUAL = ("bronet", "simba", "multiskip")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetShape:
    """Shape of an agent's networks: everything but input and output sizes.

    Attributes:
        hidden: widths of the hidden layers; of residual networks that of the stem and of every block.
        network: name of the trunk.
        activation: name in `ACTIVATIONS`.
        layer_norm: normalise every hidden layer, or its activations ("after"); residual networks bring their
            own norms.
        dropout: rate of every hidden layer, in [0, 1).
        lead: independent networks along leading axes.
        generator: draws the initial weights.
        dropout_generator: draws the dropout masks.
    """

    hidden: Sequence[int]
    network: Network = "mlp"
    activation: Activation = "relu"
    layer_norm: Norm = False
    dropout: float = 0.0
    lead: Lead = ()
    generator: Source = None
    dropout_generator: Source = None

    def trunk(self, inputs: int, outputs: int, members: Lead = ()) -> Any:
        """Make a trunk `[*lead, N, inputs]` -> `[*lead, N, outputs]`.

        Args:
            inputs: input features.
            outputs: output features.
            members: further leading axes, behind `lead`.
        """
        if self.lead and not takes_lead(self.network):
            raise ConfigError(
                f"network {self.network} makes one network at a time: train one seed a process "
                "(--processes), or give its class the argument `lead`"
            )
        return network(
            self.network,
            inputs,
            self.hidden,
            outputs,
            activation=self.activation,
            lead=(*self.lead, *members),
            layer_norm=self.layer_norm,
            dropout=self.dropout,
            generator=self.generator,
            dropout_generator=self.dropout_generator,
        )


def network(name: Network, *sizes: Any, layer_norm: Norm = False, **fields: Any) -> Any:
    """Make the trunk called `name` from the arguments of `MLP`; residual ones bring their own norms.

    A class of the user's own with an argument `lead` takes the same arguments; any other is called with
    (inputs, hidden, outputs) and copied along the leading axes, each copy with weights of its own.
    """
    if name not in NETWORKS:
        cls = own_network(name)
        if not takes_lead(name):
            return Copies(cls, *sizes, lead=fields["lead"], generator=fields["generator"])
        return cls(*sizes, layer_norm=layer_norm, **fields)
    norm = {} if name in RESIDUAL else {"layer_norm": layer_norm}
    return NETWORKS[name](*sizes, **norm, **fields)


def takes_lead(name: str) -> bool:
    """Return whether a trunk makes several networks along leading axes by itself."""
    return name in NETWORKS or "lead" in inspect.signature(own_network(name)).parameters


def own_network(name: str) -> type[nn.Module]:
    """Return the user's class MODULE:CLASS; ConfigError for what is no `torch.nn.Module`, uncalled."""
    cls = load_target(name, "network")
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ConfigError(f"network {name}: name a class derived from torch.nn.Module")
    return cls


class Copies(nn.Module):
    """Plain modules `[N, I] -> [N, O]` of one class, independent along leading axes.

    Args:
        cls: makes one from (inputs, hidden, outputs).
        sizes: these.
        lead: the axes.
        generator: seeds what the modules draw for their weights; torch's own generator is left as it was.
    """

    def __init__(self, cls: Any, *sizes: Any, lead: Lead = (), generator: Source = None) -> None:
        super().__init__()
        self.lead = lead
        source = generator[0] if isinstance(generator, tuple) else generator
        device = torch.device("cpu") if source is None else source.device
        seed = int(torch.randint(2**62, (1,), generator=source, device=device))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.each = nn.ModuleList([cls(*sizes) for _ in range(math.prod(lead))])

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """Return `[*lead, N, O]` for `[*lead, N, I]`, or for `[N, I]` that all of them see."""
        if not self.lead:
            return self.each[0](x)
        rows = x.expand(*self.lead, *x.shape[-2:]).flatten(0, -3)
        return torch.stack([net(part) for net, part in zip(self.each, rows, strict=True)]).unflatten(
            0, self.lead
        )


def check_widths(name: str, hidden: Sequence[int]) -> None:
    """Raise ValueError for no known network, or a residual one with several widths, or none."""
    if name != "residual" and name not in NETWORKS and not is_target(name):
        raise unknown_name("a network", name, NETWORKS, "--help, or name a class as MODULE:CLASS")
    if (name in RESIDUAL or name == "residual") and len(set(hidden)) != 1:
        raise ValueError(
            f"hidden = {tuple(hidden)}: a {name} network has one width, given once for the stem and once for "
            "every block"
        )
