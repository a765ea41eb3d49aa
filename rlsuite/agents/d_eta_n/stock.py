"""Transitions with a stock: their targets, edited stocks, and what an action is worth.

Legend: N batch, O observation, A actions, K quantiles, m components of the stock (1 without a stock). Leading
axes are independent seeds.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rlsuite.agents.base import Spaces
from rlsuite.agents.d_eta_n.config import DEtaNConfig
from rlsuite.blocks.masks import allowed
from rlsuite.blocks.noise import Noise
from rlsuite.blocks.quantiles import greedy_quantiles
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch
from rlsuite.returns.objectives import Exponential, Mean, Utility
from rlsuite.returns.stock import relabelled, split


class Stocked(NamedTuple):
    """Transitions with their stocks `[N, m]`, and the rewards by component `[N, m]`."""

    rows: Batch
    stock: Tensor
    next_stock: Tensor
    reward: Tensor


def expected_utility(utility: Utility, stock: Tensor, theta: Tensor) -> Tensor:
    """Mean over the quantiles of f(c + theta), `[*, A]` float64, for c `[*, m]` and theta `[*, A, K, m]`.

    In double precision: c may be far greater than the differences between actions. Quantiles of several
    components are marginal: right for utilities that are sums over components.
    """
    total = stock.double().unsqueeze(-2).unsqueeze(-2) + theta.double()
    return utility(total if utility.vector else total.squeeze(-1)).mean(-1)


def quantile_target(batch: Stocked, next_theta: Tensor) -> Tensor:
    """Target samples r + gamma (1 - terminated) theta', `[N, K, m]`; a truncated row bootstraps."""
    discount = batch.rows.discount * (1 - batch.rows.terminated)
    return batch.reward.unsqueeze(-2) + discount[..., None, None] * next_theta


def edit_stocks(batch: Stocked, bound: Tensor, share: float, noise: Noise) -> Stocked:
    """Give a share of the rows a stock uniform in [-bound, bound]; rewards stay as they are."""
    draw = noise.uniform(batch.stock.new_empty(*batch.stock.shape[:-1], 1 + batch.stock.shape[-1]))
    fresh = bound * (2 * draw[..., 1:] - 1)
    discount = batch.rows.discount
    wide = discount.unsqueeze(-1) if isinstance(discount, Tensor) else discount
    stock, next_stock = relabelled(batch.stock, batch.next_stock, wide, fresh, draw[..., :1] < share)
    return batch._replace(stock=stock, next_stock=next_stock)


def choosable(value: Tensor, observation: Tensor, mask: bool) -> Tensor:
    """Return worths `[*, A]`; minus infinity for what a `mask` at the end of `[*, O]` does not allow."""
    return value.masked_fill(~allowed(observation, value.shape[-1]), -math.inf) if mask else value


def action_values(utility: Utility, stock: Tensor, theta: Tensor, config: DEtaNConfig) -> Tensor:
    """Worth of every action, `[*, A]` float64, at stocks `[*, m]` with quantiles `[*, A, K, m]`."""
    mean = theta.double().mean(-2).sum(-1)
    if config.shaped:
        return mean
    return expected_utility(utility, stock, theta) + config.mean_bonus * mean


@torch.no_grad()
def sample_target(
    target_critic: Callable[[Tensor, Tensor], Tensor],
    batch: Stocked,
    utility: Utility,
    config: DEtaNConfig,
    *,
    mask: bool = False,
) -> Tensor:
    """Give the target samples `[N, K, m]`: the target network chooses by f at (o', c') and tells the law.

    With a `mask` at the end of o' it chooses among the actions that are allowed there.
    """
    theta = target_critic(batch.rows.next_observation, batch.next_stock)
    value = action_values(utility, batch.next_stock, theta, config)
    value = choosable(value, batch.rows.next_observation, mask)
    return quantile_target(batch, greedy_quantiles(theta, value, config.average_ties))


def stocked(
    rows: Batch, size: int, utility: Utility, config: DEtaNConfig, edit: Callable[[Stocked], Stocked]
) -> Stocked:
    """Take replayed rows apart and give some another stock.

    Args:
        rows: observations with `size` components of a stock at their end; none is a stock of 0.
        size: m, or 0.
        utility: of the shaped reward.
        config: whether rewards are shaped.
        edit: changes stocks.
    """
    shown, stock = split(rows.observation, size)
    next_shown, next_stock = split(rows.next_observation, size)
    reward = rows.reward.unsqueeze(-1)
    if not size:
        stock = next_stock = torch.zeros_like(reward)
    discount = rows.discount.unsqueeze(-1) if isinstance(rows.discount, Tensor) else rows.discount
    if size > 1:
        reward = discount * next_stock - stock  # the vector's components, which no row holds
    batch = Stocked(rows._replace(observation=shown, next_observation=next_shown), stock, next_stock, reward)
    if size:
        batch = edit(batch)
    if config.shaped:
        pair = (batch.stock.double(), batch.next_stock.double())
        if not utility.vector:
            pair = (pair[0].squeeze(-1), pair[1].squeeze(-1))
        paid = (rows.discount * utility(pair[1]) - utility(pair[0])).to(reward.dtype)
        batch = batch._replace(reward=paid.unsqueeze(-1))
    return batch


def check_stock(spaces: Spaces, config: DEtaNConfig, utility: Utility) -> int:
    """Return the number of components of the stock, 0 without one; ConfigError where they do not fit."""
    space = spaces.stock
    if space is None:
        if not isinstance(utility, Mean | Exponential):
            raise ConfigError(
                f"utility {config.utility} depends on the stock, and the environment has none: "
                "use --env stock:ID, or --agent.utility mean"
            )
        return 0
    if space.gamma != config.gamma:
        raise ConfigError(
            f"the stock is divided by {space.gamma}, the agent discounts by {config.gamma}: give "
            f"--env-option stock_gamma={config.gamma}, or --agent.gamma {space.gamma}"
        )
    if space.size > 1 and not utility.vector:
        raise ConfigError(
            f"utility {config.utility} takes one number, the stock has {space.size} components: use norm"
        )
    return space.size
