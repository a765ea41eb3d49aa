"""Exploration noise that remembers: Ornstein-Uhlenbeck and pink noise as filters of white noise.

Legend: B envs, A action, K filters. Leading axes are independent seeds.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Correlation = Literal["white", "ou", "pink"]

OU_RATE = 0.15 * 1e-2  # theta times dt of the DDPG authors' process: it forgets in 667 env steps
PINK_OCTAVES = 10  # filters that forget in 1, 2, 4, ... 512 env steps; an episode has about 1,000


class CorrelatedNoise(nn.Module):
    """Noise of mean 0 and variance 1 at every step, as a sum of first-order filters of white noise.

    Filter k keeps the share `decay` of its value at each step. One filter of a long memory is the
    Ornstein-Uhlenbeck process (Lillicrap et al. 2015, arXiv 1509.02971). Filters whose memories double from
    one to the next have a spectrum of 1/f over these octaves: pink noise, which Eberhard et al. 2023 (ICLR,
    "Pink noise is all you need") draw for a whole episode by a Fourier transform. Filters need neither the
    episode's length nor room for its noise (our choice).

    Args:
        process: "ou" or "pink".
    """

    decay: Tensor

    def __init__(self, process: Literal["ou", "pink"]) -> None:
        super().__init__()
        memories = [2.0**octave for octave in range(PINK_OCTAVES)]
        decays = [1 - OU_RATE] if process == "ou" else [math.exp(-1 / memory) for memory in memories]
        self.starts_at_rest = process == "ou"  # at 0 in every episode, as its authors' does
        self.register_buffer("decay", torch.tensor(decays), persistent=False)

    @property
    def filters(self) -> int:
        """K."""
        return len(self.decay)

    def forward(self, state: Tensor, fresh: Tensor, begins: Tensor) -> Tensor:
        """Return the next state, `[*, B, A, K]`.

        Args:
            state: of the last step, `[*, B, A, K]`.
            fresh: standard normal draws of the same shape.
            begins: an episode begins at this step, `[*, B]`.
        """
        moved = self.decay * state + (1 - self.decay.square()).sqrt() * fresh
        first = torch.zeros_like(fresh) if self.starts_at_rest else fresh
        return torch.where(begins[..., None, None], first, moved)

    def value(self, state: Tensor) -> Tensor:
        """Return the noise `[*, B, A]` of a state."""
        return state.sum(-1) / math.sqrt(self.filters)
