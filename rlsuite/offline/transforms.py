"""What the literature does to data before learning, as pure functions; which sets they belong to is a choice.

Legend: N rows, E episodes, A action, O observation.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor

from rlsuite.bounds import Bounds, check_bounds
from rlsuite.errors import DataError
from rlsuite.offline.data import OfflineData

logger = logging.getLogger(__name__)

ACTION_LIMIT = 1 - 1e-5  # keeps atanh finite; IQL's code (Kostrikov et al. 2022, arXiv 2110.06169)
LOCOMOTION_SCALE = 1000.0  # reward units: the episode limit of D4RL's locomotion tasks; IQL, appendix
BEYOND = 1e-6  # rounding of actions that were scaled to [-1, 1]
STD_FLOOR = 1e-3  # added to a standard deviation; TD3+BC (Fujimoto & Gu 2021, arXiv 2106.06860)

RewardTransform = Literal["none", "antmaze", "locomotion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """What is done to a data set after reading."""

    action_limit: Annotated[float | None, Bounds(0, 1, open_low=True)] = ACTION_LIMIT
    """Actions are clipped to plus and minus this; none leaves them as they are."""
    reward: RewardTransform = "none"
    """none; antmaze: reward - 1; locomotion: reward * 1000 / (best - worst return of an episode)."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a limit outside (0, 1]."""
        check_bounds(self)


def clip_actions(action: Tensor, limit: float = ACTION_LIMIT) -> Tensor:
    """Return actions `[N, A]` within [-limit, limit]."""
    return action.clamp(-limit, limit)


def share_beyond(action: Tensor) -> float:
    """Return the share of action numbers `[N, A]` that lie outside [-1, 1], as no agent of ours can act."""
    return float((action.abs() > 1 + BEYOND).double().mean())


def warn_of_actions(data: OfflineData, limit: float | None) -> None:
    """Warn where recorded actions lie outside [-1, 1]: of a file that is in other units than it should be.

    Args:
        data: what was read.
        limit: to which actions will be clipped; None leaves them.
    """
    action = data.rows["action"]
    share = share_beyond(action)
    if share:
        logger.warning(
            "%s: %.2g %% of the recorded action numbers are outside [-1, 1] (up to %.3g), and %s; if they "
            "are in the environment's units, scale them to [-1, 1] first",
            data.source,
            100 * share,
            float(action.abs().max()),
            "are kept as they are" if limit is None else f"are clipped to {limit:g}",
        )


def antmaze_reward(reward: Tensor) -> Tensor:
    """Return reward - 1: 0 at the goal and -1 elsewhere (IQL's choice for AntMaze)."""
    return reward - 1


def locomotion_reward(reward: Tensor, returns: Tensor) -> Tensor:
    """Return rewards scaled so that the returns of the episodes span 1000 (IQL's choice for locomotion).

    Args:
        reward: any shape.
        returns: of the episodes, `[E]`.

    Raises:
        ValueError: all returns are equal, or there is one episode only.
    """
    span = (returns.max() - returns.min()).item()
    if not span > 0:
        raise ValueError(f"{len(returns)} episodes with returns that span {span} give no scale")
    return reward * (LOCOMOTION_SCALE / span)


def moments(observation: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (plus 1e-3) of observations `[N, O]`, each float32 `[O]`.

    For `rlsuite.blocks.normalizer.Standardise`, which belongs into the policy and is saved with it.
    """
    count = len(observation)
    total = torch.zeros(observation.shape[-1], dtype=torch.float64)
    for block in observation.split(1 << 16):
        total += block.double().sum(0)
    mean = total / count
    squares = torch.zeros_like(total)
    for block in observation.split(1 << 16):
        squares += (block.double() - mean).square().sum(0)
    return mean.float(), ((squares / count).sqrt() + STD_FLOOR).float()


def reward_transform(kind: RewardTransform, data: OfflineData) -> Callable[[Tensor], Tensor] | None:
    """Return what `kind` does to rewards, fixed by the untouched data; None where it does nothing.

    Raises:
        DataError: the rewards give no scale.
    """
    if kind == "none":
        return None
    if kind == "antmaze":
        return antmaze_reward
    returns = data.returns()
    try:
        locomotion_reward(torch.zeros(()), returns)
    except ValueError as error:
        raise DataError(f"{data.source}: {error}; use another reward transform") from error
    return partial(locomotion_reward, returns=returns)


def transformed(data: OfflineData, options: DataOptions) -> OfflineData:
    """Return the data with clipped actions and changed rewards; untouched columns are shared.

    Warns of recorded actions outside [-1, 1].

    Raises:
        DataError: the rewards give no scale.
    """
    rows = data.rows.copy()
    warn_of_actions(data, options.action_limit)
    if options.action_limit is not None:
        rows["action"] = clip_actions(rows["action"], options.action_limit)
    change = reward_transform(options.reward, data)
    if change is not None:
        rows["next", "reward"] = change(rows["next", "reward"])
    return replace(data, rows=rows)
