"""Output heads: squashed, unsquashed, deterministic, noise-fed actors, critics of many kinds, state values.

Under autocast the trunks compute in bfloat16; heads hand out the precision of the observation.

Legend: N batch, O observation, A action, M ensemble members; leading axes are independent networks.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import Noise

LOG_2PI = math.log(2 * math.pi)
LOG_2 = math.log(2.0)
POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(10)  # of `mean_of_tanh`
RAW_STD_FLOOR = -5.0  # of STAC's heads, before softplus: a std is at least 0.0067; author's code


class Gaussian(NamedTuple):
    """Mean and standard deviation, of the same shape."""

    mean: Tensor
    std: Tensor


def squash(policy: Gaussian, noise: Tensor, log_half_range: float | Tensor = 0.0) -> tuple[Tensor, Tensor]:
    """Sample tanh(mean + std * noise) and its log-density.

    Args:
        policy: pre-tanh Gaussian, `[*, N, A]`.
        noise: standard normal draws, `[*, N, A]`.
        log_half_range: sum over the action of log((high - low) / 2). With it the density is that of the
            action in the environment's units (DSAC-T, SAC's authors' releases); with 0 that of the action
            in [-1, 1].

    Returns:
        action in [-1, 1], `[*, N, A]`, and its log-density, `[*, N]`.
    """
    u = torch.addcmul(policy.mean, policy.std, noise)
    # log N(u) - log(1 - tanh(u)^2), the latter exactly as 2 (log 2 - u - softplus(-2u)): no epsilon is needed
    varying = 2 * (u + F.softplus(-2 * u)) - policy.std.log() - 0.5 * noise.square()
    constant = u.shape[-1] * (0.5 * LOG_2PI + 2 * LOG_2)
    return u.tanh(), varying.sum(-1) - (constant + log_half_range)


def log_density(policy: Gaussian, value: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian, `[*, N]`, at `value` of `[*, N, A]`; finite on the bounds, too."""
    scaled = (value - policy.mean) / policy.std
    varying = policy.std.log() + 0.5 * scaled.square()
    return -varying.sum(-1) - 0.5 * LOG_2PI * value.shape[-1]


def floored_softplus(raw: Tensor) -> Tensor:
    """Deviation softplus(max(raw, -5)); below the floor nothing pulls on `raw` (STAC, author's code)."""
    return F.softplus(raw.clamp(min=RAW_STD_FLOOR))


def seen_part(observation: Tensor, size: int) -> Tensor:
    """Return the first numbers of observations, which an actor sees; the same tensor where it sees all."""
    return observation if observation.shape[-1] == size else observation[..., :size]


def tanh_of_mean(gaussian: Gaussian) -> Tensor:
    """Return the usual evaluation action of a squashed Gaussian."""
    return gaussian.mean.tanh()


def mean_of_tanh(gaussian: Gaussian) -> Tensor:
    """Return the mean of tanh(u), u normal, by Gauss-Hermite quadrature, `[N, A]`.

    The STAC paper's code averages ten random samples: the same mean, with noise. Without chance an
    evaluation is repeatable and needs no random stream of its own.
    """
    total = torch.zeros_like(gaussian.mean)
    for point, weight in zip(POINTS.tolist(), (WEIGHTS / WEIGHTS.sum()).tolist(), strict=True):
        total += weight * torch.add(gaussian.mean, gaussian.std, alpha=point).tanh()
    return total


EVALUATION_ACTIONS = {"mode": tanh_of_mean, "mean": mean_of_tanh}


class GaussianActor(nn.Module):
    """State-dependent Gaussian before the tanh: one trunk, outputs split into mean and log-std.

    Args:
        observation: O.
        action: A.
        shape: of the trunk.
        log_std_range: hard clamp of the log-std; (-20, 2) in SAC, (-20, 0.5) in DSAC-T. None: the second
            output goes through a softplus with a floor (STAC).
    """

    def __init__(
        self, observation: int, action: int, shape: NetShape, *, log_std_range: tuple[float, float] | None
    ) -> None:
        super().__init__()
        self.seen = observation
        self.trunk = shape.trunk(observation, 2 * action)
        self.log_std_range = log_std_range

    def forward(self, observation: Tensor, noise: Noise | None = None) -> Gaussian:
        """Return the pre-tanh Gaussian, `[*lead, N, A]` each, for `[*lead, N, O]`; noise is of dropout.

        Of longer observations the first O numbers are read: the others are the critics'.
        """
        observation = seen_part(observation, self.seen)
        mean, raw = self.trunk(observation, noise).to(observation.dtype).chunk(2, -1)
        if self.log_std_range is None:
            return Gaussian(mean, floored_softplus(raw))
        return Gaussian(mean, raw.clamp(*self.log_std_range).exp())


class UnsquashedActor(nn.Module):
    """Gaussian over actions themselves: the mean is tanh of the trunk, the std the same everywhere.

    The log-std is a vector of parameters, 0 at first. Actions outside [-1, 1] have density too, and
    those on the bounds a finite one, which a squashed Gaussian does not give them (IQL's authors' code).

    Args:
        observation: O.
        action: A.
        shape: of the trunk.
        log_std_range: hard clamp of the log-std.
        tanh: of the mean; without it the mean may be anything (O-DICE).
    """

    def __init__(
        self,
        observation: int,
        action: int,
        shape: NetShape,
        *,
        log_std_range: tuple[float, float],
        tanh: bool = True,
    ) -> None:
        super().__init__()
        self.trunk = shape.trunk(observation, action)
        self.log_std = nn.Parameter(torch.zeros(*shape.lead, action))
        self.log_std_range, self.tanh = log_std_range, tanh

    def forward(self, observation: Tensor, noise: Noise | None = None) -> Gaussian:
        """Return the Gaussian of actions, `[*lead, N, A]` each, for `[*lead, N, O]`; noise is of dropout."""
        mean = self.trunk(observation, noise).to(observation.dtype)
        mean = mean.tanh() if self.tanh else mean
        std = self.log_std.clamp(*self.log_std_range).exp()
        return Gaussian(mean, std.unsqueeze(-2).expand_as(mean))


class DeterministicActor(nn.Module):
    """tanh of a trunk: actions in [-1, 1], `[*lead, N, A]`."""

    def __init__(self, observation: int, action: int, shape: NetShape) -> None:
        super().__init__()
        self.seen = observation
        self.trunk = shape.trunk(observation, action)

    def forward(self, observation: Tensor, noise: Noise | None = None) -> Tensor:
        """Return actions `[*lead, N, A]` for `[*lead, N, O]`; noise is of dropout.

        Of longer observations the first O numbers are read: the others are the critics'.
        """
        observation = seen_part(observation, self.seen)
        return self.trunk(observation, noise).to(observation.dtype).tanh()


class NoiseActor(nn.Module):
    """Actions of an observation and A numbers of noise, by a trunk without bounds; callers clip them.

    Args:
        observation: O.
        action: A.
        shape: of the trunk.
    """

    def __init__(self, observation: int, action: int, shape: NetShape) -> None:
        super().__init__()
        self.action = action
        self.trunk = shape.trunk(observation + action, action)

    def forward(self, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return `[*lead, N, A]` for `[*lead, N, O]` and noise `[*lead, N, A]`; None is zeros."""
        if noise is None:
            noise = observation.new_zeros(*observation.shape[:-1], self.action)
        return self.trunk(torch.cat((observation, noise), -1)).to(observation.dtype)


class ValueNetwork(nn.Module):
    """Value of a state, or the values that M members give it.

    Args:
        observation: O.
        shape: of the trunk.
        members: M; the member axis is the last leading one. 0 is one network without that axis.
    """

    def __init__(self, observation: int, shape: NetShape, *, members: int = 0) -> None:
        super().__init__()
        self.members = members
        self.trunk = shape.trunk(observation, 1, members=(members,) if members else ())

    def forward(self, observation: Tensor) -> Tensor:
        """Return `[*lead, N]`, or of members `[*lead, M, N]`, for `[*lead, N, O]`."""
        shared = observation.unsqueeze(-3) if self.members else observation
        return self.trunk(shared).to(observation.dtype).squeeze(-1)


class _Critic(nn.Module):
    """M members over concatenated (observation, action); the member axis is the last leading one.

    `action_scale` multiplies the actions, A numbers; None leaves them as they are.
    """

    outputs: int
    action_scale: Tensor | None

    def __init__(
        self,
        observation: int,
        action: int,
        shape: NetShape,
        *,
        members: int,
        action_scale: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        scale = None if action_scale is None else torch.tensor(tuple(action_scale))
        self.register_buffer("action_scale", scale, persistent=False)
        self.trunk = shape.trunk(observation + action, self.outputs, members=(members,))

    def features(self, observation: Tensor, action: Tensor, noise: Noise | None) -> Tensor:
        if self.action_scale is not None:
            action = action * self.action_scale
        joined = torch.cat((observation, action), -1).unsqueeze(-3)
        return self.trunk(joined, noise).to(observation.dtype)


class ScalarCritic(_Critic):
    """Q-values of M members."""

    outputs = 1

    def forward(self, observation: Tensor, action: Tensor, noise: Noise | None = None) -> Tensor:
        """Return `[*lead, M, N]` for `[*lead, N, O]` and `[*lead, N, A]`."""
        return self.features(observation, action, noise).squeeze(-1)


class QuantileCritic(_Critic):
    """K quantiles of the return for M members, in no order; `quantiles` is K."""

    def __init__(
        self, observation: int, action: int, shape: NetShape, *, members: int, quantiles: int
    ) -> None:
        self.outputs = quantiles
        super().__init__(observation, action, shape, members=members)

    def forward(self, observation: Tensor, action: Tensor, noise: Noise | None = None) -> Tensor:
        """Return `[*lead, M, N, K]` for `[*lead, N, O]` and `[*lead, N, A]`."""
        return self.features(observation, action, noise)


class GaussianCritic(_Critic):
    """Mean and standard deviation of the return for M members; std = softplus, no floor (DSAC-T)."""

    outputs = 2

    def std(self, raw: Tensor) -> Tensor:
        """Map the second output to a standard deviation."""
        return F.softplus(raw)

    def forward(self, observation: Tensor, action: Tensor, noise: Noise | None = None) -> Gaussian:
        """Return the return's Gaussian, `[*lead, M, N]` each, for `[*lead, N, O]` and `[*lead, N, A]`."""
        mean, raw = self.features(observation, action, noise).unbind(-1)
        return Gaussian(mean, self.std(raw))

    def expected(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return the means alone, `[*lead, M, N]`."""
        return self(observation, action).mean


class FlooredGaussianCritic(GaussianCritic):
    """The same with STAC's floor under the std."""

    def std(self, raw: Tensor) -> Tensor:
        """Map the second output to a standard deviation of at least 0.0067."""
        return floored_softplus(raw)
