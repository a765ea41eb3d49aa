"""A sampled batch as updates read it: its columns as plain tensors.

Legend: N batch, O observation, A action; leading axes (`*lead`) are independent seeds.
"""

from typing import NamedTuple

from tensordict import TensorDictBase
from torch import Tensor


class Batch(NamedTuple):
    """The columns of a sampled batch.

    Nothing else of the end of an episode enters a loss: a truncated transition bootstraps.

    Attributes:
        observation: `[*lead, N, O]`.
        action: `[*lead, N, A]`.
        reward: `[*lead, N]`; with n-step sampling the discounted sum of up to n rewards.
        next_observation: `[*lead, N, O]`, the true successor, n steps ahead where n rewards were summed.
        terminated: `[*lead, N]`, 0 or 1 in the type of the reward.
        discount: gamma to the number of summed rewards, `[*lead, N]`; gamma itself where that is one.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    discount: Tensor | float


def unpack(td: TensorDictBase, gamma: float) -> Batch:
    """Read a sampled TensorDict into a `Batch`; `gamma` is the discount unless `td` brings one."""
    next_td = td.get("next")
    discount = td.get("discount", None)
    reward = next_td.get("reward").squeeze(-1)
    return Batch(
        td.get("observation"),
        td.get("action"),
        reward,
        next_td.get("observation"),
        next_td.get("terminated").squeeze(-1).to(reward.dtype),
        gamma if discount is None else discount.squeeze(-1),
    )


def unbind(stacked: Batch) -> list[Batch]:
    """Return the batches whose columns are stacked along a new first axis, as views."""
    columns = [column.unbind(0) for column in stacked[:-1]]
    discount = stacked.discount
    count = len(columns[0])
    each = [discount] * count if isinstance(discount, float) else discount.unbind(0)
    return [Batch(*parts) for parts in zip(*columns, each, strict=True)]


def columns_of(batch: Batch) -> dict[str, Tensor]:
    """Return the columns by TorchRL's names, `[*lead, N, ...]`: what `unpack` reads from a TensorDict."""
    columns = {
        "observation": batch.observation,
        "action": batch.action,
        "next.observation": batch.next_observation,
        "next.reward": batch.reward.unsqueeze(-1),
        "next.terminated": batch.terminated.unsqueeze(-1),
    }
    if isinstance(batch.discount, Tensor):
        columns["discount"] = batch.discount.unsqueeze(-1)
    return columns
