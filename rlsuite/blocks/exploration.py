"""Exploration noise that remembers: Ornstein-Uhlenbeck, pink, held, and as a function of the state.

Legend: B envs, A action, K filters or features. Leading axes are independent seeds.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

Filtered = Literal["white", "ou", "pink", "held"]
Correlation = Literal["white", "ou", "pink", "held", "sde"]

OU_RATE = 0.15 * 1e-2  # theta times dt of the DDPG authors' process: it forgets in 667 env steps
HELD_STEPS = 16  # held noise is drawn anew after 1 to 16 env steps; FlashSAC
PINK_OCTAVES = 10  # filters that forget in 1, 2, 4, ... 512 env steps; an episode has about 1,000
LEAST_FEATURE = 1e-6  # norm of features below which noise fades out instead of being 0 / 0


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

    def forward(self, state: Tensor, fresh: Tensor, step: Tensor) -> Tensor:
        """Return the next state, `[*, B, A, K]`.

        Args:
            state: of the last step, `[*, B, A, K]`.
            fresh: standard normal draws of the same shape.
            step: env steps since the episode began, `[*, B]`.
        """
        moved = self.decay * state + (1 - self.decay.square()).sqrt() * fresh
        first = torch.zeros_like(fresh) if self.starts_at_rest else fresh
        return torch.where((step == 0)[..., None, None], first, moved)

    def value(self, state: Tensor, features: Tensor) -> Tensor:
        """Return the noise `[*, B, A]` of a state."""
        return state.sum(-1) / math.sqrt(self.filters)


class StateDependentNoise(nn.Module):
    """Noise that is a function of what the actor sees: a random matrix times the actor's last features.

    Generalised state-dependent exploration (Raffin et al. 2021, arXiv 2005.05719): the matrix is kept for
    some env steps, in which equal states get equal noise, and actions are smooth. There the matrix has learnt
    deviations, which then also are the policy's. Here the features are divided by their length: the noise has
    variance 1 at every state, as the other kinds have, and the deviation stays what the agent says (its
    actor's, or a number); losses know nothing of it. Our choice, so that one door serves all kinds of noise.

    Args:
        features: K, length of the actor's last hidden layer.
        hold: env steps for which a matrix is kept; an episode begins with a new one.
    """

    def __init__(self, features: int, hold: int) -> None:
        super().__init__()
        self.filters, self.hold = features, hold

    def forward(self, state: Tensor, fresh: Tensor, step: Tensor) -> Tensor:
        """Return the matrices `[*, B, A, K]` of this step; arguments as of `CorrelatedNoise.forward`."""
        return torch.where((step % self.hold == 0)[..., None, None], fresh, state)

    def value(self, state: Tensor, features: Tensor) -> Tensor:
        """Return the noise `[*, B, A]` of matrices at features `[*, B, K]`."""
        along = (state * features.unsqueeze(-2)).sum(-1)
        return along / features.norm(dim=-1, keepdim=True).clamp(min=LEAST_FEATURE)


class HeldNoise(nn.Module):
    """White noise that is held for n env steps, n drawn with probability in proportion to n^-2, n <= 16.

    FlashSAC's exploration (Kim et al. 2026, arXiv 2604.04539). Its code has one count for all envs, which
    runs on through episodes; here every env has its own, and an episode begins with fresh noise (our choice).
    The state's two columns are the noise and the env steps left of it.
    """

    thresholds: Tensor
    filters = 2

    def __init__(self) -> None:
        super().__init__()
        weights = torch.arange(1, HELD_STEPS + 1, dtype=torch.float64) ** -2
        self.register_buffer("thresholds", weights.cumsum(0)[:-1] / weights.sum(), persistent=False)

    def durations(self, uniform: Tensor) -> Tensor:
        """Return how many env steps noise is held, for draws from U[0, 1)."""
        return 1 + torch.searchsorted(self.thresholds, uniform.double().contiguous(), right=True)

    def forward(self, state: Tensor, fresh: Tensor, step: Tensor) -> Tensor:
        """Return the next state, `[*, B, A, 2]`; see `CorrelatedNoise.forward`."""
        begins = step == 0
        left = state[..., 1] - 1
        # All actions of an env have the duration of the first one's draw.
        uniform = torch.special.ndtr(fresh[..., :1, 1])
        steps = self.durations(uniform).to(fresh.dtype).expand_as(left)
        drawn = torch.stack((fresh[..., 0], steps), -1)
        held = torch.stack((state[..., 0], left), -1)
        return torch.where((begins.unsqueeze(-1) | (left < 1)).unsqueeze(-1), drawn, held)

    def value(self, state: Tensor, features: Tensor) -> Tensor:
        """Return the noise `[*, B, A]` of a state."""
        return state[..., 0]


RememberingNoise = CorrelatedNoise | HeldNoise | StateDependentNoise


def remembering_noise(correlation: Correlation, features: int = 0, hold: int = 1) -> RememberingNoise | None:
    """Return the noise of that name, None for white; `StateDependentNoise` has the other arguments."""
    if correlation == "white":
        return None
    if correlation == "held":
        return HeldNoise()
    return StateDependentNoise(features, hold) if correlation == "sde" else CorrelatedNoise(correlation)
