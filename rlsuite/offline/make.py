"""From a recipe to a data set on disk, with everything that is needed to make it again.

The recipe lies in metadata.json under "rlsuite" (in the attribute of that name in D4RL's layout): command,
seed, versions, what acted and its digest, and how well it did. Such data are ours: scores on them stand
under their own name, next to the behaviour policy's.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rlsuite.envs.base import VectorEnv, package_versions
from rlsuite.errors import ConfigError
from rlsuite.offline import detour, pointmaze, stitch
from rlsuite.offline.collect import (
    Act,
    episodes_of_data,
    episodes_of_replay,
    first_steps,
    noisy,
    record,
    spaces_of_data,
    spaces_of_env,
    uniform,
)
from rlsuite.offline.data import EVALUATED_KEY, RECIPE_KEY, OfflineData
from rlsuite.offline.names import Recipe
from rlsuite.offline.scores import find_d4rl_reference
from rlsuite.offline.write import D4RLWriter, MinariWriter, Recorded, RecordedSpaces, Tally, write_all
from rlsuite.version import __version__

Layout = Literal["minari", "d4rl"]
Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Episodes to be written, and what is known about them beforehand.

    Attributes:
        episodes: consumed once.
        spaces: of the environment.
        env: what `--env` says for evaluation.
        policy: who acted: name, digest, noise, ...
        metadata: more fields of metadata.json.
        packages: whose versions the data depend on.
    """

    episodes: Iterator[Recorded]
    spaces: RecordedSpaces
    env: str
    policy: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    packages: Sequence[str] = ("mujoco", "gymnasium")


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A finished data set: where it lies and what its behaviour policy achieved."""

    path: Path
    tally: Tally
    behaviour: Mapping[str, Any]


def pointmaze_source(
    recipe: Recipe, steps: int, seed: int, *, episodes: int = pointmaze.REFERENCE_EPISODES
) -> Source:
    """Record PointMaze; the references are measured, too, over `episodes` (`pointmaze.reference_returns`)."""
    maze, dense = recipe.name.partition("/")[2].removesuffix("-dense"), recipe.name.endswith("-dense")
    spaces = pointmaze.spaces(maze, dense=dense)
    low, high, noisy_return = pointmaze.reference_returns(maze, dense=dense, episodes=episodes, seed=seed)
    return Source(
        episodes=pointmaze.record(maze, steps, dense=dense, seed=seed),
        spaces=spaces,
        env=recipe.env,
        policy={
            "name": "waypoint controller",
            "noise": pointmaze.ACTION_NOISE,
            EVALUATED_KEY: noisy_return,
        },
        metadata={
            "algorithm_name": "value iteration and PD control",
            "requirements": ["gymnasium-robotics>=1.4.2"],
            "ref_min_score": low,
            "ref_max_score": high,
            "num_episodes_average_score": episodes,
        },
        packages=("mujoco", "gymnasium", "gymnasium-robotics"),
    )


def stitch_source(steps: int, seed: int) -> Source:
    """Record routes of StitchMaze; score 0 is never to arrive, 100 the way that must be found by joining."""
    low, high = stitch.reference_returns(seed)
    return Source(
        episodes=stitch.record(steps, seed=seed),
        spaces=stitch.spaces(),
        env=stitch.ENV,
        policy={"name": "waypoint controller", "noise": stitch.NOISE, EVALUATED_KEY: low},
        metadata={
            "algorithm_name": "waypoints and a proportional controller",
            "ref_min_score": low,
            "ref_max_score": high,
            "num_episodes_average_score": stitch.REFERENCE_EPISODES,
        },
        packages=("gymnasium",),
    )


def detour_source(recipe: Recipe, steps: int, seed: int) -> Source:
    """Record tours of MBRCSL's maze; score 0 is random actions', 100 the straight way's."""
    low, high, recorded = detour.reference_returns(seed)
    return Source(
        episodes=detour.record(steps, seed=seed),
        spaces=detour.spaces(),
        env=recipe.env,
        policy={"name": "waypoint controller", "noise": 0.0, EVALUATED_KEY: recorded},
        metadata={
            "algorithm_name": "waypoints and PD control",
            "requirements": ["gymnasium-robotics>=1.4.2"],
            "ref_min_score": low,
            "ref_max_score": high,
            "num_episodes_average_score": detour.REFERENCE_EPISODES,
        },
        packages=("mujoco", "gymnasium", "gymnasium-robotics"),
    )


def rollout_source(
    env: VectorEnv,
    act: Act | None,
    steps: int,
    *,
    seed: int,
    policy: Mapping[str, Any],
    noise: float = 0.0,
    tell: Tell | None = None,
) -> Source:
    """Play a policy (None: uniform random actions) with Gaussian noise on its actions."""
    generator = torch.Generator().manual_seed(seed)
    behaviour = uniform(env, generator) if act is None else act
    if noise:
        behaviour = noisy(behaviour, noise, generator)

    def play() -> Iterator[Recorded]:
        replay = record(env, behaviour, steps, seed=seed, tell=tell)
        columns = dict(replay.stored.flatten_keys("/").items())
        yield from episodes_of_replay(columns, total=replay.total, env=env, num_envs=env.num_envs)

    return Source(
        episodes=play(),
        spaces=spaces_of_env(env),
        env=env.env_id,
        policy={**policy, "noise": noise, "num_envs": env.num_envs},
        metadata={"algorithm_name": str(policy.get("name", ""))},
    )


def replay_source(
    rows: Mapping[str, Tensor],
    *,
    total: int,
    num_envs: int,
    env: VectorEnv,
    policy: Mapping[str, Any],
    steps: int | None = None,
) -> Source:
    """Take a training run's replay, oldest transitions of every world first; `steps` cuts it short."""
    episodes = episodes_of_replay(rows, total=total, env=env, num_envs=num_envs)
    return Source(
        episodes=episodes if steps is None else first_steps(episodes, steps),
        spaces=spaces_of_env(env),
        env=env.env_id,
        policy={**policy, "num_envs": num_envs},
        metadata={"algorithm_name": str(policy.get("name", ""))},
    )


def mixture_source(
    parts: Sequence[OfflineData], env: str, steps: int | None = None, shares: Sequence[float] = ()
) -> Source:
    """Take steps from every part, one part after the other.

    Args:
        parts: data sets of one shape.
        env: what `--env` says for evaluation.
        steps: of the whole; None is as many as the parts have.
        shares: of the parts in the whole; by default the same for each.

    Raises:
        ConfigError: less than two parts, parts that do not fit each other, or with fewer steps than asked;
            shares that are not one each, positive and 1 together.
    """
    if len(parts) < 2:
        raise ConfigError(f"a mixture of {len(parts)} data sets: name at least two, --parts A B")
    shapes = [(part.parts, part.rows["action"].shape[-1]) for part in parts]
    if any(shape != shapes[0] for shape in shapes):
        raise ConfigError(f"data sets of different shapes cannot be mixed: {shapes[0]} and {shapes[-1]}")
    shares = tuple(shares) or (1 / len(parts),) * len(parts)
    if (
        len(shares) != len(parts)
        or not all(share > 0 for share in shares)
        or not math.isclose(sum(shares), 1)
    ):
        asked = ", ".join(map(str, shares))
        raise ConfigError(f"shares {asked} of {len(parts)} parts: give one for each, positive and 1 together")
    if steps is None:
        steps = int(min(len(part.rows) / share for part, share in zip(parts, shares, strict=True)) + 1e-6)
    counts = [int(steps * share + 1e-6) for share in shares]
    for part, count in zip(parts, counts, strict=True):
        if len(part.rows) < count:
            raise ConfigError(f"{part.name} has {len(part.rows):,} steps, {count:,} were asked for")

    def mix() -> Iterator[Recorded]:
        for part, count in zip(parts, counts, strict=True):
            yield from first_steps(episodes_of_data(part), count)

    facts: dict[str, Any] = {"name": "mixture", "parts": [part.name for part in parts], "steps": counts}
    for key in ("policy", "behaviour"):  # whether both halves are of one run stands in their policies
        facts[key] = [part.recipe.get(key) for part in parts]
    return Source(
        episodes=mix(),
        spaces=spaces_of_data(parts[0]),
        env=env,
        policy=facts,
        metadata={"algorithm_name": "mixture", "combined_datasets": [part.name for part in parts]},
    )


def save(
    source: Source,
    recipe: Recipe,
    out: Path,
    *,
    layout: Layout,
    command: str,
    seed: int,
    tell: Tell | None = None,
) -> Made:
    """Write a source under its recipe's id into the data root `out`, complete or not at all.

    In D4RL's layout the file is `out/NAME-v0.hdf5`, with dashes for slashes.

    Raises:
        ConfigError: it exists already, or `out` cannot be written.
    """
    if layout == "minari":
        writer: MinariWriter | D4RLWriter = MinariWriter(out, recipe.dataset_id, source.spaces)
    else:
        writer = D4RLWriter(out / f"{recipe.name.replace('/', '-')}-v0.hdf5", source.spaces)
    with writer:
        tally = write_all(writer, source.episodes, tell)
        behaviour = tally.behaviour()
        reference = find_d4rl_reference(source.env)
        if reference is not None and "return_mean" in behaviour:
            behaviour["d4rl_score"] = reference.score(behaviour["return_mean"])
        facts = {
            "recipe": recipe.name,
            "env": source.env,
            "command": command,
            "seed": seed,
            "versions": {"rlsuite": __version__, **package_versions(source.packages)},
            "policy": dict(source.policy),
            "behaviour": behaviour,
        }
        description = f"{recipe.summary}; made by rlsuite, not one of D4RL's or Minari's sets"
        path = writer.finish({"description": description, **source.metadata, RECIPE_KEY: facts})
    return Made(path=path, tally=tally, behaviour=behaviour)


def convert(data: OfflineData, target: Path, *, layout: Layout, name: str, keys: tuple[str, ...]) -> Tally:
    """Write a data set that was read in another layout; numbers become float32.

    Args:
        data: what was read.
        target: the data root for Minari's layout, the file for D4RL's.
        layout: to write.
        name: id of the new set, in Minari's layout.
        keys: parts of a dictionary observation that become `observations` in D4RL's layout.
    """
    if layout == "minari":
        writer: MinariWriter | D4RLWriter = MinariWriter(target, name, spaces_of_data(data))
    else:
        writer = D4RLWriter(target, spaces_of_data(data), keys=keys)
    kept = ("ref_min_score", "ref_max_score", "num_episodes_average_score", "description", RECIPE_KEY)
    metadata = {key: data.metadata[key] for key in kept if key in data.metadata}
    with writer:
        tally = write_all(writer, episodes_of_data(data))
        writer.finish({**metadata, "converted_from": data.name})
    return tally
