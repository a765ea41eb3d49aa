"""GraMa: reset the units whose weights get hardly any gradient (Liu et al. 2025, arXiv 2505.24061).

The score of a unit is the mean magnitude of the gradient of its incoming weights, as a share of its layer's
mean: it is there after every backward pass. A norm between a layer and its activation ties the units'
gradients together, so that the weights of a dead unit go on getting one; its entry of the norm's scale gets
none. Behind an affine norm the score is therefore the smaller of two shares, of the incoming weights and of
the norm's scale (the released code scores the scale as a layer of its own). Needs torch alone:

    reset = GraMa(tau=0.01, period=1000).attach(critic, optimizer)
    ...
    loss.backward(); optimizer.step(); reset.step()

Paper and released code differ on the outgoing weights: the paper sets them to zero (default), the code keeps
them. A flagged unit may be active, so that cutting it changes the function: watch the error after a reset.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from rlsuite.errors import ConfigError
from rlsuite.plugins.neurons.chains import Chain, unit_mean
from rlsuite.plugins.neurons.parts import ResetConfig, ResetPlugin
from rlsuite.plugins.neurons.resets import NeuronReset

Mode = Literal["weight", "preact"]


def weight_scores(gradient: Tensor, lead: int, axis: int) -> Tensor:
    """Mean magnitude of a weight's gradient over what enters each unit, `[*lead, H]`.

    Args:
        gradient: of a weight, or of a norm's scale (then its magnitude is the score).
        lead: number of leading axes of independent networks.
        axis: where the units lie, from the end.
    """
    return unit_mean(gradient.abs(), lead, axis)


class GraMa(NeuronReset):
    """Gradient-magnitude scores and resets; see `NeuronReset` for the other arguments and all methods.

    Args:
        tau: threshold; 0.01 in the paper's large networks, 0 in its SAC (only units without any gradient).
        mode: "weight" scores by the gradient of the incoming weights, averaged over the batch before the
            magnitude is taken (the released code); "preact" by the mean magnitude of each sample's gradient
            at the pre-activation, which does not cancel between samples. "preact" reads the newest backward
            pass that also reached the weight.
        norms: score by the scales of affine norms, too; False sees no dead unit behind a LayerNorm.
        fields: those of `NeuronReset`.
    """

    def __init__(
        self, *, tau: float = 0.01, mode: Mode = "weight", norms: bool = True, **fields: Any
    ) -> None:
        super().__init__(tau=tau, **fields)
        if mode not in ("weight", "preact"):
            raise ConfigError(f'mode = "{mode}": must be weight or preact')
        self.mode, self.norms = mode, norms
        self._passing: dict[str, Tensor] = {}  # gradients at pre-activations of the backward pass under way
        self._arrived: dict[str, Tensor] = {}  # those of the newest pass that reached the weight

    def _watch(self, key: str, chain: Chain, module: nn.Module, *, stacked: bool) -> None:
        if self.mode == "weight":
            return
        if chain.module is None or stacked:
            raise ConfigError(f'mode="preact" needs a module whose output is {chain.name}; use mode="weight"')

        layer, weight = module.get_submodule(chain.module), chain.producer.weight

        def made(layer: nn.Module, args: object, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda gradient: self._passing.__setitem__(key, gradient.detach()))

        def arrived(gradient: Tensor) -> None:
            if key in self._passing:
                self._arrived[key] = self._passing.pop(key)

        # Not a hook on accumulated gradients: `torch.autograd.grad` accumulates none.
        self._hooks.append(lambda: layer.register_forward_hook(made))
        self._hooks.append(lambda: weight.register_hook(arrived))

    def _raw(self, key: str, chain: Chain) -> tuple[Tensor, ...]:
        layer = chain.producer
        gradient = layer.weight.grad if self.mode == "weight" else self._arrived.get(key)
        if gradient is None:
            return ()
        axis = layer.out_axis if self.mode == "weight" else layer.axis
        raw = weight_scores(gradient, len(layer.lead), axis)
        gains = [gain.grad for gain in chain.gains if gain.grad is not None] if self.norms else []
        return (raw, *(weight_scores(gain.view(raw.shape), len(layer.lead), -1) for gain in gains))

    def forget(self) -> None:
        """Drop gradients: scores then come from later backward passes alone."""
        self._passing.clear()
        self._arrived.clear()
        for chain in self.chains.values():
            for parameter in (chain.producer.weight, *chain.gains):
                parameter.grad = None

    def detach(self) -> None:
        """Let go of everything: hooks, gradients, networks and optimisers."""
        super().detach()
        self._passing.clear()
        self._arrived.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class GraMaConfig(ResetConfig):
    """Fields of the plug-in `grama`."""

    tau: float = 0.01
    """Units at or below this share of their layer's mean gradient are reset."""
    mode: Mode = "weight"
    """Score by the gradient of incoming weights, or by that of each sample at the pre-activation."""
    norms: bool = True
    """Behind an affine norm, score by the gradient of its scale, too."""


class GraMaPlugin(ResetPlugin):
    """Resets the units of an agent's networks by their gradients."""

    Config: ClassVar[type] = GraMaConfig
    reset_class: ClassVar[type[NeuronReset]] = GraMa
