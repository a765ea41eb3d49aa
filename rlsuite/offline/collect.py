"""Episodes from our vectorised environments, from a training run's replay, and from other data sets.

Recording fills a replay, so that both become episodes in one way.

Legend: B worlds, O observation, A action, R rows, time-major: row t * B + b is step t of world b.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from rlsuite.envs.base import VectorEnv
from rlsuite.errors import DataError
from rlsuite.offline.data import OfflineData
from rlsuite.offline.spaces import box_json, nested_json, parse_space
from rlsuite.offline.write import Recorded, RecordedSpaces
from rlsuite.replay.uniform import UniformReplay

Act = Callable[[Tensor], Tensor]
"""A policy: observations `[B, O]` to actions `[B, A]` in [-1, 1]."""


def uniform(env: VectorEnv, generator: torch.Generator) -> Act:
    """Return the policy that draws every action uniformly."""
    shape = (env.num_envs, len(env.half_range))
    return lambda _: torch.rand(shape, generator=generator) * 2 - 1


def noisy(act: Act, std: float, generator: torch.Generator) -> Act:
    """Return `act` with Gaussian noise of std `std` on its actions, clipped to [-1, 1]."""

    def with_noise(observation: Tensor) -> Tensor:
        action = act(observation)
        return (action + std * torch.randn(action.shape, generator=generator)).clamp(-1, 1)

    return with_noise


@torch.no_grad()
def record(
    env: VectorEnv, act: Act, steps: int, *, seed: int, tell: Callable[[int], None] | None = None
) -> UniformReplay:
    """Play `act` in all envs for `steps` env steps, rounded up to whole vector steps; return all transitions.

    Args:
        env: the worlds.
        act: the behaviour policy.
        steps: env steps over all worlds.
        seed: of the worlds' initial states.
        tell: called with the env steps so far.
    """
    rounds = -(-steps // env.num_envs)
    replay = UniformReplay(rounds * env.num_envs, num_envs=env.num_envs, batch_size=1)
    env.set_seed(seed)
    td = env.reset()
    for number in range(rounds):
        td["action"] = act(td["observation"]).clamp(-1, 1)
        step = env.step(td)
        replay.extend(step)
        td = env.maybe_reset(env.step_mdp(step))
        if tell is not None:
            tell((number + 1) * env.num_envs)
    return replay


def episodes_of_replay(
    rows: Mapping[str, Tensor], *, total: int, env: VectorEnv, num_envs: int
) -> Iterator[Recorded]:
    """Yield the episodes in a ring, env by env, oldest first, with actions in the env's units.

    An episode whose beginning was overwritten, or that was running at the end, is not `whole`. A step whose
    simulation blew up is left out and ends its episode.

    Args:
        rows: `[R, ...]` columns named as in a checkpoint: "observation", "action", "valid",
            "next/observation", "next/reward", "next/terminated", "next/truncated".
        total: transitions ever written.
        env: whose units the actions get.
        num_envs: worlds that wrote the ring, B.

    Raises:
        DataError: a column is missing, or the transitions are no whole vector steps.
    """
    missing = [name for name in _COLUMNS if name not in rows]
    if missing:
        raise DataError(f"the replay has no column {missing[0]}; expected {', '.join(_COLUMNS)}")
    size = len(rows["observation"])
    if not size or size % num_envs:
        raise DataError(f"the replay has {size} rows, expected a multiple of its {num_envs} worlds")
    oldest = total % size if total > size else 0
    half, middle = np.array(env.half_range), np.array(env.middle)
    for env_index in range(num_envs):
        index = (torch.arange(env_index, size, num_envs) + oldest) % size
        column = {name: rows[name][index].numpy() for name in _COLUMNS}
        done = column["next/terminated"] | column["next/truncated"] | ~column["valid"]
        edges = [0, *(np.flatnonzero(done) + 1).tolist(), len(index)]
        for start, stop in itertools.pairwise(edges):
            blown_up = start < stop and not column["valid"][stop - 1, 0]
            steps = slice(start, stop - 1 if blown_up else stop)
            if steps.stop <= start:
                continue
            next_obs = column["next/observation"][steps]
            truncated = column["next/truncated"][steps, 0].copy()
            terminated = column["next/terminated"][steps, 0]
            finished = bool(done[steps.stop - 1, 0]) and not blown_up
            truncated[-1] |= not terminated[-1]
            yield Recorded(
                observations=np.concatenate([column["observation"][steps], next_obs[-1:]]),
                actions=(column["action"][steps] * half + middle).astype(np.float32),
                rewards=column["next/reward"][steps, 0],
                terminations=terminated,
                truncations=truncated,
                whole=finished and not (start == 0 and total > size),
            )


_COLUMNS = (
    "observation",
    "action",
    "valid",
    "next/observation",
    "next/reward",
    "next/terminated",
    "next/truncated",
)


def spaces_of_env(env: VectorEnv) -> RecordedSpaces:
    """Return what an environment of ours shows and takes, with Gymnasium's specification where it has one."""
    import gymnasium

    size = env.observation_spec["observation"].shape[-1]
    half, middle = np.array(env.half_range), np.array(env.middle)
    known = gymnasium.registry.get(env.env_id.removeprefix("gym:"))
    return RecordedSpaces(
        observation=box_json("float32", [-np.inf] * size, [np.inf] * size),
        action=box_json("float32", middle - half, middle + half),
        env_spec=None if known is None else known.to_json(),
    )


def episodes_of_data(data: OfflineData) -> Iterator[Recorded]:
    """Yield the episodes of a data set that was read, in the units of the environment.

    Where the last transition of an episode stands in for a successor that the file does not have, so does
    the last observation.
    """
    box = parse_space(data.metadata, "action_space", str(data.source))[0] if _has_space(data) else None
    rows, named = data.rows, len(data.parts) > 1
    columns = {minari_key(part.key): data.columns(part.key) for part in data.parts}
    for first, stop in data.episodes.tolist():
        episode = rows[first:stop]
        seen = torch.cat([episode["observation"], episode["next", "observation"][-1:]]).numpy()
        actions = episode["action"].numpy()
        if box is not None and box.low is not None and box.high is not None:
            actions = actions * (box.high - box.low) / 2 + (box.high + box.low) / 2
        yield Recorded(
            observations={key: seen[:, place] for key, place in columns.items()} if named else seen,
            actions=actions.astype(np.float32),
            rewards=episode["next", "reward"].squeeze(-1).numpy(),
            terminations=episode["next", "terminated"].squeeze(-1).numpy(),
            truncations=episode["next", "truncated"].squeeze(-1).numpy(),
        )


def spaces_of_data(data: OfflineData) -> RecordedSpaces:
    """Return the spaces of what `episodes_of_data` yields."""
    boxes = {
        tuple(minari_key(part.key).split("/")): box_json(
            "float32", [-np.inf] * part.width, [np.inf] * part.width
        )
        for part in data.parts
    }
    size = data.rows["action"].shape[-1]
    spec = data.metadata.get("env_spec")
    return RecordedSpaces(
        observation=nested_json(boxes) if len(boxes) > 1 else next(iter(boxes.values())),
        action=json.loads(data.metadata["action_space"])
        if _has_space(data)
        else box_json("float32", [-1.0] * size, [1.0] * size),
        env_spec=spec if isinstance(spec, str) else None,
    )


def minari_key(key: str) -> str:
    """Return what Minari's layout calls a column of D4RL's."""
    return {"observations": "observation", "infos/goal": "desired_goal"}.get(key, key)


def first_steps(episodes: Iterator[Recorded], steps: int) -> Iterator[Recorded]:
    """Yield episodes until they hold `steps` transitions together; the last one is cut to fit."""
    left = steps
    for episode in episodes:
        if len(episode) > left:
            yield _head(episode, left)
            return
        yield episode
        left -= len(episode)
        if not left:
            return


def _head(episode: Recorded, steps: int) -> Recorded:
    seen = episode.observations
    truncated = episode.truncations[:steps].copy()
    truncated[-1] = True
    return Recorded(
        observations={key: part[: steps + 1] for key, part in seen.items()}
        if isinstance(seen, Mapping)
        else seen[: steps + 1],
        actions=episode.actions[:steps],
        rewards=episode.rewards[:steps],
        terminations=episode.terminations[:steps],
        truncations=truncated,
        whole=False,
    )


def _has_space(data: OfflineData) -> bool:
    return isinstance(data.metadata.get("action_space"), str)
