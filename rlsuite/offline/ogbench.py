"""OGBench's files: states of whole recordings in one .npz, rewards from the task that a run is to learn.

A recording of T transitions has T + 1 rows; its last one is a terminal, whose action leads nowhere. Files
have no rewards: OGBench (Park et al. 2024, arXiv 2410.20092) computes them, and masks, from the states of the
simulation for one of an environment's five tasks, and so do we, with its own function. A mask of 0 says that
the task is solved in the row's state, from where its environment terminates: `terminated` = 1 - mask,
wherever it stands; recordings go on after it. A recording's end is `truncated`, and alone begins another
episode.

Legend: R rows of the file, N transitions, O observation, A action.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from rlsuite.envs import ogbench_names
from rlsuite.envs.ogbench_names import DEFAULT_TASK, FAMILY, Name
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.data import RECIPE_KEY, Columns, OfflineData, Part
from rlsuite.offline.scores import Reference

LAYOUT = "ogbench"
SUFFIX = ".npz"
STATES = ("qpos", "qvel", "button_states")  # of the simulation: what rewards are computed from
SUCCESS = Reference(0.0, 1.0, FAMILY, measure="eval/success")  # scores are per cent of episodes


def read_ogbench(path: Path, env: str | None = None) -> OfflineData:
    """Read one of OGBench's files, with the rewards of one task.

    Args:
        path: the .npz file.
        env: `ogbench:NAME`, whose task gives the rewards; None, or another environment, takes the default
            task of the recorded one.

    Raises:
        ConfigError: OGBench's package is missing; `env` has no single task, or is not what was recorded.
        DataError: the file is damaged, or says nothing of its environment.
    """
    with _opened(path) as file:
        return _read(file, path, env)


def _read(file: Any, path: Path, env: str | None) -> OfflineData:
    metadata = {RECIPE_KEY: _recipe(file, path)}
    recorded = _recorded_in(path, metadata[RECIPE_KEY])
    chosen = task_of(recorded, env)
    observations, actions = (_column(file, key, path, 2) for key in ("observations", "actions"))
    last = _column(file, "terminals", path, 1).astype(np.bool_)
    total = len(observations)
    for key, column in (("actions", actions), ("terminals", last)):
        if len(column) != total:
            raise DataError(f"{path}: {key}: found {len(column):,} rows, expected {total:,}")
    if not total or not last[-1]:
        raise DataError(f"{path}: terminals: the last row is none; expected a file of whole recordings")
    if (last[:-1] & last[1:]).any() or last[0]:
        raise DataError(f"{path}: terminals: two in a row; expected a file of OGBench's, not a compact table")
    states = {key: file[key] for key in STATES if key in file.files}
    rewards, masks = task_rewards(chosen, states, total, path)
    kept = np.flatnonzero(~last)
    columns = Columns(path, len(kept), observations.shape[1], actions.shape[1])
    columns.observation[:], columns.next_observation[:] = observations[kept], observations[kept + 1]
    columns.action[:], columns.reward[:] = actions[kept], rewards[kept]
    columns.terminated[:], columns.truncated[:] = masks[kept] == 0, False  # `finish` cuts at the ends
    ends = np.cumsum(~last)[last]
    rows, episodes = columns.finish(ends, split_at_ends=False)
    return OfflineData(
        rows=rows,
        episodes=episodes,
        parts=(Part("observation", observations.shape[1]),),
        source=path,
        layout=LAYOUT,
        name=chosen._replace(dataset_type=recorded.dataset_type).dataset
        if recorded.dataset_type
        else path.stem,
        env=chosen.env_id,
        reference=SUCCESS,
        metadata=metadata if metadata[RECIPE_KEY] else {},
    )


def environment_of_file(path: Path) -> str:
    """Return the single-task environment whose rewards a file gets where no other is asked for.

    Raises:
        DataError: it says nothing of its environment.
    """
    with _opened(path) as file:
        return task_of(_recorded_in(path, _recipe(file, path)), None).env_id


def _recorded_in(path: Path, recipe: Mapping[str, Any]) -> Name:
    """Return environment and kind of a file's recordings, by what it says or by its name.

    Raises:
        DataError: neither tells.
    """
    try:
        return ogbench_names.parse(str(recipe.get("dataset") or path.stem.removesuffix("-val")))
    except ConfigError as error:
        raise DataError(
            f"{path} does not say which environment of OGBench it is of: give it OGBench's name, e.g. "
            f"cube-single-play-v0{SUFFIX}"
        ) from error


def task_of(recorded: Name, env: str | None) -> Name:
    """Return the environment and single task whose rewards are computed.

    Raises:
        ConfigError: `env` is goal-conditioned, or not the environment that was recorded.
    """
    family, _, rest = (env or "").partition(":")
    if family != FAMILY:
        return recorded._replace(task=recorded.task or DEFAULT_TASK)
    asked = ogbench_names.parse(rest)
    if asked.task is None:
        raise ConfigError(
            f"{env} draws another goal for every episode, and the rewards of these data are of one task: "
            f"name it, --env {asked._replace(task=1).env_id}"
        )
    if asked.env != recorded.env:
        raise ConfigError(f"data of {recorded.env} have no rewards of {env}: take one of its own tasks")
    return asked


def task_rewards(
    task: Name, states: Mapping[str, np.ndarray], rows: int, source: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Return OGBench's rewards and masks `[R]` of recorded states for a single task.

    Rewards are minus the number of open subtasks in the row's state, not in the one after it.

    Raises:
        ConfigError: OGBench's package is missing.
        DataError: the states are not the environment's.
    """
    from rlsuite.envs import ogbench

    env = ogbench.Repeatable(ogbench.bare(task.gym_id))
    table: dict[str, Any] = dict(states)
    try:
        with ogbench.drawing_from(np.random.PCG64(0)):  # it resets the environment; fixed tasks hear no draw
            ogbench.relabel(task.gym_id, env, table)
        rewards, masks = table["rewards"], table["masks"]
        wrong = "" if rewards.shape == masks.shape == (rows,) else f"rewards of shape {rewards.shape}"
    except (KeyError, IndexError, ValueError) as error:
        wrong = f"{type(error).__name__}: {error}"
    finally:
        env.close()
    if wrong:
        raise DataError(f"{source}: its states give no rewards of {task.env_id} ({wrong})")
    return rewards, masks


def _opened(path: Path) -> Any:
    """Return an open file; no pickled array is ever loaded."""
    try:
        file = np.load(path, allow_pickle=False)
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise DataError(f"{path} is no file of OGBench's: {error}") from error
    if not hasattr(file, "files"):
        raise DataError(f"{path} is no file of OGBench's: it holds a single array")
    return file


def _column(file: Any, key: str, path: Path, axes: int) -> np.ndarray:
    if key not in file.files:
        raise DataError(f"{path}: {key}: missing; it has {', '.join(file.files)}")
    try:
        column: np.ndarray = file[key]
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        raise DataError(f"{path}: {key}: {error}") from error
    if column.ndim != axes or column.dtype.kind not in "fbiu":
        raise DataError(f"{path}: {key}: found {column.dtype} {column.shape}, expected numbers, {axes} axes")
    return column


def _recipe(file: Any, path: Path) -> dict[str, Any]:
    """Return how we made a file; empty for others."""
    if RECIPE_KEY not in file.files:
        return {}
    try:
        recipe = json.loads(str(file[RECIPE_KEY]))
    except ValueError as error:
        raise DataError(f"{path}: {RECIPE_KEY}: {error}") from error
    return dict(recipe) if isinstance(recipe, Mapping) else {}
