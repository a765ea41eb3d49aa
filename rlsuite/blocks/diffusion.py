"""Diffusion p(z | s) of vectors given states: schedule, denoiser of z_0, its loss, and two samplers.

Ho et al. 2020 (DDPM, arXiv 2006.11239), Song et al. 2021 (DDIM, arXiv 2010.02502), Hang et al. 2023
(Min-SNR, arXiv 2303.09556), Ho & Salimans 2022 (guidance, arXiv 2207.12598). z is a skill's latent in LDCQ
(section 4.2), an action in MBRCSL.

Legend: N states, C latents of each, Z their length, O observation, T diffusion steps (not env steps). Time
t = 0 is clean, T is noise. Leading axes are independent seeds.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rlsuite.blocks.mlp import MLP, LayerNorm, Lead, Linear
from rlsuite.blocks.noise import Source

ScheduleKind = Literal["linear", "quadratic", "cosine"]

FIRST_BETA, LAST_BETA = 1e-4, 0.02  # variances added at t = 1 and t = T; Ho et al. 2020, section 4
COSINE_SHIFT = 0.008  # of the cosine schedule's origin; Nichol & Dhariwal 2021, equation 17
COSINE_BETA_MAX = 0.999  # the same paper
TIME_FEATURES = 128  # of the sinusoidal embedding of t; authors' code
TIME_PERIOD = 10_000.0  # longest wavelength of that embedding

Noise = Callable[[Tensor], Tensor]
"""Gives standard normal numbers of the shape of its argument."""

Predict = Callable[[Tensor, int], Tensor]
"""From latents at time t to clean ones."""


def rowwise(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a network of rows `[*lead, R, I]` to `[*lead, N, T, I]`."""
    return network(x.flatten(-3, -2)).unflatten(-2, x.shape[-3:-1])


class Schedule(NamedTuple):
    """Variances and what they leave of the signal; index t, from 0 to T.

    Attributes:
        beta: variance added at step t, `[T + 1]`; index 0 is not used.
        kept: share of the signal's variance at time t (alpha bar), `[T + 1]`.
    """

    beta: Tensor
    kept: Tensor

    @property
    def steps(self) -> int:
        """T."""
        return len(self.beta) - 1

    def snr(self) -> Tensor:
        """Signal-to-noise ratio at every t, `[T + 1]`; infinite where nothing was added."""
        return self.kept / (1 - self.kept)


def make_schedule(
    steps: int,
    name: ScheduleKind = "linear",
    *,
    released_indexing: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Schedule:
    """Return a schedule of T = `steps`.

    Args:
        steps: T.
        name: how the variances grow from 1e-4 to 0.02 (linear; quadratic: their roots do), or the cosine
            schedule, which ends in pure noise whatever T is.
        released_indexing: as in the authors' code, whose cumulative product takes the first variance twice:
            the last step then only halves the distance to the predicted latent.
        device: of the tensors.
        dtype: of the tensors; None is torch's default. Everything is computed in float64.
    """
    dtype = dtype or torch.get_default_dtype()
    if name == "cosine":
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        level = ((time + COSINE_SHIFT) / (1 + COSINE_SHIFT) * math.pi / 2).cos().square()
        beta = (1 - level[1:] / level[:-1]).clamp(max=COSINE_BETA_MAX)
    elif name == "quadratic":
        beta = torch.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, steps, dtype=torch.float64).square()
    else:
        beta = torch.linspace(FIRST_BETA, LAST_BETA, steps, dtype=torch.float64)
    first = beta[:1] if released_indexing else torch.zeros(1, dtype=torch.float64)
    beta = torch.cat((first, beta))
    return Schedule(beta.to(device, dtype), (1 - beta).cumprod(0).to(device, dtype))


def min_snr_weight(schedule: Schedule, limit: float) -> Tensor:
    """Weights of the squared error of z_0 at every t, `[T + 1]`: min(SNR, limit)."""
    return schedule.snr().clamp(max=limit)


def noised(schedule: Schedule, latent: Tensor, time: Tensor, noise: Tensor) -> Tensor:
    """Return latents at times t: sqrt(kept) z_0 + sqrt(1 - kept) noise.

    Args:
        schedule: what is kept.
        latent: z_0, `[..., Z]`.
        time: t, `[...]`.
        noise: as `latent`.
    """
    kept = schedule.kept[time].unsqueeze(-1)
    return kept.sqrt() * latent + (1 - kept).sqrt() * noise


def implied_noise(schedule: Schedule, latent: Tensor, clean: Tensor, time: int) -> Tensor:
    """Return the noise that leads from `clean` to `latent` at time t."""
    kept = schedule.kept[time]
    return (latent - kept.sqrt() * clean) / (1 - kept).sqrt()


def denoising_loss(clean: Tensor, predicted: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error of z_0, mean over `[N, Z]`, with weights `[N]`."""
    return (weight.unsqueeze(-1) * (clean - predicted).square()).mean((-2, -1))


def ancestral(
    schedule: Schedule, predict: Predict, start: Tensor, noise: Noise, extra_steps: int = 0
) -> Tensor:
    """Sample step by step (DDPM) with stds sqrt(beta_t).

    Args:
        schedule: of the training.
        predict: the denoiser.
        start: latents at time T, standard normal.
        noise: of every step but the last.
        extra_steps: repetitions of the last step; with standard indexing they ask the denoiser again at a
            latent that is its own prediction (authors' code: 4 to 10).
    """
    latent = start
    for time in [*range(schedule.steps, 0, -1), *[1] * extra_steps]:
        kept, before, beta = schedule.kept[time], schedule.kept[time - 1], schedule.beta[time]
        clean = predict(latent, time)
        latent = (before.sqrt() * beta * clean + (1 - beta).sqrt() * (1 - before) * latent) / (1 - kept)
        if time > 1:
            latent = latent + beta.sqrt() * noise(latent)
    return latent


def ddim_times(steps: int, count: int) -> list[int]:
    """Return `count` times from T downwards, evenly apart; the last one goes to 0."""
    return [round(steps * (count - index) / count) for index in range(count)]


def ddim(schedule: Schedule, predict: Predict, start: Tensor, count: int) -> Tensor:
    """Sample without noise in `count` steps (DDIM, eta = 0)."""
    latent = start
    times = ddim_times(schedule.steps, count)
    for time, after in zip(times, [*times[1:], 0], strict=True):
        clean = predict(latent, time)
        kept = schedule.kept[after]
        latent = kept.sqrt() * clean + (1 - kept).sqrt() * implied_noise(schedule, latent, clean, time)
    return latent


def time_features(time: Tensor, *, released: bool = False) -> Tensor:
    """Sines and cosines of t, `[..., 128]`; `released`: the slowest has the longest period."""
    half = TIME_FEATURES // 2
    slowing = -math.log(TIME_PERIOD) / (half - 1 if released else half)
    rate = torch.exp(torch.arange(half, device=time.device) * slowing)
    angle = time.unsqueeze(-1) * rate
    return torch.cat((angle.sin(), angle.cos()), -1)


class Block(nn.Module):
    """One width of the hourglass: state and time in, residual out.

    Args:
        width: W.
        features: F, length of the embeddings of state and time.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
        shared: its three norms are one (authors' code).
    """

    def __init__(
        self, width: int, features: int, lead: Lead, generator: Source, *, shared: bool = False
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"lead": lead, "generator": generator}
        self.project = Linear(features, width, **options)
        self.film = Linear(features, 2 * width, **options)
        self.first = Linear(2 * width, width, **options)
        self.second = Linear(width, width, **options)
        norms = [LayerNorm(width, lead=lead) for _ in range(1 if shared else 3)]
        self.norms = nn.ModuleList(norms * 3 if shared else norms)

    def context(self, state: Tensor) -> Tensor:
        """Project embedded states `[*lead, N, F]` to `[*lead, N, 1, W]`, once per sample, not per step."""
        return self.norms[0](self.project(state)).unsqueeze(-2)

    def forward(self, x: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """Return `[*lead, N, C, W]`; `time` is embedded, `[*lead, N or 1, F]`."""
        scale, shift = self.film(time).unsqueeze(-2).chunk(2, -1)
        both = torch.cat((x, context.expand_as(x)), -1)
        hidden = rowwise(lambda rows: self.norms[1](self.first(rows)), both)
        hidden = nn.functional.gelu(hidden * (1 + scale) + shift)
        return x + nn.functional.gelu(rowwise(lambda rows: self.norms[2](self.second(rows)), hidden))


class Hourglass(nn.Module):
    """Base of the denoisers, from a latent at time t and a state to the clean latent.

    Args:
        observation: O.
        latent: Z.
        widths: of the blocks on the way down; the way up has the same.
        features: length of the embeddings of state and time.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    def __init__(
        self,
        observation: int,
        latent: int,
        widths: Sequence[int],
        features: int,
        *,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"lead": lead, "generator": generator}
        embedding: dict[str, Any] = {"activation": "gelu", "layer_norm": True, **options}
        self.state = MLP(observation, (features,), features, **embedding)
        self.time = MLP(TIME_FEATURES, (features,), features, **embedding)
        self.enter = Linear(latent, widths[0], **options)
        self.leave = Linear(widths[0], latent, **options)
        pairs = list(pairwise(widths))
        self.narrow = nn.ModuleList(Linear(wide, thin, **options) for wide, thin in pairs)
        self.widen = nn.ModuleList(Linear(thin, wide, **options) for wide, thin in pairs)

    def blocks(self) -> Sequence[Block]:
        """Return all blocks, in the order of their contexts."""
        raise NotImplementedError

    def embed_state(self, observation: Tensor) -> Tensor:
        """Embed states, `[*lead, N, F]`."""
        return nn.functional.gelu(self.state(observation))

    def contexts(self, observation: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """Embed states `[*lead, N, O]` for all blocks; those with `keep` `[*lead, N]` 0 are unknown."""
        state = self.embed_state(observation)
        if keep is not None:
            state = state * keep.unsqueeze(-1)
        return [block.context(state) for block in self.blocks()]

    def forward(self, latent: Tensor, time: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        """Return predictions of z_0, `[*lead, N, C, Z]`.

        Args:
            latent: at time t, `[*lead, N, C, Z]`.
            time: t, `[*lead, N]`, or `[*lead, 1]` for one time of all.
            contexts: of `contexts`.
        """
        raise NotImplementedError

    def predictor(self, observation: Tensor, guidance: float = 0.0) -> Predict:
        """Return the denoiser at states `[*lead, N, O]` for a sampler.

        Guidance w says (1 + w) f(z, s) - w f(z, unknown state); it needs a denoiser that was trained with
        states left out.
        """
        contexts = self.contexts(observation)
        if guidance:
            unknown = self.contexts(observation, torch.zeros_like(observation[..., 0]))

        def predict(latent: Tensor, time: int) -> Tensor:
            when = latent.new_full((*latent.shape[:-3], 1), time)
            conditional = self(latent, when, contexts)
            if not guidance:
                return conditional
            return (1 + guidance) * conditional - guidance * self(latent, when, unknown)

        return predict


class Denoiser(Hourglass):
    """Hourglass of residual blocks with skips that are joined to what comes up; arguments of `Hourglass`."""

    def __init__(
        self,
        observation: int,
        latent: int,
        widths: Sequence[int],
        features: int,
        *,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__(observation, latent, widths, features, lead=lead, generator=generator)
        options: dict[str, Any] = {"lead": lead, "generator": generator}
        self.join = nn.ModuleList(Linear(2 * wide, wide, **options) for wide in widths[:-1])
        self.down = nn.ModuleList(Block(width, features, lead, generator) for width in widths)
        self.up = nn.ModuleList(Block(width, features, lead, generator) for width in widths)

    def blocks(self) -> Sequence[Block]:
        """Return the blocks on the way down and those on the way up, widest first."""
        return [*self.down, *self.up]

    def forward(self, latent: Tensor, time: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        """Return predictions of z_0, `[*lead, N, C, Z]`; see `Hourglass.forward`."""
        embedded = nn.functional.gelu(self.time(time_features(time.to(latent.dtype))))
        x = rowwise(self.enter, latent)
        seen = []
        for index, block in enumerate(self.down):
            if index:
                seen.append(x)
                x = rowwise(self.narrow[index - 1], x)
            x = block(x, contexts[index], embedded)
        for index in reversed(range(len(self.up))):
            x = self.up[index](x, contexts[len(self.down) + index], embedded)
            if index:
                x = rowwise(self.widen[index - 1], x)
                x = rowwise(self.join[index - 1], torch.cat((x, seen.pop()), -1))
        return rowwise(self.leave, x).to(latent.dtype)
