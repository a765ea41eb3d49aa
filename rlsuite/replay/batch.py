"""A sampled batch as updates read it: its columns as plain tensors.

Legend: N batch, O observation, A action; leading axes (`*lead`) are independent seeds.
"""

from typing import Any, NamedTuple

from tensordict import TensorDictBase
from torch import Tensor


class Batch(NamedTuple):
    """The columns of a sampled batch.

    Nothing else of the end of an episode enters a loss: a truncated transition bootstraps. The last three are
    of recorded data, for agents that ask for them (`Agent.columns`); None in all other batches.

    Attributes:
        observation: `[*lead, N, O]`.
        action: `[*lead, N, A]`.
        reward: `[*lead, N]`; with n-step sampling the discounted sum of up to n rewards.
        next_observation: `[*lead, N, O]`, the true successor, n steps ahead where n rewards were summed.
        terminated: `[*lead, N]`, 0 or 1 in the type of the reward.
        discount: gamma to the number of summed rewards, `[*lead, N]`; gamma itself where that is one.
        next_action: `[*lead, N, A]`, the recorded action at `next_observation`, zero after a termination.
        returns: `[*lead, N]`, the recorded discounted rewards from this transition to its episode's end.
        expert: `[*lead, N]`, 1 for transitions of the demonstrations (`--expert`), else 0.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    discount: Tensor | float
    next_action: Tensor | None = None
    returns: Tensor | None = None
    expert: Tensor | None = None


def unpack(td: TensorDictBase, gamma: float) -> Batch:
    """Read a sampled TensorDict into a `Batch`; `gamma` is the discount unless `td` brings one."""
    next_td = td.get("next")
    discount = td.get("discount", None)
    reward = next_td.get("reward").squeeze(-1)
    returns, expert = td.get("return", None), td.get("expert", None)
    return Batch(
        td.get("observation"),
        td.get("action"),
        reward,
        next_td.get("observation"),
        next_td.get("terminated").squeeze(-1).to(reward.dtype),
        gamma if discount is None else discount.squeeze(-1),
        next_td.get("action", None),
        None if returns is None else returns.squeeze(-1),
        None if expert is None else expert.squeeze(-1).to(reward.dtype),
    )


def unbind(stacked: Batch) -> list[Batch]:
    """Return the batches whose columns are stacked along a new first axis, as views."""
    count = len(stacked.observation)
    columns: list[Any] = [
        column.unbind(0) if isinstance(column, Tensor) else [column] * count for column in stacked
    ]
    return [Batch(*parts) for parts in zip(*columns, strict=True)]


def detached(batch: Batch) -> Batch:
    """Return the batch as actors see it: features of pictures without the gradient that is the critics'."""
    return batch._replace(observation=batch.observation.detach())


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
    if batch.next_action is not None:
        columns["next.action"] = batch.next_action
    for name, column in (("return", batch.returns), ("expert", batch.expert)):
        if column is not None:
            columns[name] = column.unsqueeze(-1)
    return columns
