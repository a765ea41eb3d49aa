"""An ensemble of Gaussian models of an environment's steps, of which the best on held-out data are used.

Chua et al. 2018 (PETS, arXiv 1805.12114) and Janner et al. 2019 (MBPO, arXiv 1906.08253): every member gives
mean and variance of (next observation - observation, reward), the log-variance between learnt bounds, and
learns from a resampled data set of its own; a step draws one of the elites for each row.

Legend: M members, E elites, N rows, O observation, A action, R recorded transitions; D = O + 1 targets, the
reward last. Leading axes are independent seeds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.blocks.mlp import MLP, Lead, Linear
from rlsuite.blocks.noise import Noise, Source, fill, generators_of

LOG_VAR_BOUNDS = (-10.0, 0.5)  # first ones; PETS' code
BOUND_WEIGHT = 0.01  # of the bounds' distance in the loss; PETS' code
LEAST_STD = 1e-6  # of inputs and targets: what never changes is left as it is


class Prediction(NamedTuple):
    """Mean and log-variance of standardised targets, `[*lead, M, N, D]` each."""

    mean: Tensor
    log_var: Tensor


class DynamicsEnsemble(nn.Module):
    """M models of (observation, action) to (change of the observation, reward).

    Args:
        observation: O.
        action: A.
        hidden: widths of the hidden layers.
        members: M.
        elites: E, at most M.
        lead: leading axes of independent seeds.
        generator: draws the initial weights.

    Attributes:
        elites: numbers of the members that `step` draws from, `[*lead, E]`; at first the first ones.
        input_mean, input_std: of (observation, action), `[O + A]`; `adopt` sets them.
        target_mean, target_std: of the targets, `[D]`; alike.
    """

    elites: Tensor
    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        observation: int,
        action: int,
        hidden: Sequence[int],
        *,
        members: int = 7,
        elites: int = 5,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__()
        if not 1 <= elites <= members:
            raise ValueError(f"{elites} elites of {members} members: take 1 to {members}")
        inputs, targets = observation + action, observation + 1
        self.net = MLP(
            inputs, hidden, 2 * targets, activation="silu", lead=(*lead, members), generator=generator
        )
        low, high = LOG_VAR_BOUNDS
        self.low = nn.Parameter(torch.full((*lead, 1, targets), low))
        self.high = nn.Parameter(torch.full((*lead, 1, targets), high))
        for name, size in (("input", inputs), ("target", targets)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("elites", torch.arange(elites).expand(*lead, elites).clone())

    @torch.no_grad()
    def adopt(self, inputs: Tensor, targets: Tensor | None = None) -> None:
        """Standardise by the moments of `inputs` `[R, O + A]` and, if given, of `targets` `[R, D]`."""
        for name, rows in (("input", inputs), ("target", targets)):
            if rows is not None:
                std, mean = torch.std_mean(rows.double(), 0, correction=0)
                getattr(self, f"{name}_mean").copy_(mean)
                getattr(self, f"{name}_std").copy_(torch.where(std > LEAST_STD, std, 1.0))

    def forward(self, observation: Tensor, action: Tensor) -> Prediction:
        """Predict standardised targets of `[*lead, N, O]` and `[*lead, N, A]`.

        The log-variance bends to its bounds by softplus, and has a gradient everywhere.
        """
        x = (torch.cat((observation, action), -1) - self.input_mean) / self.input_std
        mean, raw = self.net(x.unsqueeze(self.low.dim() - 2)).chunk(2, -1)
        low, high = self.low.unsqueeze(-2), self.high.unsqueeze(-2)
        below = high - F.softplus(high - raw)
        return Prediction(mean, low + F.softplus(below - low))

    def targets(self, observation: Tensor, reward: Tensor, next_observation: Tensor) -> Tensor:
        """Return what `forward` should predict, `[..., N, D]`, of rewards `[..., N]`."""
        raw = torch.cat((next_observation - observation, reward.unsqueeze(-1)), -1)
        return (raw - self.target_mean) / self.target_std

    def loss(self, predicted: Prediction, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the members' negative log-likelihoods and the price of wide bounds, `[*lead]`.

        Args:
            predicted: `[*lead, M, N, D]`.
            target: `[*lead, N, D]`.
            weight: how often a member's data set has a row, `[*lead, M, N]`; None is once.
        """
        price = BOUND_WEIGHT * (self.high - self.low).sum((-2, -1))
        return likelihood_loss(predicted, target.unsqueeze(-3), weight).sum(-1) + price

    def decay(self, rates: Sequence[float]) -> Tensor:
        """Return half the squared weights of each layer times its rate, `[*lead]`; biases are free.

        The last rate holds for all layers behind those that have one.
        """
        layers = [layer for layer in self.net if isinstance(layer, Linear)]
        rates = (*rates, *(rates[-1],) * (len(layers) - len(rates)))
        squares = [layer.weight.square().sum((-3, -2, -1)) for layer in layers]
        terms = [0.5 * rate * square for rate, square in zip(rates, squares, strict=False)]
        return torch.stack(terms).sum(0)

    @torch.no_grad()
    def errors(self, observation: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Return every member's mean squared error, `[*lead, M]`; rows as in `forward`."""
        return (self(observation, action).mean - target.unsqueeze(-3)).square().mean((-2, -1))

    @torch.no_grad()
    def step(self, observation: Tensor, action: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Draw next observations `[*lead, N, O]` and rewards `[*lead, N]`: an elite a row, and a sample.

        Args:
            observation: `[*lead, N, O]`.
            action: `[*lead, N, A]`.
            noise: which elite, then the sample.
        """
        predicted = self(observation, action)
        lots = noise.uniform(observation[..., 0])
        count = self.elites.shape[-1]
        place = (lots * count).long().clamp(max=count - 1)
        member = self.elites.gather(-1, place)[..., None, :, None]
        mean, log_var = (
            part.gather(-3, member.expand(*part.shape[:-3], 1, *part.shape[-2:])).squeeze(-3)
            for part in predicted
        )
        drawn = mean + (0.5 * log_var).exp() * noise.normal(mean)
        raw = drawn * self.target_std + self.target_mean
        return observation + raw[..., :-1], raw[..., -1]


def likelihood_loss(predicted: Prediction, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return every member's mean of (mean - target)^2 e^-lv + lv over rows and targets, `[*lead, M]`."""
    mean, log_var = predicted
    rows = ((mean - target).square() * (-log_var).exp() + log_var).mean(-1)
    return rows.mean(-1) if weight is None else (weight * rows).mean(-1)


def best_members(losses: Tensor, count: int) -> Tensor:
    """Return the numbers of the `count` members of least loss `[*lead, M]`, in order, `[*lead, E]`."""
    return losses.topk(count, -1, largest=False).indices.sort(-1).values


@torch.no_grad()
def keep_improved(
    kept: DynamicsEnsemble, online: DynamicsEnsemble, best: Tensor, losses: Tensor, share: float = 0.01
) -> Tensor:
    """Copy members that are better than ever on held-out rows, each by itself; return which, `[*lead, M]`.

    Args:
        kept: the best weights so far, changed in place.
        online: the present ones.
        best: the least losses so far, `[*lead, M]`, changed in place; infinite at first.
        losses: the present ones.
        share: of `best` by which a loss must be lower.
    """
    better = (losses < best * (1 - share)) | (best.isinf() & losses.isfinite())
    best.copy_(torch.where(better, losses, best))
    for old, new in zip(kept.net.parameters(), online.net.parameters(), strict=True):
        old.copy_(torch.where(better.view(*better.shape, *(1,) * (new.dim() - better.dim())), new, old))
    some = better.any(-1)[..., None, None]
    for name in ("low", "high"):  # of all members together
        bound = getattr(kept, name)
        bound.copy_(torch.where(some, getattr(online, name), bound))
    return better


class Resampled(NamedTuple):
    """Who learns from which of R recorded rows.

    Attributes:
        counts: how often each member's data set has each row, `[*lead, R, M]` float32; 0 where held out.
        held_out: numbers of the rows that are, `[*lead, H]`.
    """

    counts: Tensor
    held_out: Tensor


def resampled(rows: int, held_out: int, members: int, lead: Lead, source: Source) -> Resampled:
    """Hold H rows out, and draw R - H of the others with replacement for every member.

    Weights of a common batch by these counts are, in the mean, batches of each member's own data set.

    Args:
        rows: R.
        held_out: H, below R.
        members: M.
        lead: leading axes of seeds, each with rows of its own.
        source: draws; one generator a seed where there are several.
    """
    generators = generators_of(source)
    device = generators[0].device if generators else torch.device("cpu")
    order = torch.empty(*lead, rows, dtype=torch.int64, device=device)
    fill(order, source, lambda part, g: part.copy_(torch.randperm(rows, generator=g, device=device)))
    held, taken = order.split((held_out, rows - held_out), -1)
    lots = torch.empty(*lead, members, rows - held_out, dtype=torch.int64, device=device)
    fill(lots, source, lambda part, g: part.random_(rows - held_out, generator=g))
    drawn = taken.unsqueeze(-2).expand_as(lots).gather(-1, lots)
    counts = torch.zeros(*lead, members, rows, dtype=torch.float32, device=device)
    counts.scatter_add_(-1, drawn, torch.ones_like(drawn, dtype=torch.float32))
    return Resampled(counts.mT.contiguous(), held)
