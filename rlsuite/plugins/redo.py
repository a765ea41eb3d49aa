"""ReDo: reset the units whose activation is hardly ever above zero (Sokar et al. 2023, arXiv 2302.12902).

The baseline that GraMa is compared to, in the form of its authors' code (dopamine): the score is the mean
magnitude of a unit's activation as a share of its layer's mean; incoming weights are redrawn by Xavier's
rule, biases and outgoing weights set to zero, the moments of both weights forgotten, those of biases and the
step count kept. Same interface as `rlsuite.plugins.grama`. Beside it two schedules that reset without a
score.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlsuite.errors import ConfigError
from rlsuite.plugins.neurons.chains import Chain, Reader, unit_mean
from rlsuite.plugins.neurons.initialisers import Fresh
from rlsuite.plugins.neurons.parts import Incoming, ResetConfig, ResetPlugin
from rlsuite.plugins.neurons.resets import NeuronReset

BRO_SCHEDULE = (15_001, 50_001, 250_001, 500_001, 750_001, 1_000_000, 1_500_000, 2_000_000)
"""Env steps of BRO's full resets (authors' code; only the first at two updates per step)."""


def activation_scores(activation: Tensor, lead: int, axis: int, repeat: int = 1) -> Tensor:
    """Mean magnitude of activations over batch and space, `[*lead, H]`.

    Args:
        activation: `[*lead, N, ...]` with units on `axis`.
        lead: number of leading axes of independent networks.
        axis: where the units lie, from the end.
        repeat: neighbouring positions that one unit takes (a flattened image's channel).
    """
    magnitude = activation.abs()
    if repeat > 1:
        magnitude, axis = magnitude.unflatten(axis, (-1, repeat)), axis - 1
    return unit_mean(magnitude, lead, axis)


class ReDo(NeuronReset):
    """Activation scores and resets; see `NeuronReset` for the arguments and all methods.

    Scores are those of the newest forward pass with gradients enabled: acting and targets do not count. Units
    of a residual stream are scored by what they add to it.

    Args:
        tau: threshold, 0.025 in the authors' experiments.
        incoming: Xavier's rule unless said otherwise.
        fields: those of `NeuronReset`.
    """

    bias_moments: ClassVar[bool] = False

    def __init__(self, *, tau: float = 0.025, incoming: str | Fresh = "xavier", **fields: Any) -> None:
        super().__init__(tau=tau, incoming=incoming, **fields)
        self._seen: dict[str, Tensor] = {}

    def _watch(self, key: str, chain: Chain, module: nn.Module, *, stacked: bool) -> None:
        reader = _reading(chain)
        place = chain.output_of or chain.input_of if reader is None else reader.module
        if place is None or stacked:
            raise ConfigError(f"the activations of {chain.name} pass through no module: ReDo cannot see them")
        part = module.get_submodule(place)
        layer = chain.producer if reader is None else reader.layer
        start, repeat = (0, None) if reader is None else (reader.start, reader.repeat)

        def keep(activation: Tensor) -> None:
            if torch.is_grad_enabled():
                width = activation.shape[layer.axis] if repeat is None else chain.producer.units * repeat
                self._seen[key] = activation.detach().narrow(layer.axis, start, width)

        if chain.output_of is not None:
            self._hooks.append(lambda: part.register_forward_hook(lambda made, args, output: keep(output)))
        else:
            self._hooks.append(lambda: part.register_forward_pre_hook(lambda made, args: keep(args[0])))

    def _raw(self, key: str, chain: Chain) -> tuple[Tensor, ...]:
        if key not in self._seen:
            return ()
        seen, reader = self._seen[key], _reading(chain)
        layer = chain.producer if reader is None else reader.layer
        repeat = seen.shape[layer.axis] // chain.producer.units
        return (activation_scores(seen, len(chain.producer.lead), layer.axis, repeat),)

    def forget(self) -> None:
        """Drop activations: scores then come from later forward passes alone."""
        self._seen.clear()

    def detach(self) -> None:
        """Let go of everything: hooks, activations, networks and optimisers."""
        super().detach()
        self._seen.clear()


def _reading(chain: Chain) -> Reader | None:
    """Return the first reader that is a module, whose input are the activations."""
    return next((reader for reader in chain.readers if reader.module is not None), None)


@torch.no_grad()
def shrink_and_perturb(
    parameters: Iterable[Tensor],
    fresh: Iterable[Tensor],
    keep: float = 0.8,
    optimizers: Sequence[Optimizer] = (),
) -> None:
    """Move all parameters to keep * old + (1 - keep) * fresh, in place (Ash and Adams 2020; D'Oro et al.
    2023).

    Args:
        parameters: of the network.
        fresh: those of a newly initialised one, in the same order.
        keep: share of the old; 0 is a full reset.
        optimizers: forget all they know of the parameters.
    """
    if not 0 <= keep <= 1:
        raise ConfigError(f"keep = {keep}: must be in [0, 1]")
    for parameter, new in zip(parameters, fresh, strict=True):
        parameter.lerp_(new, 1 - keep)
        for optimizer in optimizers:
            optimizer.state.pop(parameter, None)


def full_reset(
    parameters: Iterable[Tensor], fresh: Iterable[Tensor], optimizers: Sequence[Optimizer] = ()
) -> None:
    """Give a network new parameters and its optimisers an empty state (Nikishin et al. 2022; BRO)."""
    shrink_and_perturb(parameters, fresh, 0.0, optimizers)


def due(schedule: Sequence[int], before: int, now: int) -> bool:
    """Return whether a step of `schedule` lies in (before, now]."""
    return any(before < step <= now for step in schedule)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReDoConfig(ResetConfig):
    """Fields of the plug-in `redo`."""

    tau: float = 0.025
    """Units at or below this share of their layer's mean activation are reset."""
    incoming: Incoming = "xavier"
    """How incoming weights are redrawn."""


class ReDoPlugin(ResetPlugin):
    """Resets the units of an agent's networks by their activations."""

    Config: ClassVar[type] = ReDoConfig
    reset_class: ClassVar[type[NeuronReset]] = ReDo
