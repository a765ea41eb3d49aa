"""Transforms of data before learning, as in the literature: pure functions, chosen per data set.

Legend: N rows, E episodes, A action, O observation.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from rlsuite.bounds import Bounds, check_bounds
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.data import OfflineData
from rlsuite.replay.mixed import returns_to_go as returns_of_one

logger = logging.getLogger(__name__)

ACTION_LIMIT = 1 - 1e-5  # keeps atanh finite; IQL's code (Kostrikov et al. 2022, arXiv 2110.06169)
LOCOMOTION_SCALE = 1000.0  # reward units: the episode limit of D4RL's locomotion tasks; IQL, appendix
BEYOND = 1e-6  # rounding of actions that were scaled to [-1, 1]
RANKING_GAMMA = 0.99  # of the returns that `best_episodes` ranks by; CORL's 10%BC
_VERSION = re.compile(r"-v\d+$")  # of an environment's name
STD_FLOOR = 1e-3  # added to a standard deviation; TD3+BC (Fujimoto & Gu 2021, arXiv 2106.06860)

RewardTransform = Literal["none", "antmaze", "antmaze10", "antmaze100", "locomotion", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """Options of what is done to a data set after reading."""

    action_limit: Annotated[float | None, Bounds(0, 1, open_low=True)] = ACTION_LIMIT
    """Actions are clipped to plus and minus this; none leaves them as they are."""
    reward: RewardTransform = "none"
    """none; antmaze: reward - 1; antmaze10: 10 reward - 5; antmaze100: 100 reward; locomotion: reward *
    1000 / (best - worst return of an episode); zero: 0."""
    next_action: bool = False
    """Add the column ("next", "action"); see `with_next_actions`."""
    return_gamma: Annotated[float | None, Bounds(0, 1)] = None
    """Discount of a column "return", what the episode brings from each transition on; none adds no column."""
    failure_reward: float | None = None
    """In "return": an episode that ends with this reward has failed; see `returns_to_go`."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a limit outside (0, 1], or a discount outside [0, 1]."""
        check_bounds(self)
        if self.failure_reward is not None and self.return_gamma in (None, 1):
            raise ConfigError("failure_reward needs return_gamma below 1: it is divided by 1 - return_gamma")


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


def centred_reward(reward: Tensor) -> Tensor:
    """Return 10 reward - 5: 5 at the goal and -5 elsewhere (CQL's choice for AntMaze; CORL)."""
    return 10 * reward - 5


def scaled_reward(reward: Tensor) -> Tensor:
    """Return 100 reward: 100 at the goal and 0 elsewhere (ReBRAC's choice for AntMaze)."""
    return 100 * reward


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


def reward_transform(name: RewardTransform, data: OfflineData) -> Callable[[Tensor], Tensor] | None:
    """Return what `kind` does to rewards, fixed by the untouched data; None where it does nothing.

    Raises:
        DataError: the rewards give no scale.
    """
    if name == "none":
        return None
    if name != "locomotion":
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            "antmaze": antmaze_reward,
            "antmaze10": centred_reward,
            "antmaze100": scaled_reward,
            "zero": torch.zeros_like,
        }
        return changes[name]
    returns = data.returns()
    try:
        locomotion_reward(torch.zeros(()), returns)
    except ValueError as error:
        raise DataError(f"{data.source}: {error}; use another reward transform") from error
    return partial(locomotion_reward, returns=returns)


def returns_to_go(
    reward: Tensor, episodes: Tensor, gamma: float, failure_reward: float | None = None
) -> Tensor:
    """Return the discounted rewards from each transition to the end of its episode, float32 `[N, 1]`.

    Nothing is added after the end, cut or terminated (Cal-QL, Nakamoto et al. 2023, arXiv 2303.05479).

    Args:
        reward: `[N, 1]`, after any transform.
        episodes: `[E, 2]`.
        gamma: discount per step.
        failure_reward: of sparse tasks, the reward of a step away from the goal. An episode whose last reward
            it is has failed, and its returns are failure_reward / (1 - gamma) (as in Cal-QL's code).
    """
    rewards = reward.squeeze(-1).double().numpy()
    of_each = [returns_of_one(rewards[a:b], gamma, failure_reward) for a, b in episodes.tolist()]
    return torch.from_numpy(np.concatenate(of_each)).float().unsqueeze(-1)


def tries(data: OfflineData) -> Tensor:
    """Return the episodes, cut behind every transition that terminated, int64 `[E', 2]`."""
    ends = data.rows["next", "terminated"].squeeze(-1).nonzero().squeeze(-1) + 1
    edges = torch.cat([data.episodes.flatten(), ends]).unique()
    return torch.stack([edges[:-1], edges[1:]], -1)


def with_next_actions(data: OfflineData) -> OfflineData:
    """Return the data with ("next", "action") `[N, A]`, the recorded action at the next observation.

    Where an episode terminated it is zero: nothing is bootstrapped there. The last transition of a truncated
    episode has no next action in any file; it is left out, and the one before becomes truncated (our choice:
    CORL takes the next episode's action). Episodes of one such transition go altogether.

    Raises:
        DataError: no transition is left.
    """
    action, terminated = data.rows["action"], data.rows["next", "terminated"].squeeze(-1)
    last = data.episodes[:, 1] - 1
    next_action = torch.cat([action[1:], action[-1:]])
    next_action[last] = 0
    next_action[terminated] = 0
    keep = torch.ones(len(action), dtype=torch.bool)
    keep[last] = terminated[last]
    rows = data.rows.copy()
    rows["next", "action"] = next_action
    return chosen_rows(replace(data, rows=rows), keep)


def best_episodes(data: OfflineData, fraction: float, gamma: float = RANKING_GAMMA) -> OfflineData:
    """Return the episodes with the highest discounted returns, a fraction of all, at least one.

    int(fraction E) of E episodes, as CORL's 10%BC (Tarasov et al. 2022, arXiv 2210.07105) chooses them.

    Args:
        data: what was read; returns are of its rewards as they are.
        fraction: in (0, 1].
        gamma: discount of the returns that episodes are ranked by.
    """
    returns = returns_to_go(data.rows["next", "reward"], data.episodes, gamma)[data.episodes[:, 0], 0]
    best = returns.argsort(descending=True, stable=True)[: max(1, int(fraction * len(returns)))]
    keep = torch.zeros(len(data.rows), dtype=torch.bool)
    for start, stop in data.episodes[best].tolist():
        keep[start:stop] = True
    return chosen_rows(data, keep)


def with_demonstrations(data: OfflineData, expert: OfflineData, episodes: int = 0) -> OfflineData:
    """Return the data followed by demonstrations, with a column "expert" `[N, 1]` that is True for these.

    Args:
        data: any transitions; everything that is not about transitions (env, scores) is its.
        expert: the demonstrations.
        episodes: how many of the expert's, the first ones; 0 takes all.

    Raises:
        ConfigError: sizes of observations or actions differ, or the environments, but for their versions; or
            there are fewer episodes.
    """
    if episodes > len(expert.episodes):
        raise ConfigError(
            f"expert_episodes = {episodes}: {expert.source} has {len(expert.episodes)}: take no more"
        )
    spans = expert.episodes[:episodes] if episodes else expert.episodes
    shown = expert.rows[: int(spans[-1, 1])]
    sizes = [(rows["observation"].shape[1], rows["action"].shape[1]) for rows in (data.rows, shown)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"demonstrations must be of the data's task: {expert.source} has {sizes[1][0]} observations and "
            f"{sizes[1][1]} actions, {data.source} has {sizes[0][0]} and {sizes[0][1]}"
        )
    tasks = [_VERSION.sub("", part.env.rpartition(":")[2]) if part.env else None for part in (data, expert)]
    if None not in tasks and tasks[0] != tasks[1]:
        raise ConfigError(
            f"demonstrations must be of the data's task: {expert.source} is of {expert.env}, "
            f"{data.source} of {data.env}"
        )
    keys = [("next", name) for name in ("observation", "reward", "terminated", "truncated", "done")]
    parts = [rows.select("observation", "action", *keys) for rows in (data.rows, shown)]
    rows: TensorDict = TensorDict.cat(parts)
    rows["expert"] = (torch.arange(len(rows)) >= len(data.rows)).unsqueeze(-1)
    return replace(data, rows=rows, episodes=torch.cat([data.episodes, spans + len(data.rows)]))


def chosen_rows(data: OfflineData, keep: Tensor) -> OfflineData:
    """Return some of the transitions, `keep` `[N]` bool, each episode's first ones or none of it.

    The last transition that is left of an episode is truncated where it did not terminate.

    Raises:
        DataError: no transition is left.
    """
    kept = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
    episodes = kept[data.episodes]
    episodes = episodes[episodes[:, 1] > episodes[:, 0]]
    if not len(episodes):
        raise DataError(f"{data.source}: no transition is left of {len(keep):,}; use a larger data set")
    rows = data.rows[keep]
    last = episodes[:, 1] - 1
    rows["next", "truncated"][last] |= ~rows["next", "terminated"][last]
    rows["next", "done"][last] = True
    return replace(data, rows=rows, episodes=episodes)


def transformed(data: OfflineData, options: DataOptions, *, scale: OfflineData | None = None) -> OfflineData:
    """Return the data with clipped actions, changed rewards and the columns asked for; others are shared.

    Warns of recorded actions outside [-1, 1].

    Args:
        data: what was read.
        options: what is done to them.
        scale: of which data the returns give rewards their scale; by default these.

    Raises:
        DataError: the rewards give no scale.
    """
    rows = data.rows.copy()  # the columns themselves are shared
    warn_of_actions(data, options.action_limit)
    if options.action_limit is not None:
        rows["action"] = clip_actions(rows["action"], options.action_limit)
    change = reward_transform(options.reward, data if scale is None else scale)
    if change is not None:
        rows["next", "reward"] = change(rows["next", "reward"])
    if options.return_gamma is not None:
        reward, failure = rows["next", "reward"], options.failure_reward
        rows["return"] = returns_to_go(reward, tries(data), options.return_gamma, failure)
    changed = replace(data, rows=rows)
    return with_next_actions(changed) if options.next_action else changed
