"""Distributional value iteration on tensors: many states, stocks and objectives at once, on any device.

`rlsuite.returns.tabular` is exact and small; here the stock lives on an even grid, the law of the return
on even atoms (categorical) or as equal quantiles, so every sweep is a few batched products. What that costs
in accuracy is known: `GridSolver.error_bound`.

Legend: F objectives, S states, A actions, J outcomes, C stocks, M atoms or quantiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rlsuite.errors import ConfigError
from rlsuite.returns.laws import Law
from rlsuite.returns.mdp import State
from rlsuite.returns.objectives import Utility, check_discount
from rlsuite.returns.table import Table
from rlsuite.returns.tabular import Policy

TIE = 1e-12  # an action must be better than an earlier one by this, relative: rounding decides no ties


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Evenly spaced numbers, both ends included."""

    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        """Raise ConfigError for fewer than two numbers, or none in between."""
        if self.count < 2 or not (
            math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high
        ):
            raise ConfigError(
                f"grid of {self.count} numbers from {self.low} to {self.high}: at least two are needed"
            )

    @property
    def step(self) -> float:
        """Return the distance of neighbours."""
        return (self.high - self.low) / (self.count - 1)

    def values(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the numbers, `[count]`."""
        return torch.linspace(self.low, self.high, self.count, dtype=torch.float64).to(device, dtype)


@dataclass(frozen=True)
class Move:
    """Effect of one reward on stocks and atoms, the same for every state."""

    low: Tensor  # neighbouring stocks of (c + r) / gamma, [C] int64
    high: Tensor
    weight: Tensor  # of the higher one, [C]
    projection: Tensor  # from an atom to the atoms around r + gamma z, [M, M]
    shift: Tensor  # how far an atom is moved by that in the mean, [M]
    stock_shift: float  # the greatest mean distance of a stock to the neighbours used


class GridSolver:
    """Distributional value iteration for several utilities at once, from a return of zero.

    Args:
        table: the process, of plain rewards.
        utilities: what to maximise; each is solved for all states and stocks.
        gamma: discount.
        stocks: grid of stocks. A stock beyond it counts as its end, which costs nothing for utilities that
            are linear beyond minus the range of returns, as long as the grid covers that.
        atoms: grid of returns for `categorical`; for `quantile` its `count` alone says how many.
        representation: `categorical` splits each atom between its two neighbours, which keeps means, and
            interpolates between stocks; `quantile` keeps equal quantiles and takes the nearest stock.
        device: where to compute.
        dtype: float64 by default; float32 is twice as fast.

    Raises:
        ConfigError: a utility that gamma forbids, vectors, or utilities with several components.

    Attributes:
        laws: probabilities of the atoms, or quantiles in order, `[F, S, C, M]`.
        values: E f(c + G), `[F, S, C]`.
        actions: greedy actions, `[F, S, C]` int64.
        sweeps: how many were made.
    """

    def __init__(
        self,
        table: Table,
        utilities: Sequence[Utility],
        gamma: float,
        stocks: Grid,
        atoms: Grid,
        *,
        representation: Literal["categorical", "quantile"] = "categorical",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if table.reward.ndim != 3:
            raise ConfigError("vector rewards have no grid here: use rlsuite.returns.tabular")
        for utility in utilities:
            check_discount(utility, gamma)
            if utility.vector:
                raise ConfigError(f"{utility} takes vectors; the solver on grids takes plain rewards")
        self.table, self.utilities, self.gamma = table, tuple(utilities), gamma
        self.stock_grid, self.atom_grid, self.representation = stocks, atoms, representation
        self.device, self.dtype = torch.device(device), dtype
        self.stocks = stocks.values(self.device, dtype)
        self.atoms = atoms.values(self.device, dtype)
        rewards, index = table.reward.unique(return_inverse=True)
        self._moves = [self._move(float(reward)) for reward in rewards]
        self._rewards = rewards.to(self.device, dtype)
        self._index = index
        self._probability = table.probability.to(self.device, dtype)
        self._next_state = table.next_state.to(self.device)
        self._live = ~table.terminal.to(self.device)
        # f(c + z) of every stock and atom: what categorical laws are judged by.
        grid = self.stocks.unsqueeze(-1) + self.atoms
        self._worth = torch.stack([utility(grid) for utility in self.utilities])
        self.laws = self._zero()
        self.values, self.actions = self._judge(self.laws), torch.zeros(())
        self.actions = torch.zeros(self.values.shape, dtype=torch.int64, device=self.device)
        self.sweeps = 0
        self._drift = torch.zeros(
            (), dtype=dtype, device=self.device
        )  # discounted displacement by projections

    def sweep(self) -> None:
        """Apply the optimality operator once, to all objectives, states and stocks."""
        best: Tensor | None = None
        laws, values = torch.empty_like(self.laws), torch.empty_like(self.values)
        displaced = torch.zeros_like(self._drift)
        for action in range(self._probability.shape[1]):
            law, moved = self._backed_up(action)
            value = self._judge(law)
            displaced = torch.maximum(displaced, moved)
            if best is None:
                laws, values, best = law, value, torch.zeros_like(self.actions)
                continue
            better = value > values + TIE * (1 + values.abs())
            laws = torch.where(better.unsqueeze(-1), law, laws)
            values, best = torch.where(better, value, values), best.masked_fill(better, action)
        assert best is not None
        live = self._live.view(1, -1, 1)
        self.laws = torch.where(live.unsqueeze(-1), laws, self._zero())
        self.values, self.actions = self._judge(self.laws), best
        self._drift = self.gamma * (self._drift + 2 * self.stock_shift) + displaced
        self.sweeps += 1

    def solve(self, sweeps: int) -> "GridSolver":
        """Make this many more sweeps; return itself."""
        for _ in range(sweeps):
            self.sweep()
        return self

    @property
    def stock_shift(self) -> float:
        """Return the greatest mean distance between a next stock and those on the grid that stand for it."""
        return max(move.stock_shift for move in self._moves)

    def error_bound(self, utility: Utility, start: float | None = None) -> float:
        """Return how far `values` may be from the optimum, at any state and stock.

        L (gamma^n w + sum over sweeps of gamma^k (p + 2 gamma d)): w is the distance of a return of zero to
        the optimal laws, p what projections onto atoms displaced, as measured while solving, d that to the
        stocks on the grid. A law that is right for a stock d away is worse by at most 2 L d.

        Args:
            utility: with a Lipschitz constant.
            start: w; None is r_max / (1 - gamma), and nothing once a process without cycles is used up.

        Raises:
            ConfigError: the utility has no Lipschitz constant, or w is not known.
        """
        if utility.lipschitz is None:
            raise ConfigError(f"{utility} has no Lipschitz constant, and so no error bound")
        if start is None:
            depth = longest_path(self.table)
            if depth is not None and self.sweeps >= depth:
                start = 0.0
            elif self.gamma < 1:
                start = float(self._rewards.abs().max()) / (1 - self.gamma)
            else:
                raise ConfigError("with gamma = 1 and states that return, w is not known: give it as `start`")
        return utility.lipschitz * (self.gamma**self.sweeps * start + float(self._drift))

    def law(self, objective: int, state: State, stock: float) -> Law:
        """Return the law of the return at a state and the nearest stock."""
        where = objective, self.table.states.index(state), self._nearest(stock)
        samples = self.laws[where].tolist()
        if self.representation == "categorical":
            return {z: p for z, p in zip(self.atoms.tolist(), samples, strict=True) if p > 0}
        law: dict[float, float] = {}
        for value in samples:
            law[value] = law.get(value, 0.0) + 1 / len(samples)
        return law

    def value(self, objective: int, state: State, stock: float) -> float:
        """Return the value at a state and the nearest stock."""
        return float(self.values[objective, self.table.states.index(state), self._nearest(stock)])

    def policy(self, objective: int) -> Policy:
        """Return the greedy policy, stationary, of the nearest stock; `tabular.run_policy` plays it."""
        places = {state: place for place, state in enumerate(self.table.states)}
        actions = self.actions[objective].cpu()

        def act(state: State, stock: Any, steps: int) -> int:
            return int(actions[places[state], self._nearest(float(stock))])

        return act

    def start_values(self) -> Tensor:
        """Return the values over the first states, `[F, C]`: of stocks that are chosen before them."""
        return torch.einsum("s,fsc->fc", self.table.start.to(self.values), self.values)

    def _nearest(self, stock: float) -> int:
        place = round((stock - self.stock_grid.low) / self.stock_grid.step)
        return min(max(place, 0), self.stock_grid.count - 1)

    def _zero(self) -> Tensor:
        """Return the law of a return of zero everywhere."""
        shape = (len(self.utilities), len(self.table.states), self.stock_grid.count, self.atom_grid.count)
        if self.representation == "quantile":
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        return _spread(self.atom_grid, torch.zeros(1, dtype=torch.float64))[0].to(self.stocks).expand(shape)

    def _move(self, reward: float) -> Move:
        grid, step = self.stock_grid, self.stock_grid.step
        stock = (grid.values(torch.device("cpu"), torch.float64) + reward) / self.gamma
        place = ((stock - grid.low) / step).clamp(0, grid.count - 1)
        if self.representation == "quantile":
            nearest = place.round()
            distance = (place - nearest).abs().max() * step
            low = high = nearest
            weight = torch.zeros_like(place)
        else:
            place = _snapped(place)
            low = place.floor().clamp(max=grid.count - 2)
            high, weight = low + 1, place - low
            distance = (2 * weight * (1 - weight)).max() * step
        moved = reward + self.gamma * self.atom_grid.values(torch.device("cpu"), torch.float64)
        projection, shift = _spread(self.atom_grid, moved), _displacement(self.atom_grid, moved)
        return Move(
            low.long().to(self.device),
            high.long().to(self.device),
            weight.to(self.stocks).unsqueeze(-1),
            projection.to(self.stocks),
            shift.to(self.stocks),
            float(distance),
        )

    def _backed_up(self, action: int) -> tuple[Tensor, Tensor]:
        """Return the laws of an action, `[F, S, C, M]`, and how far projecting moved them, at most."""
        if self.representation == "quantile":
            return self._backed_up_quantiles(action)
        law = torch.zeros_like(self.laws)
        displaced = torch.zeros_like(self.values)
        for outcome in range(self._probability.shape[2]):
            for place, move in enumerate(self._moves):
                rows = (self._index[:, action, outcome] == place).nonzero().flatten().to(self.device)
                if not len(rows):
                    continue
                after = self.laws[:, self._next_state[rows, action, outcome]]
                mixed = torch.lerp(after[:, :, move.low], after[:, :, move.high], move.weight)
                chance = self._probability[rows, action, outcome].view(1, -1, 1)
                law[:, rows] += chance.unsqueeze(-1) * (mixed @ move.projection)
                displaced[:, rows] += chance * (mixed @ move.shift)
        return law, displaced[:, self._live].amax()

    def _backed_up_quantiles(self, action: int) -> tuple[Tensor, Tensor]:
        count = self.atom_grid.count
        pieces, weights = [], []
        for outcome in range(self._probability.shape[2]):
            piece = torch.empty_like(self.laws)
            for place, move in enumerate(self._moves):
                rows = (self._index[:, action, outcome] == place).nonzero().flatten().to(self.device)
                after = self.laws[:, self._next_state[rows, action, outcome]]
                piece[:, rows] = self._rewards[place] + self.gamma * after[:, :, move.low]
            pieces.append(piece)
            weights.append(self._probability[:, action, outcome] / count)
        every, order = torch.cat(pieces, -1).sort(-1)
        shares = torch.stack(weights, -1).repeat_interleave(count, -1)  # [S, J M]
        levels = shares[None, :, None].expand_as(every).gather(-1, order).cumsum(-1)
        midpoints = (torch.arange(count, device=self.device, dtype=self.dtype) + 0.5) / count
        # A hair lower: sums of equal shares miss the midpoint that they should meet by rounding.
        wanted = (midpoints - 1e-9).expand(*every.shape[:-1], count).contiguous()
        index = torch.searchsorted(levels.contiguous(), wanted).clamp(max=every.shape[-1] - 1)
        law = every.gather(-1, index)
        width = (every[..., -1] - every[..., 0])[:, self._live]
        return law, width.amax() / (2 * count)

    def _judge(self, law: Tensor) -> Tensor:
        """Return E f(c + G), `[F, S, C]`."""
        if self.representation == "categorical":
            return torch.einsum("fscm,fcm->fsc", law, self._worth)
        total = self.stocks.unsqueeze(-1) + law
        return torch.stack(
            [utility(sums).mean(-1) for utility, sums in zip(self.utilities, total, strict=True)]
        )


def longest_path(table: Table) -> int | None:
    """Return the most steps that an episode can have; None where a state can come back."""
    possible = table.probability > 0
    left = {row: set(table.next_state[row][possible[row]].tolist()) for row in range(len(table.states))}
    left = {row: after for row, after in left.items() if not table.terminal[row]}
    depth = 0
    while left:  # take away what leads to ended states alone, layer by layer
        ended = [row for row, after in left.items() if not after & left.keys()]
        if not ended:
            return None
        for row in ended:
            del left[row]
        depth += 1
    return depth


def _snapped(place: Tensor) -> Tensor:
    """Put places that rounding has moved off the grid back on it."""
    near = place.round()
    return torch.where((place - near).abs() < 1e-9, near, place)


def _spread(grid: Grid, values: Tensor) -> Tensor:
    """Return the weights on the grid that stand for numbers `[N]`, `[N, M]`; ends take what is beyond."""
    place = _snapped(((values - grid.low) / grid.step).clamp(0, grid.count - 1))
    low = place.floor().clamp(max=grid.count - 2).long()
    weight = place - low
    shares = torch.zeros(len(values), grid.count, dtype=torch.float64)
    shares.scatter_(1, low.unsqueeze(1), (1 - weight).unsqueeze(1))
    return shares.scatter_(1, low.unsqueeze(1) + 1, weight.unsqueeze(1))


def _displacement(grid: Grid, values: Tensor) -> Tensor:
    """Return the mean distance of numbers `[N]` to the atoms that stand for them, `[N]`."""
    atoms = grid.values(torch.device("cpu"), torch.float64)
    return (_spread(grid, values) * (values.unsqueeze(1) - atoms).abs()).sum(1)
