"""The legacy D4RL layout: one flat HDF5 file, read as D4RL's q-learning view reads it.

The successor of row i is row i + 1. Rows that end an episode by its time limit have no successor in the
file and are left out; rows that terminated are kept, and bootstrap from nothing. The last row of the file has
no successor either. Files that also have `next_observations` (gym_mujoco v2, ours) keep every row.

Legend: N rows of the file, O observation, A action.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlsuite.errors import DataError
from rlsuite.offline.data import CHUNK_ROWS, RECIPE_KEY, Columns, OfflineData, Part, check_room
from rlsuite.offline.hdf5 import check_shape, find, flags_of, need, opened
from rlsuite.offline.minari import env_of
from rlsuite.offline.scores import minari_reference
from rlsuite.offline.spaces import parse_space

if TYPE_CHECKING:
    import h5py

DEFAULT_KEYS = ("observations",)
ACTION_SPACE = "action_space"
JSON_ATTRIBUTES = (RECIPE_KEY, "ref_min_score", "ref_max_score")  # of files of our own
SUCCESSORS = {"observations": "next_observations"}


class _Ends(NamedTuple):
    """Ends of a file's transitions, `[N]` each."""

    terminated: np.ndarray
    timed_out: np.ndarray


def read_d4rl(
    path: Path, *, keys: tuple[str, ...] = DEFAULT_KEYS, max_episode_steps: int | None = None
) -> OfflineData:
    """Read a legacy D4RL file.

    Args:
        path: the HDF5 file.
        keys: columns that make up the observation, in order; `("observations", "infos/goal")` adds the goal.
        max_episode_steps: the time limit, for old files without `timeouts`.

    Raises:
        ConfigError: h5py is not installed.
        DataError: a key is missing, lengths differ, a number is not finite, or the file is damaged.
    """
    with opened(path) as file:
        observations = [need(file, key, path) for key in keys]
        successors = [find(file, SUCCESSORS[key], path) if key in SUCCESSORS else None for key in keys]
        actions, rewards = need(file, "actions", path), need(file, "rewards", path)
        total = len(need(file, DEFAULT_KEYS[0], path)) if observations[0].shape else 0
        for key, column in zip(keys, observations, strict=True):
            check_shape(path, key, column.shape, (total, "O"))
        for key, column, successor in zip(keys, observations, successors, strict=True):
            if successor is not None:
                check_shape(path, SUCCESSORS[key], successor.shape, column.shape)
        check_shape(path, "actions", actions.shape, (total, "A"))
        # A few v0 files keep rewards as a column of width 1.
        check_shape(path, "rewards", rewards.shape, (total,) if len(rewards.shape) == 1 else (total, 1))
        check_room(path, total, sum(column.shape[1] for column in observations), actions.shape[1])
        ends = _read_ends(file, path, total, max_episode_steps)
        complete = any(successor is not None for successor in successors)
        kept = np.ones(total, np.bool_)
        if not complete:
            kept &= ~ends.timed_out
            kept[-1:] = False
        parts = tuple(Part(key, column.shape[1]) for key, column in zip(keys, observations, strict=True))
        columns = Columns(path, int(kept.sum()), sum(part.width for part in parts), actions.shape[1])
        columns.terminated[:] = ends.terminated[kept]
        columns.truncated[:] = ends.timed_out[kept]
        start = 0
        for part, column, successor in zip(parts, observations, successors, strict=True):
            place = slice(start, start + part.width)
            _fill_observations(columns, place, column, successor, ends, kept)
            start += part.width
        for target, column in ((columns.action, actions), (columns.reward, rewards)):
            for rows, block in _blocks(column, kept):
                target[rows] = block.reshape(-1, *target.shape[1:])
        metadata = _attributes(file)
        if ACTION_SPACE in metadata:  # files of our own; D4RL's actions are in [-1, 1] anyway
            box = parse_space(metadata, ACTION_SPACE, str(path))[0]
            check_shape(path, "actions", actions.shape, (total, box.width))
            columns.scale_actions(box)
    over = ends.terminated | ends.timed_out
    rows, episodes = columns.finish(np.cumsum(kept)[over])
    return OfflineData(
        rows=rows,
        episodes=episodes,
        parts=parts,
        source=path,
        layout="d4rl",
        name=path.stem,
        env=env_of(metadata),
        reference=minari_reference(metadata, path.stem),
        standins=0 if complete else int(columns.terminated.sum()),
        metadata=metadata,
    )


def read_attributes(path: Path) -> dict[str, Any]:
    """Return what a file says about itself, without its rows; files of our own say how they were made.

    Raises:
        ConfigError: h5py is not installed.
        DataError: the file is damaged.
    """
    with opened(path) as file:
        return _attributes(file)


def _attributes(file: "h5py.File") -> dict[str, Any]:
    return {name: _decoded(name, text) for name, text in file.attrs.items() if isinstance(text, str)}


def _decoded(name: str, text: str) -> Any:
    """Return what an attribute says: some of ours are JSON, all others text."""
    if name not in JSON_ATTRIBUTES:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_ends(file: "h5py.File", path: Path, total: int, max_episode_steps: int | None) -> _Ends:
    terminals = need(file, "terminals", path)
    check_shape(path, "terminals", terminals.shape, (total,))
    terminated = flags_of(terminals[:], path, "terminals")
    timeouts = find(file, "timeouts", path)
    if timeouts is not None:
        check_shape(path, "timeouts", timeouts.shape, (total,))
        return _Ends(terminated, flags_of(timeouts[:], path, "timeouts"))
    if max_episode_steps is None:
        raise DataError(
            f"{path}: timeouts: missing, so the episodes' ends are unknown; write a file that has them, N "
            f"being the time limit: rlsuite data convert {path} NEW.hdf5 --max-episode-steps N (in Python: "
            "max_episode_steps=N)"
        )
    return _Ends(terminated, count_timeouts(terminated, max_episode_steps))


def count_timeouts(terminated: np.ndarray, max_episode_steps: int) -> np.ndarray:
    """Return where a step counter reaches the limit, `[N]` bool; it starts over after every end."""
    timed_out = np.zeros_like(terminated)
    edges = [0, *(np.flatnonzero(terminated) + 1).tolist(), len(terminated)]
    for start, stop in itertools.pairwise(edges):
        timed_out[start + max_episode_steps - 1 : stop : max_episode_steps] = True
    return timed_out


def _fill_observations(
    columns: Columns,
    place: slice,
    column: "h5py.Dataset",
    successor: "h5py.Dataset | None",
    ends: _Ends,
    kept: np.ndarray,
) -> None:
    """Write one part of the observation, and of the successor's: the next row, or this one where none is."""
    total, row = len(kept), 0
    for start in range(0, total, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, total)
        block = column[start : min(stop + 1, total)].astype(np.float32, copy=False)
        keep = kept[start:stop]
        here = block[: stop - start]
        if successor is not None:
            next_obs = successor[start:stop]
        else:
            next_obs = here.copy()
            next_obs[: len(block) - 1] = block[1:]
            stands_in = (ends.terminated | ends.timed_out)[start:stop]
            next_obs[stands_in] = here[stands_in]
        rows = slice(row, row + int(keep.sum()))
        columns.observation[rows, place] = here[keep]
        columns.next_observation[rows, place] = next_obs[keep]
        row = rows.stop


def _blocks(column: "h5py.Dataset", kept: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield where the next rows go and what they are, a chunk at a time, without the rows left out."""
    row = 0
    for start in range(0, len(kept), CHUNK_ROWS):
        keep = kept[start : start + CHUNK_ROWS]
        block = column[start : start + CHUNK_ROWS][keep]
        yield slice(row, row + len(block)), block
        row += len(block)
