"""Kron: PSGD with Kronecker-factored whitening preconditioners (Li 2018, arXiv 1512.04202).

Castanyer et al. 2025 (arXiv 2506.15544) train deep and wide networks of RL with it; their text speaks of
K-FAC, their code calls PSGD's Kron, and so do we. A gradient G `[P, Q]` is stepped on as L'L G R'R, whose
entries are white once the triangular factors L `[P, P]` and R `[Q, Q]` fit; vectors, and sides that are too
long, have a diagonal.

Why not a library: `heavyball` and `kron-torch` have one set of factors for a parameter, while leading axes
here are independent networks and seeds, each with factors of its own; they keep counts and a random generator
in Python, which neither a checkpoint of tensors nor a compiled step can hold, and know no guarded step.

Ours is that factors are refreshed *after* a step, from the momentum that it moved, and not before: the step
stays one straight line that is compiled as a whole, whatever is due beside it. The first step has factors of
1. Refreshes are due without chance, as in the authors' code; balancings, too, which it draws.

Legend: P, Q sides of a parameter seen as a matrix; leading axes are independent networks.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rlsuite import distributed as ranks
from rlsuite.agents.optim import Group, GuardedOptimizer
from rlsuite.blocks.noise import Source, normal

MOMENTUM = 0.9
PRECOND_LR = 0.1  # of the factors; authors' code
RMS_LIMIT = 1.1  # of a preconditioned gradient; authors' code
FLAT, DECAY = 500, 0.001  # steps with a refresh each, then how fast their share falls; authors' code
BALANCE_EVERY = 100  # refreshes between two balancings; authors' code draws them with probability 0.01


def refresh_share(step: int, least: float) -> float:
    """Return the share of steps that refresh around step n: exp(-(n - 500) / 1000), in [least, 1]."""
    return min(1.0, max(least, math.exp(-DECAY * (step - FLAT))))


@cache
def _falling(least: float) -> tuple[int, ...]:
    """Return the number of refreshes up to every step from 0 until the share is least, and a refresh is."""
    counts, waited, step = [0], 0, 0
    while True:
        step, waited = step + 1, waited + 1
        share = refresh_share(step, least)
        due = waited >= 1 / share
        counts.append(counts[-1] + due)
        waited = 0 if due else waited
        if due and share == least:
            return tuple(counts)


def refreshes(step: int, least: float) -> int:
    """Return how many of the first `step` steps refresh: each that ends a wait of 1 / share."""
    counts = _falling(least)
    after = max(0, step - (len(counts) - 1))
    return counts[min(step, len(counts) - 1)] + after // math.ceil(1 / least)


class _Entry(NamedTuple):
    """A parameter, how many of its last axes are one tensor, and its state.

    Attributes:
        parameter: `[*lead, ...]`.
        axes: 1 is a vector, 2 a matrix; more are merged to [first, rest].
        exp_avg: momentum, of the parameter's shape.
        factors: L and R, or the only one; `[*lead, P, P]`, or a diagonal `[*lead, P]`.
        products: L'L and R'R, alike.
    """

    parameter: Tensor
    axes: int
    exp_avg: Tensor
    factors: list[Tensor]
    products: list[Tensor]


class Kron(GuardedOptimizer):
    """PSGD Kron: `state[parameter]` holds `step`, `followed`, `exp_avg`, `factor_K` and `product_K`.

    Steps are taken by `descend`; `follow`, called after each update, refreshes the factors when that is due.
    Weight decay is decoupled. A step's learning rate is the group's times `lr_factor`.

    Args:
        groups: see `GuardedOptimizer`.
        axes: how many of the last axes of a parameter are one tensor; 1 where it is not named.
        lr_factor: times all learning rates.
        precond_lr: rate of the factors.
        least_share: share of steps that refresh the factors, in the end.
        max_size: longer sides have a diagonal.
        weight_decay: times the parameters, joins the preconditioned gradients.
        momentum: its decay.
    """

    def __init__(
        self,
        *groups: Group,
        axes: Mapping[Tensor, int],
        lr_factor: float = 1.0,
        precond_lr: float = PRECOND_LR,
        least_share: float = 0.03,
        max_size: int = 8192,
        weight_decay: float = 0.0,
        momentum: float = MOMENTUM,
    ) -> None:
        super().__init__(groups, {"weight_decay": weight_decay})
        self.lr_factor, self.precond_lr, self.momentum = lr_factor, precond_lr, momentum
        self.least_share = least_share
        self.followed = torch.zeros_like(self.count)  # the step that `follow` saw last
        self.entries = [
            [self._entry(p, axes.get(p, 1), max_size) for p in group["params"]] for group in self.param_groups
        ]

    def _entry(self, parameter: Tensor, axes: int, max_size: int) -> _Entry:
        shape = as_tensor(parameter, axes).shape
        sides = shape[-min(axes, 2) :]
        lead = shape[: len(shape) - len(sides)]
        factors = []
        for side in sides:
            diagonal = parameter.new_ones(side)
            full = len(sides) == 2 and side <= max_size
            factors.append(
                (torch.diag(diagonal) if full else diagonal).expand(*lead, *(side,) * (1 + full)).clone()
            )
        entry = _Entry(parameter, axes, torch.zeros_like(parameter), factors, [f.clone() for f in factors])
        shared = {"step": self.count, "followed": self.followed, "exp_avg": entry.exp_avg}
        numbered = {f"factor_{k}": factor for k, factor in enumerate(entry.factors)}
        numbered |= {f"product_{k}": product for k, product in enumerate(entry.products)}
        self.state[parameter] = shared | numbered
        return entry

    def _move(self, gradients: list[Tensor], bad: Tensor) -> None:
        good, count = bad == 0, self.count + 1
        unbias = 1 / (1 - self.momentum ** count.double())
        for group, entries, grads in zip(
            self.param_groups, self.entries, self.by_group(gradients), strict=True
        ):
            rate, decay = group["lr"] * self.lr_factor, group["weight_decay"]
            for entry, gradient in zip(entries, grads, strict=True):
                p, m = entry.parameter, entry.exp_avg
                new_m = m.lerp(gradient, 1 - self.momentum)
                unbiased = as_tensor(new_m * unbias.to(p.dtype), entry.axes)
                step = clipped(preconditioned(unbiased, entry.products), min(entry.axes, 2)).reshape(p.shape)
                step = step + decay * p if decay else step
                new_p = p - (rate.to(p.dtype) if isinstance(rate, Tensor) else rate) * step
                m.copy_(torch.where(good, new_m, m))
                p.copy_(torch.where(good, new_p, p))
        self.count.copy_(torch.where(good, count, self.count))

    @torch.no_grad()
    def follow(self, source: Source) -> None:
        """Refresh the factors if a step was taken since the last call and one of those steps says so.

        It asks the device for the number of steps: on CUDA that waits for the update.

        Args:
            source: draws the probes; one generator a seed where the first leading axis is seeds.
        """
        step, followed = (int(number) for number in torch.stack((self.count, self.followed)).tolist())
        if step == followed:
            return
        self.followed.copy_(self.count)
        number = refreshes(step, self.least_share)
        if number == refreshes(followed, self.least_share):
            return
        unbias = 1 / (1 - self.momentum**step)
        for entry in (entry for entries in self.entries for entry in entries):
            probe = as_tensor(_same_on_all_ranks(normal(entry.parameter, source)), entry.axes)
            gradient = as_tensor(entry.exp_avg * unbias, entry.axes)
            new = refreshed(entry.factors, gradient, probe, self.precond_lr)
            if number % BALANCE_EVERY == 0:
                new = balanced(new, gradient.dim() - len(new))
            for factor, product, fresh in zip(entry.factors, entry.products, new, strict=True):
                factor.copy_(fresh)
                product.copy_(fresh.mT @ fresh if _is_full(fresh, gradient, new) else fresh.square())

    def __getstate__(self) -> dict[str, Any]:
        """Return everything that a copy needs."""
        names = ("followed", "entries", "lr_factor", "precond_lr", "momentum", "least_share")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in names}}


def _same_on_all_ranks(probe: Tensor) -> Tensor:
    """Return the ranks' probes joined to one that is standard normal, too."""
    ranks.average_([probe])
    return probe * math.sqrt(ranks.size()) if ranks.size() > 1 else probe


def as_tensor(parameter: Tensor, axes: int) -> Tensor:
    """Return a parameter as `[*lead, P, Q]` (a kernel as [out, rest]), or `[*lead, P]` for one axis."""
    return parameter.flatten(1 - axes) if axes > 2 else parameter


def _is_full(factor: Tensor, gradient: Tensor, factors: Sequence[Tensor]) -> bool:
    """Return whether a factor is a triangular matrix and not a diagonal."""
    return len(factors) == 2 and factor.dim() == gradient.dim()


def preconditioned(gradient: Tensor, products: Sequence[Tensor]) -> Tensor:
    """Return L'L G R'R for G `[*lead, P, Q]`, or the only product times a vector `[*lead, P]`."""
    if len(products) == 1:
        return gradient * products[0]
    left, right = products
    gradient = left @ gradient if _is_full(left, gradient, products) else gradient * left.unsqueeze(-1)
    return gradient @ right if _is_full(right, gradient, products) else gradient * right.unsqueeze(-2)


def clipped(step: Tensor, axes: int) -> Tensor:
    """Return a step whose root mean square over the last `axes` axes is at most 1.1."""
    mean = step.square().mean(tuple(range(-axes, 0)), keepdim=True)
    return step * (RMS_LIMIT / mean.sqrt()).clamp(max=1)


def refreshed(factors: Sequence[Tensor], gradient: Tensor, probe: Tensor, rate: float) -> list[Tensor]:
    """Return factors after a step on |L G R'|^2 + |L'^-1 V R^-1|^2, whose minimum whitens G.

    On the group of triangular matrices that step is dL = triu(A A' - B B') L / |A A' + B B'|. A factor that
    would not be finite, and those of a gradient that is zero throughout, stay as they were.

    Args:
        factors: L and R, or a vector's only one.
        gradient: G, `[*lead, P, Q]` or `[*lead, P]`.
        probe: V, standard normal, alike.
        rate: share of the step; the norm makes it relative.
    """
    if len(factors) == 1:
        terms = [((gradient * factors[0]).square(), (probe / factors[0]).square())]
    else:
        left, right = factors
        a, b = gradient, probe
        if _is_full(left, a, factors):
            a, b = left @ a, torch.linalg.solve_triangular(left.mT, b, upper=False)
        else:
            a, b = a * left.unsqueeze(-1), b / left.unsqueeze(-1)
        if _is_full(right, gradient, factors):
            a, b = a @ right.mT, torch.linalg.solve_triangular(right, b, upper=True, left=False)
        else:
            a, b = a * right.unsqueeze(-2), b / right.unsqueeze(-2)
        full = _is_full(left, a, factors), _is_full(right, a, factors)
        terms = [
            (a @ a.mT, b @ b.mT) if full[0] else (a.square().sum(-1), b.square().sum(-1)),
            (a.mT @ a, b.mT @ b) if full[1] else (a.square().sum(-2), b.square().sum(-2)),
        ]
    lead = gradient.dim() - len(factors)
    shown = (gradient != 0).flatten(lead).any(-1)
    new = []
    for factor, (fitted, white) in zip(factors, terms, strict=True):
        if _is_full(factor, gradient, factors):
            change = (fitted - white).triu() @ factor / norm_bound(fitted + white)[..., None, None]
        else:
            change = (fitted - white) * factor / (fitted + white).amax(-1, keepdim=True)
        moved = factor - rate * change
        keep = shown & moved.isfinite().flatten(lead).all(-1)
        new.append(torch.where(_wide(keep, factor), moved, factor))
    return new


def norm_bound(matrix: Tensor) -> Tensor:
    """Return a lower bound of symmetric matrices' spectral norms: two power steps from the longest column."""
    longest = matrix.square().sum(-2).argmax(-1)
    column = matrix.gather(-1, longest[..., None, None].expand(*matrix.shape[:-1], 1))
    column = column / column.norm(dim=-2, keepdim=True)
    column = matrix @ column
    return (matrix @ (column / column.norm(dim=-2, keepdim=True))).norm(dim=(-2, -1))


def balanced(factors: Sequence[Tensor], lead: int) -> list[Tensor]:
    """Return L and R scaled to the same greatest entry: their product is theirs, and neither overflows."""
    if len(factors) == 1:
        return list(factors)
    greatest = [factor.abs().flatten(lead).amax(-1) for factor in factors]
    middle = (greatest[0] * greatest[1]).sqrt()
    return [factor * _wide(middle / most, factor) for factor, most in zip(factors, greatest, strict=True)]


def _wide(number: Tensor, factor: Tensor) -> Tensor:
    """Return one number for each network, `[*lead]`, as it broadcasts to a factor."""
    return number.view(*number.shape, *(1,) * (factor.dim() - number.dim()))


def tensor_axes(module: nn.Module) -> dict[Tensor, int]:
    """Return how many of a parameter's last axes are one tensor, for those with more than one.

    Our layers say so of what is called a weight (`weight_axes`); layers of torch have no leading axes. All
    others are vectors along their last axis.
    """
    axes: dict[Tensor, int] = {}
    for layer in module.modules():
        marked = getattr(layer, "weight_axes", 0)
        strange = type(layer).__module__.startswith("torch.nn")
        for name, parameter in layer.named_parameters(recurse=False):
            if marked and "weight" in name:
                axes[parameter] = marked
            elif strange and parameter.dim() > 1:
                axes[parameter] = parameter.dim()
    return axes
