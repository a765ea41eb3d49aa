"""Reset single units of a network while it trains: what GraMa and ReDo have in common.

A reset redraws a unit's incoming weights, sets the scale of its norm to one, cuts what reads it, and forgets
the optimiser's moments of these entries. Nothing else changes by a bit, no parameter that is frozen does, and
nothing waits for the device: masks stay there. With leading axes (seeds, ensembles) every network is scored
and reset by itself.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from rlsuite.blocks.noise import Source, generators_of, normal
from rlsuite.errors import ConfigError
from rlsuite.plugins.neurons.chains import (
    Chain,
    Layer,
    check_untied,
    columns_of,
    own_parameter,
    per_unit,
)
from rlsuite.plugins.neurons.initialisers import INITIALISERS, Fresh, default_init

logger = logging.getLogger(__name__)

MIN_MEAN = 1e-12  # a layer whose mean score is below got no signal at all: nothing is flagged
SMALL = 0.1  # of the median norm of live columns, for outgoing="small"; AgileRL's idea, our number

UNSPLIT = ("Adafactor", "LBFGS")  # their sums over rows or parameters belong to no unit; empty at first

Outgoing = Literal["zero", "keep", "small"]


class Activity(NamedTuple):
    """Scores of the units of one layer.

    Attributes:
        score: share of the layer's mean, `[*lead, H]`; infinite where the layer got no signal.
        inactive: which are at or below the threshold, `[*lead, H]`.
    """

    score: Tensor
    inactive: Tensor

    @property
    def fraction(self) -> Tensor:
        """Share of inactive units, `[*lead]`."""
        return self.inactive.float().mean(-1)


def activity(raw: Tensor, tau: float, max_fraction: float = 1.0, *others: Tensor) -> Activity:
    """Normalise raw scores by their layer's mean and flag the units at or below `tau`.

    Args:
        raw: `[*lead, H]`.
        tau: threshold on the normalised score.
        max_fraction: of the flagged units at most this share of the layer (at least one) stay flagged: the
            smallest.
        others: further raw scores of the same units; of all normalised scores the smallest counts.
    """
    score = torch.stack([_share_of_mean(each) for each in (raw, *others)]).amin(0)
    inactive = score <= tau
    if max_fraction < 1:
        allowed = max(1, math.floor(max_fraction * raw.shape[-1] + 1e-9))
        inactive &= score.argsort(dim=-1, stable=True).argsort(-1) < allowed
    return Activity(score, inactive)


def _share_of_mean(raw: Tensor) -> Tensor:
    """Divide raw scores `[*lead, H]` by their mean; infinite where that is no signal at all."""
    mean = raw.mean(-1, keepdim=True)
    return torch.where(mean >= MIN_MEAN, raw / mean.clamp(min=MIN_MEAN), math.inf)


class NeuronReset:
    """Base of GraMa and ReDo: finds the chains, keeps the period, resets. Subclasses score.

    Args:
        tau: threshold on the normalised score.
        period: calls of `step` between resets.
        outgoing: what readers' columns of a reset unit become: zero; kept as they are; or random with a tenth
            of the live columns' median norm.
        incoming: how rows are redrawn: "original" by the layer's own initialiser (`fresh` of our layers,
            `reset_parameters` of torch's, and torch's default where there is neither), a name of
            `INITIALISERS`, or a function.
        max_fraction: share of a layer that one reset may touch, in (0, 1].
        reset_moments: zero the optimiser's moments of all touched entries.
        reset_step: set the touched parameters' step count to zero, too: the first Adam move of a reset entry
            is then one learning rate instead of 3.16, and that of all others in the tensor 0.316 of the
            usual. Refused where an optimiser has one count for all parameters.
        generator: draws the new weights: one generator, one for each network of the first leading axis, or
            None for torch's global stream. Who owns it saves its state.
    """

    bias_moments: ClassVar[bool] = True  # whether a reset forgets the moments of biases, too

    def __init__(
        self,
        *,
        tau: float,
        period: int = 1000,
        outgoing: Outgoing = "zero",
        incoming: str | Fresh = "original",
        max_fraction: float = 1.0,
        reset_moments: bool = True,
        reset_step: bool = False,
        generator: Source = None,
    ) -> None:
        check_fields(tau, period, outgoing, incoming, max_fraction)
        self.tau, self.period, self.outgoing, self.incoming = tau, period, outgoing, incoming
        self.max_fraction, self.reset_moments, self.reset_step = max_fraction, reset_moments, reset_step
        self.generator = generator
        self.count = 0
        self.chains: dict[str, Chain] = {}
        self.resets: dict[str, Tensor] = {}  # units reset so far, by layer, `[*lead]`
        self._optimizers: list[Optimizer] = []
        self._owners: dict[str, nn.Module | None] = {}
        self._handles: list[Any] = []  # of the optimisers that are followed
        self._hooks: list[Callable[[], Any]] = []  # each registers one hook that scores are made of
        self._listening: list[Any] = []  # handles of these hooks, while they are on

    def attach(
        self,
        module: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer] = (),
        *,
        example: Sequence[Any] | None = None,
        layers: Sequence[str] | None = None,
        chains: Sequence[Chain] | None = None,
        parameters: Mapping[str, nn.Parameter] | None = None,
        name: str = "",
    ) -> Self:
        """Watch the hidden layers of a network; may be called again for further networks.

        Args:
            module: any network, heads included: what reaches its output unread is never reset.
            optimizer: who keeps moments of its parameters: one optimiser or several.
            example: positional arguments of its forward, for the trace; made up for networks of one flat or
                image input.
            layers: names of the layers to be reset; None takes all hidden ones.
            chains: what to reset, written down (`rlsuite.plugins.neurons.chains.chain`), instead of a trace.
            parameters: the trained weights by name where they are not the module's own: stacked ones of
                `torch.func`, with further leading axes.
            name: put before the layers' names.

        Raises:
            ConfigError: what the network does cannot be followed, a weight is frozen, tied to another one or
                in none of the optimisers, or an optimiser's state cannot be told apart by units.
        """
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        if chains is None:
            # Here and not above: who brings chains, as our own networks do, never needs the tracer.
            from rlsuite.plugins.neurons.tracing import find_chains

            chains = find_chains(module, example, parameters, layers)
        if not chains:
            raise ConfigError(f"{type(module).__name__} has no hidden layer: nothing can be reset")
        self._check_steps(optimizers)
        for chain in chains:
            self._check_chain(chain, module, optimizers, name)
        for chain in chains:
            key, owner = name + chain.name, None
            if parameters is None:
                owner = _owner_of(module, chain.producer)
            self._watch(key, chain, module, stacked=parameters is not None)
            self.chains[key], self._owners[key] = chain, owner
            lead = chain.producer.lead
            self.resets[key] = torch.zeros(lead, dtype=torch.int64, device=chain.producer.weight.device)
        self._optimizers += [o for o in optimizers if o not in self._optimizers]
        self.listen(False)
        self.listen()
        return self

    def _check_chain(
        self, chain: Chain, module: nn.Module, optimizers: Sequence[Optimizer], name: str
    ) -> None:
        """Raise ConfigError where a chain must not be reset, or is attached already."""
        if not chain.producer.weight.requires_grad:
            raise ConfigError(f"{chain.name} is frozen: name the others with layers=[...]")
        check_untied(chain, module)
        moved = [p for p in chain.parameters() if p.requires_grad]
        if optimizers and not all(any(self._holds(o, p) for o in optimizers) for p in moved):
            raise ConfigError(
                f"{chain.name} or a layer that reads it is in none of the optimisers, so that its "
                "moments would go stale: give all of them, attach(module, [first, second])"
            )
        self._check_moments(chain, optimizers)
        self._source(chain.producer)
        if name + chain.name in self.chains:
            raise ConfigError(f'"{name}{chain.name}" is attached already: give this network a name=')

    def listen(self, on: bool = True) -> None:
        """Register the hooks that scores are made of, or take them away; `attach` registers them.

        A loop that compiles or captures its updates lets only those be heard that it runs eagerly, as a hook
        that is there while an update is compiled would become a part of it. Scores by `mode="weight"` have no
        hooks.
        """
        if on and not self._listening:
            self._listening = [register() for register in self._hooks]
        elif not on:
            for handle in self._listening:
                handle.remove()
            self._listening = []

    def detach(self) -> None:
        """Let go of everything: hooks, networks and optimisers."""
        self.listen(False)
        for handle in self._handles:
            handle.remove()
        self._handles, self._hooks, self.chains, self.resets = [], [], {}, {}
        self._optimizers, self._owners = [], {}

    def step(self) -> dict[str, Activity] | None:
        """Count one update, and at every `period`-th reset what is inactive.

        Call it once per update after `backward()`, before or after `optimizer.step()`, and before another
        loss reaches the same weights.

        Returns:
            scores by layer when units were reset, else None.
        """
        self.count += 1
        if self.count % self.period:
            return None
        scores = self.reset()
        if not scores:
            logger.warning("no layer has seen a batch: hooks do not fire in captured or compiled updates")
        return scores

    def follow(self, optimizer: Optimizer) -> Self:
        """Call `step` after every step of `optimizer`, for loops whose inside is out of reach."""

        def after(*_: object) -> None:
            self.step()

        self._handles.append(optimizer.register_step_post_hook(after))
        return self

    def report(self) -> dict[str, Activity]:
        """Score all layers that have seen a batch; changes nothing."""
        return self._scores()

    def _scores(self, max_fraction: float = 1.0) -> dict[str, Activity]:
        raw = {key: self._raw(key, chain) for key, chain in self.chains.items()}
        return {
            key: activity(parts[0], self.tau, max_fraction, *parts[1:]) for key, parts in raw.items() if parts
        }

    @torch.no_grad()
    def reset(self) -> dict[str, Activity]:
        """Score all layers, then reset the inactive units of each; return the scores by layer.

        A layer whose own weight has been frozen since `attach` is scored and not reset; a reader that is
        frozen keeps its columns.

        Raises:
            ConfigError: an optimiser's state cannot be told apart by units; nothing has been changed then.
        """
        scores = self._scores(self.max_fraction)
        moved = {
            key: layer for key, layer in scores.items() if self.chains[key].producer.weight.requires_grad
        }
        self._check_steps(self._optimizers)
        for key in moved:  # before the first write: half a reset is none
            self._check_moments(self.chains[key], self._optimizers)
        for key, layer in moved.items():
            self._redraw(self.chains[key], layer.inactive, self._owners[key])
        for key, layer in moved.items():  # last: a fresh row must not bring back a column that was cut
            self._cut(self.chains[key], layer.inactive)
            self.resets[key] += layer.inactive.sum(-1)
        return scores

    def summary(self) -> str:
        """Return a table of the chains: units, norm, readers, and which optimiser has the moments."""
        table = [("layer", "networks x units", "norm", "read by", "moments of")]
        table += [self._described(key, chain) for key, chain in self.chains.items()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        )

    def _described(self, key: str, chain: Chain) -> tuple[str, str, str, str, str]:
        readers = [
            reader.layer.name.removesuffix(".weight")
            + ("" if reader.layer.weight.requires_grad else " (frozen: not cut)")
            for reader in chain.readers
        ]
        holder = next((o for o in self._optimizers if self._holds(o, chain.producer.weight)), None)
        return (
            key,
            f"{math.prod(chain.producer.lead)} x {chain.producer.units}",
            "yes" if chain.gains else "no",
            ", ".join(readers) or "a residual stream: incoming rows only",
            type(holder).__name__ if holder is not None and self.reset_moments else "none",
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the number of calls of `step`, and of the units reset in every layer."""
        return {"count": torch.tensor(self.count)} | {
            f"resets/{k}": v.clone() for k, v in self.resets.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; ConfigError when it is of other layers."""
        if set(state) != set(self.state_dict()):
            raise ConfigError(f"a state of {sorted(state)} does not fit the layers {sorted(self.chains)}")
        self.count = int(state["count"])
        for key, value in self.resets.items():
            value.copy_(state[f"resets/{key}"])

    def _watch(self, key: str, chain: Chain, module: nn.Module, *, stacked: bool) -> None:
        """Prepare scoring a chain of `module`; what registers a hook goes to `_hooks`."""

    def _raw(self, key: str, chain: Chain) -> tuple[Tensor, ...]:
        """Return the raw scores of every unit, `[*lead, H]` each; none where there was no batch."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what the next score would be made of: scores then come from later batches alone."""

    def _redraw(self, chain: Chain, mask: Tensor, owner: nn.Module | None) -> None:
        layer = chain.producer
        weight, bias = self._fresh(layer, owner)
        self._touch(layer.weight, per_unit(mask, layer.weight, layer.out_axis), weight)
        if chain.bias is not None:
            flat = mask.view(chain.bias.shape)
            self._touch(chain.bias, flat, bias.view(chain.bias.shape), moments=self.bias_moments)
        for gain in chain.gains:
            self._touch(gain, mask.view(gain.shape), torch.ones_like(gain))
        for shift in chain.shifts:
            self._touch(shift, mask.view(shift.shape), torch.zeros_like(shift))

    def _cut(self, chain: Chain, mask: Tensor) -> None:
        for reader in chain.readers if self.outgoing != "keep" else ():
            layer = reader.layer
            columns = per_unit(columns_of(mask, reader), layer.weight, layer.in_axis)
            value = torch.zeros_like(layer.weight)
            if self.outgoing == "small":
                value = _small(layer, columns, self._source(layer))
            self._touch(layer.weight, columns, value)

    def _fresh(self, layer: Layer, owner: nn.Module | None) -> tuple[Tensor, Tensor]:
        source = self._source(layer)
        if callable(self.incoming):
            return self.incoming(layer, source)
        if self.incoming != "original":
            return INITIALISERS[self.incoming](layer, source)
        if hasattr(owner, "fresh"):
            return owner.fresh(source)  # type: ignore[union-attr, operator]
        if owner is not None and hasattr(owner, "reset_parameters"):
            return _by_reset_parameters(layer, owner, source)
        return default_init(layer, source)

    def _source(self, layer: Layer) -> Source:
        """Return the streams for one layer: those of the seeds where its first axis is seeds."""
        if isinstance(self.generator, tuple) and layer.lead[:1] != (len(self.generator),):
            raise ConfigError(
                f"{len(self.generator)} random streams for {layer.name} of shape {list(layer.weight.shape)}: "
                "give one generator, or one for each network of its first axis"
            )
        return self.generator

    def _touch(self, parameter: nn.Parameter, mask: Tensor, value: Tensor, *, moments: bool = True) -> None:
        """Put `value` where `mask` is true, and forget the pending gradient and the moments there."""
        if not parameter.requires_grad:
            return
        parameter.copy_(torch.where(mask, value, parameter))
        if parameter.grad is not None:
            parameter.grad.masked_fill_(mask, 0)
        for optimizer in self._optimizers if self.reset_moments and moments else ():
            state = optimizer.state.get(parameter, {})
            for key, entry in state.items():
                if key == "step":  # a count, whatever the parameter's shape
                    if self.reset_step:
                        state[key] = entry.zero_() if isinstance(entry, Tensor) else 0
                elif isinstance(entry, Tensor) and entry.shape == parameter.shape:
                    entry.masked_fill_(mask, 0)

    def _check_steps(self, optimizers: Sequence[Optimizer]) -> None:
        """Raise ConfigError where the step count of single parameters is to be reset and there is none."""
        for optimizer in optimizers if self.reset_step and self.reset_moments else ():
            steps = [state.get("step") for state in optimizer.state.values()]
            places = [step.data_ptr() for step in steps if isinstance(step, Tensor)]
            if len(set(places)) < len(places):
                raise ConfigError(
                    f"{type(optimizer).__name__} has one step count for all its parameters, which a reset of "
                    f"single units must not change: leave out reset_step "
                    f"(--{type(self).__name__.lower()}.reset-step on the command line)"
                )

    def _check_moments(self, chain: Chain, optimizers: Sequence[Optimizer]) -> None:
        """Raise ConfigError where moments that a reset of the chain would forget belong to no single unit."""
        for parameter in chain.parameters() if self.reset_moments else ():
            if not parameter.requires_grad or (parameter is chain.bias and not self.bias_moments):
                continue
            for optimizer in optimizers:
                _check_splittable(optimizer, parameter, held=self._holds(optimizer, parameter))

    @staticmethod
    def _holds(optimizer: Optimizer, parameter: Tensor) -> bool:
        return any(p is parameter for group in optimizer.param_groups for p in group["params"])


def _check_splittable(optimizer: Optimizer, parameter: Tensor, *, held: bool) -> None:
    """Raise ConfigError where an optimiser's state of a parameter has entries of no single unit."""
    name = type(optimizer).__name__
    if held and any(base.__name__ in UNSPLIT for base in type(optimizer).mro()):
        raise ConfigError(
            f"{name} keeps sums over several units: which belong to a single one cannot be told; use "
            "reset_moments=False or another optimiser"
        )
    for key, entry in optimizer.state.get(parameter, {}).items():
        for part in tree_leaves(entry):
            if isinstance(part, Tensor) and part.numel() > 1 and part.shape != parameter.shape:
                raise ConfigError(
                    f'{name} keeps "{key}" of shape {list(part.shape)} for a parameter of shape '
                    f"{list(parameter.shape)}: which entries belong to a unit cannot be told; use "
                    "reset_moments=False"
                )


def check_fields(tau: float, period: int, outgoing: str, incoming: object, max_fraction: float) -> None:
    """Raise ConfigError for fields of a neuron reset that cannot be."""
    if not tau >= 0:
        raise ConfigError(f"tau = {tau}: must not be negative")
    if period < 1:
        raise ConfigError(f"period = {period}: must be at least 1")
    if outgoing not in ("zero", "keep", "small"):
        raise ConfigError(f'outgoing = "{outgoing}": must be zero, keep or small')
    if not callable(incoming) and incoming not in ("original", *INITIALISERS):
        raise ConfigError(
            f'incoming = "{incoming}": must be original, {", ".join(INITIALISERS)} or a function'
        )
    if not 0 < max_fraction <= 1:
        raise ConfigError(f"max_fraction = {max_fraction}: must be in (0, 1]")


def inactive_share(scores: Mapping[str, Activity]) -> Tensor:
    """Share of inactive units over several layers, each of the same leading axes; the last axis is summed."""
    flagged = torch.stack([layer.inactive.sum(-1).float() for layer in scores.values()]).sum(0)
    return flagged / sum(layer.inactive.shape[-1] for layer in scores.values())


def _owner_of(module: nn.Module, layer: Layer) -> nn.Module | None:
    """Return the submodule that holds a weight under this very name."""
    for part in module.modules():
        if own_parameter(part, "weight") is layer.weight:
            return part
    return None


def _by_reset_parameters(layer: Layer, owner: nn.Module, source: Source) -> tuple[Tensor, Tensor]:
    """Draw by the layer's own method, from a stream of ours, and leave the layer as it was."""
    before = {name: parameter.clone() for name, parameter in owner.named_parameters()}
    devices = [layer.weight.device] if layer.weight.is_cuda else []
    generators = generators_of(source)
    with torch.random.fork_rng(devices, enabled=bool(generators)):
        if generators:
            first = generators[0]
            torch.manual_seed(int(torch.randint(2**62, (), generator=first, device=first.device)))
        owner.reset_parameters()  # type: ignore[operator]
    weight, bias = layer.weight.clone(), own_parameter(owner, "bias")
    fresh = weight.new_zeros(layer.units) if bias is None else bias.clone()
    for name, parameter in owner.named_parameters():
        parameter.copy_(before[name])
    return weight, fresh


def _small(layer: Layer, columns: Tensor, source: Source) -> Tensor:
    """Draw columns whose norm is `SMALL` of the median norm of the columns that stay, of every network."""
    others = tuple(
        i for i in range(len(layer.lead), layer.weight.dim()) if i != layer.weight.dim() + layer.in_axis
    )
    norms = layer.weight.square().sum(others, keepdim=True).sqrt()
    live = norms.masked_fill(columns, math.nan).flatten(len(layer.lead))
    median = live.nanmedian(-1).values.nan_to_num(0.0)
    noise = normal(layer.weight, source)
    length = noise.square().sum(others, keepdim=True).sqrt()
    return noise / length * SMALL * median.view(*median.shape, *[1] * (noise.dim() - median.dim()))
