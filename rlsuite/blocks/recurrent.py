"""A bidirectional GRU whose weights have leading axes, for independent seeds.

Legend: N sequences, T steps, I input features, H hidden features.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from rlsuite.blocks.mlp import Lead
from rlsuite.blocks.noise import Source, fill

GATES = 3  # reset, update, candidate, in the order of `torch.nn.GRU`


class BiGRU(nn.Module):
    """`torch.nn.GRU(bidirectional=True)`, with both directions and all seeds in one batched product a step.

    The same equations, weights per layer and direction, and initial weights (U(+-1/sqrt(H))). Torch's own has
    no leading axes and draws its weights from the global stream.

    Args:
        inputs: I.
        hidden: H, of each direction.
        layers: stacked layers; each reads both directions of the one below.
        lead: leading axes of independent networks.
        generator: draws the initial weights.
    """

    weight_axes: ClassVar[int] = 2  # what of a weight is one matrix; the axes before are networks

    def __init__(
        self, inputs: int, hidden: int, layers: int, *, lead: Lead = (), generator: Source = None
    ) -> None:
        super().__init__()
        self.hidden, self.layers = hidden, layers
        bound = 1 / math.sqrt(hidden)
        for layer in range(layers):
            width = inputs if layer == 0 else 2 * hidden
            for name, shape in (
                ("input_weight", (width, GATES * hidden)),
                ("input_bias", (1, GATES * hidden)),
                ("hidden_weight", (hidden, GATES * hidden)),
                ("hidden_bias", (1, GATES * hidden)),
            ):
                parameter = nn.Parameter(torch.empty(*lead, 2, *shape))
                with torch.no_grad():
                    fill(parameter, generator, lambda part, rng: part.uniform_(-bound, bound, generator=rng))
                self.register_parameter(f"{name}_{layer}", parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return `[*lead, N, T, 2 H]`, forward features first, for `x` of `[*lead, N, T, I]`."""
        for layer in range(self.layers):
            x = self._layer(x, layer)
        return x

    def _layer(self, x: Tensor, layer: int) -> Tensor:
        weight = getattr(self, f"hidden_weight_{layer}").flatten(0, -3)  # [D, H, 3 H], D = lead times 2
        bias = getattr(self, f"hidden_bias_{layer}").flatten(0, -3)
        lead, (rows, steps, width) = x.shape[:-3], x.shape[-3:]
        # Time first, and the second direction reads backwards: every step is one slice, [*lead, 2, T, N, I].
        forward = x.transpose(-2, -3)
        both = torch.stack((forward, forward.flip(-3)), -4).reshape(-1, steps * rows, width)
        products = torch.baddbmm(
            getattr(self, f"input_bias_{layer}").flatten(0, -3),
            both,
            getattr(self, f"input_weight_{layer}").flatten(0, -3),
        ).unflatten(1, (steps, rows))
        state = products.new_zeros(len(weight), rows, self.hidden)
        states = []
        for step in products.unbind(1):
            recurrent = torch.baddbmm(bias, state, weight)
            gates = (step[..., : 2 * self.hidden] + recurrent[..., : 2 * self.hidden]).sigmoid()
            reset, keep = gates.chunk(2, -1)
            candidate = torch.addcmul(
                step[..., 2 * self.hidden :], reset, recurrent[..., 2 * self.hidden :]
            ).tanh()
            state = torch.lerp(candidate, state, keep)
            states.append(state)
        ahead, back = torch.stack(states, -2).unflatten(0, (*lead, 2)).unbind(len(lead))
        return torch.cat((ahead, back.flip(-2)), -1)
