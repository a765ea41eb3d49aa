"""The stock as tensors: what an environment must say of it, how networks see it, how replayed rows change it.

Legend: N rows, m components of the stock. c' = (c + r) / gamma: the reward is added before the division.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

STOCK_LIMIT = 1e30
"""Stocks grow like gamma^-t; beyond this they stay, far below float32's greatest number. Our choice:
utilities that are linear beyond the returns' range choose the same actions."""
EMBEDDING_SIZE = 4  # features of each component


class StockSpace(NamedTuple):
    """Size and bounds of the stock, which stands in the last `size` places of an observation.

    Attributes:
        gamma: the discount that the stock is divided by.
        low: least first stock of each component.
        high: greatest first stock of each component.
    """

    gamma: float
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """Return the number of components, m."""
        return len(self.low)

    @property
    def bound(self) -> tuple[float, ...]:
        """Return the greatest absolute first stock of each component: a bound of the return, too."""
        return tuple(max(abs(a), abs(b)) for a, b in zip(self.low, self.high, strict=True))


def split(observation: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cut observations `[*, O]` into what the environment shows and the stock `[*, m]`."""
    shown = observation.shape[-1] - size
    return observation[..., :shown], observation[..., shown:]


def advance(stock: Tensor, reward: Tensor, gamma: float | Tensor) -> Tensor:
    """Return (c + r) / gamma within +-1e30, `[*, m]`; not a number where it was none before."""
    return ((stock + reward) / gamma).clamp(-STOCK_LIMIT, STOCK_LIMIT)


def embed(stock: Tensor, bound: Tensor) -> Tensor:
    """Return the features of stocks `[*, m]` that networks see, `[*, 4 m]`.

    Each component gives c / B clipped to [-1, 1], sign(c) log(1 + |c|) / log(1 + B), and whether c is below
    -B or above B. Our choice: stocks grow like gamma^-t and would ruin a network's conditioning; beyond the
    bound of the return nothing but the sign matters to utilities with their kinks at zero.
    """
    scaled = (stock / bound).clamp(-1, 1)
    symlog = stock.sign() * stock.abs().log1p() / bound.log1p()
    return torch.cat((scaled, symlog, (stock < -bound).to(stock.dtype), (stock > bound).to(stock.dtype)), -1)


def relabelled(
    stock: Tensor, next_stock: Tensor, discount: float | Tensor, fresh: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor]:
    """Give some replayed rows another stock: rewards do not depend on it, so the row stays true.

    The reward sum of a row is discount * c' - c, of each component: vector rewards need not be stored.

    Args:
        stock: before, `[N, m]`.
        next_stock: after the row's rewards, `[N, m]`.
        discount: gamma to the number of summed rewards, scalar or `[N, 1]`.
        fresh: new stocks, `[N, m]`.
        chosen: rows that get them, `[N, 1]` bool.

    Returns:
        stocks before and after, `[N, m]` each.
    """
    after = advance(next_stock, (fresh - stock) / discount, 1.0)
    return torch.where(chosen, fresh, stock), torch.where(chosen, after, next_stock)


def default_range(low: float, high: float, margin: float = 0.1) -> tuple[float, float]:
    """Return first stocks that cover all kinks of the optimal values of returns in [low, high].

    They are [-high - d, -low + d] with d a tenth of the range: outside there is nothing new to learn.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"range of returns [{low}, {high}]: must be finite and not empty")
    spare = margin * (high - low)
    return -high - spare, -low + spare
