"""A replayed batch as plain tensors: what losses read."""

from typing import NamedTuple

from tensordict import TensorDictBase
from torch import Tensor


class Batch(NamedTuple):
    """The columns of N transitions; leading axes of independent seeds may stand in front.

    `observation` and `next_observation` are `[N, O]`, `action` `[N, A]`, the others `[N]`. `terminated` is 0
    or 1; `discount` is gamma to the number of summed rewards. Nothing else of the end of an episode enters
    a loss: a truncated transition bootstraps.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    discount: Tensor | float


def unpack(batch: TensorDictBase, gamma: float) -> Batch:
    """Read a replayed TensorDict into plain tensors; `gamma` is the discount unless the batch brings one."""
    next_td = batch.get("next")
    discount = batch.get("discount", None)
    reward = next_td.get("reward").squeeze(-1)
    return Batch(
        batch.get("observation"),
        batch.get("action"),
        reward,
        next_td.get("observation"),
        next_td.get("terminated").squeeze(-1).to(reward.dtype),
        gamma if discount is None else discount.squeeze(-1),
    )
