"""The Minari layout: one group (HDF5) or one folder (Arrow, Parquet) per episode, T + 1 observations each.

An episode of T steps gives T transitions, none dropped: the last observation is the last true successor.
TorchRL 0.14.1's MinariExperienceReplay is not used: it hands back zeros.

Legend: N transitions, E episodes, T steps of an episode, A action.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlsuite.envs.names import tasks_by_name
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.data import CHUNK_ROWS, Columns, OfflineData, Part
from rlsuite.offline.hdf5 import (
    NUMERIC_KINDS,
    check_link,
    check_storage,
    flags_of,
    import_h5py,
    opened,
)
from rlsuite.offline.scores import minari_reference
from rlsuite.offline.spaces import Box, choose_boxes, parse_space

METADATA_FILE = "metadata.json"
MAIN_FILE = "main_data.hdf5"
MAX_METADATA_BYTES = 64 << 20  # box bounds are listed number by number; more is no metadata
MAX_COUNT = 10**15  # steps or episodes: no set has so many, and floats still tell such numbers apart
COLUMNAR = ("arrow", "parquet")


class Episode(NamedTuple):
    """The columns of one episode of T steps, without its observations."""

    steps: int
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


class Episodes(Protocol):
    """Protocol of a format's reader: episode by episode."""

    def read(self, index: int) -> tuple[Episode, Iterator[tuple[int, int, np.ndarray]]]:
        """Return episode `index`, and its observations in blocks: leaf, first row, values `[rows, width]`."""


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return metadata.json of a data folder.

    Raises:
        DataError: it is missing, too large, or not a JSON object.
    """
    path = folder / METADATA_FILE
    try:
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes, expected at most {MAX_METADATA_BYTES:,}")
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise DataError(f"{path}: found a {type(metadata).__name__}, expected an object")
    return metadata


def read_minari(folder: Path, *, keys: Sequence[str] | None = None) -> OfflineData:
    """Read a Minari data set from its folder (the one with `data` in it, or `data` itself).

    Actions are scaled to [-1, 1] by the bounds of the action space.

    Args:
        folder: the data set.
        keys: parts of a dictionary observation, in order ("observation", "desired_goal", or nested
            "achieved_goal/kettle"); None takes all, in the order of `rlsuite.offline.spaces`.

    Raises:
        ConfigError: h5py or pyarrow is not installed, or a key names nothing.
        DataError: the files do not hold what the metadata say, a number is not finite, or a file is damaged.
    """
    if (folder / "data").is_dir():
        folder = folder / "data"
    metadata = read_metadata(folder)
    where = str(folder / METADATA_FILE)
    leaves = choose_boxes(parse_space(metadata, "observation_space", where, keys), keys, where)
    actions = parse_space(metadata, "action_space", where)
    if len(actions) != 1:
        raise DataError(f"{where}: action_space: found {len(actions)} boxes, expected one")
    total, count = _count(metadata, "total_steps", where), _count(metadata, "total_episodes", where)
    form = metadata.get("data_format", "hdf5")
    if form == "hdf5":
        with opened(folder / MAIN_FILE) as file:
            source = _HDF5Episodes(file, folder / MAIN_FILE, leaves, actions[0])
            source.check_count(count)
            columns, edges = _fill(source, folder / MAIN_FILE, total, count, leaves, actions[0])
    elif form in COLUMNAR:
        columns, edges = _fill(
            ArrowEpisodes(folder, form, leaves, actions[0]), folder, total, count, leaves, actions[0]
        )
    else:
        raise DataError(f"{where}: data_format: found {form!r}, expected hdf5, {' or '.join(COLUMNAR)}")
    columns.scale_actions(actions[0])
    rows, episodes = columns.finish(edges)
    name = str(metadata.get("dataset_id", folder.parent.name))
    return OfflineData(
        rows=rows,
        episodes=episodes,
        parts=tuple(Part(leaf.key, leaf.width) for leaf in leaves),
        source=folder,
        layout="minari",
        name=name,
        env=env_of(metadata),
        reference=minari_reference(metadata, name),
        metadata=metadata,
    )


def env_of(metadata: Mapping[str, Any]) -> str | None:
    """Return what `--env` says for the environment a data set names, None where it names none.

    The environment is what the data were recorded in, at its registered defaults; keyword arguments of the
    recording (a goal that moves on when reached) are not repeated.
    """
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    try:
        spec = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return None
    env_id = spec.get("id") if isinstance(spec, dict) else None
    if not isinstance(env_id, str):
        return None
    if env_id.rpartition("-")[0] in tasks_by_name():
        return env_id  # our engine gives Gymnasium's numbers
    package = str(spec.get("entry_point", "")).partition(".")[0]
    return f"gym:{env_id}" if package in ("", "gymnasium") else f"gym:{package}:{env_id}"


def _count(metadata: Mapping[str, Any], name: str, where: str) -> int:
    value = metadata.get(name)
    if type(value) is not int or not 1 <= value <= MAX_COUNT:
        raise DataError(
            f"{where}: {name}: found {value!r:.40}, expected a whole number from 1 to {MAX_COUNT:,}"
        )
    return value


def _fill(
    source: Episodes, path: Path, total: int, count: int, leaves: Sequence[Box], action: Box
) -> tuple[Columns, list[int]]:
    """Copy all episodes into the final columns; return them with the row at which each begins or ends."""
    columns = Columns(path, total, sum(leaf.width for leaf in leaves), action.width)
    offsets = np.concatenate([[0], np.cumsum([leaf.width for leaf in leaves])])
    edges = [0]
    for index in range(count):
        first = edges[-1]
        episode, blocks = source.read(index)
        last = first + episode.steps
        if last > total:
            raise DataError(
                f"{path}: found more than {total:,} steps up to episode_{index}, expected {total:,}"
            )
        for leaf, start, block in blocks:
            place = slice(offsets[leaf], offsets[leaf + 1])
            here = min(len(block), episode.steps - start)
            columns.observation[first + start : first + start + here, place] = block[:here]
            ahead = 1 if start == 0 else 0  # the first observation is nobody's successor
            columns.next_observation[first + start + ahead - 1 : first + start + len(block) - 1, place] = (
                block[ahead:]
            )
        columns.action[first:last] = episode.actions
        columns.reward[first:last] = episode.rewards
        columns.terminated[first:last] = episode.terminations
        columns.truncated[first:last] = episode.truncations
        edges.append(last)
    if edges[-1] != total:
        raise DataError(f"{path}: found {edges[-1]:,} steps in {count:,} episodes, expected {total:,}")
    return columns, edges


class _HDF5Episodes:
    """Episodes of main_data.hdf5, read with h5py's low-level calls: a third of the time of the usual ones."""

    def __init__(self, file: Any, path: Path, leaves: Sequence[Box], action: Box) -> None:
        h5py = import_h5py()
        self._h5py, self._file, self._path = h5py, file, path
        self._leaves, self._action = leaves, action
        self._float = h5py.h5t.py_create(np.dtype(np.float32))
        self._bool = h5py.h5t.py_create(np.dtype(np.bool_), logical=True)

    def check_count(self, count: int) -> None:
        """Raise DataError unless the file has the episodes 0 .. count - 1 and nothing else."""
        if len(self._file) != count:
            raise DataError(f"{self._path}: found {len(self._file):,} groups, expected {count:,} episodes")

    def read(self, index: int) -> tuple[Episode, Iterator[tuple[int, int, np.ndarray]]]:
        """Return one episode; see `Episodes`."""
        name = f"episode_{index}"
        group = self._group(self._file.id, name, name)
        actions = self._open(group, "actions", name)
        steps = actions.shape[0] if actions.shape else 0
        episode = Episode(
            steps,
            self._whole(actions, (steps, self._action.width), f"{name}/actions"),
            self._whole(self._open(group, "rewards", name), (steps,), f"{name}/rewards"),
            self._flags(group, "terminations", name, steps),
            self._flags(group, "truncations", name, steps),
        )
        return episode, self._observations(group, name, steps)

    def _observations(self, group: Any, name: str, steps: int) -> Iterator[tuple[int, int, np.ndarray]]:
        for number, leaf in enumerate(self._leaves):
            node, where = group, name
            for word in ("observations", *leaf.path)[: len(leaf.path)]:
                node, where = self._group(node, word, f"{where}/{word}"), f"{where}/{word}"
            column = self._open(node, ("observations", *leaf.path)[-1], where)
            key = "/".join((name, "observations", *leaf.path))
            self._check(column.shape, (steps + 1, leaf.width), key)
            if steps < CHUNK_ROWS:
                yield number, 0, self._whole(column, (steps + 1, leaf.width), key)
            else:
                wide = self._h5py.Dataset(column)
                self._check_numeric(wide.dtype, key)
                for start in range(0, steps + 1, CHUNK_ROWS):
                    yield number, start, wide[start : start + CHUNK_ROWS]

    def _group(self, parent: Any, name: str, key: str) -> Any:
        self._check_links(parent, name, key)
        try:
            return self._h5py.h5g.open(parent, name.encode())
        except (KeyError, ValueError) as error:
            raise DataError(f"{self._path}: {key}: missing, or no group; expected one") from error

    def _open(self, parent: Any, name: str, where: str) -> Any:
        key = f"{where}/{name}"
        self._check_links(parent, name, key)
        try:
            column = self._h5py.h5d.open(parent, name.encode())
        except (KeyError, ValueError) as error:
            raise DataError(f"{self._path}: {key}: missing, or no array; expected one") from error
        check_storage(column.get_create_plist(), key, self._path)
        return column

    def _check_links(self, parent: Any, name: str, key: str) -> None:
        h5l = self._h5py.h5l
        try:
            link_type = parent.links.get_info(name.encode()).type
        except (KeyError, RuntimeError) as error:
            raise DataError(f"{self._path}: {key}: missing") from error
        if link_type != h5l.TYPE_HARD:
            check_link(self._h5py.Group(parent).get(name, getlink=True), key, self._path)

    def _whole(self, column: Any, shape: tuple[int, ...], key: str) -> np.ndarray:
        self._check(column.shape, shape, key)
        if column.get_type().get_class() not in (self._h5py.h5t.FLOAT, self._h5py.h5t.INTEGER):
            self._check_numeric(column.dtype, key)
        values = np.empty(shape, np.float32)
        column.read(self._h5py.h5s.ALL, self._h5py.h5s.ALL, values, self._float)
        return values

    def _flags(self, group: Any, name: str, where: str, steps: int) -> np.ndarray:
        column, key = self._open(group, name, where), f"{where}/{name}"
        if column.get_type().get_class() != self._h5py.h5t.ENUM:  # h5py's way to write bool
            return flags_of(self._whole(column, (steps,), key), self._path, key)
        self._check(column.shape, (steps,), key)
        values = np.empty(steps, np.bool_)
        column.read(self._h5py.h5s.ALL, self._h5py.h5s.ALL, values, self._bool)
        return values

    def _check_numeric(self, dtype: np.dtype, key: str) -> None:
        if dtype.kind not in NUMERIC_KINDS:
            raise DataError(f"{self._path}: {key}: found values of type {dtype}, expected numbers")

    def _check(self, actual: tuple[int, ...], expected: tuple[int, ...], key: str) -> None:
        if not expected[0]:
            raise DataError(f"{self._path}: {key}: found an episode of no steps, expected at least one")
        if actual != expected:
            raise DataError(f"{self._path}: {key}: found shape {list(actual)}, expected {list(expected)}")


def is_minari(path: Path) -> bool:
    """Return whether a folder is laid out like a Minari data set."""
    return (path / METADATA_FILE).is_file() or (path / "data" / METADATA_FILE).is_file()


class ArrowEpisodes:
    """Episodes of a columnar data set; see `Episodes`.

    All columns have T + 1 rows; those of the steps are padded at the end.

    Args:
        folder: the one with metadata.json.
        form: "arrow" or "parquet".
        leaves: the boxes to read.
        action: the action's box.

    Raises:
        ConfigError: pyarrow is not installed.
    """

    def __init__(self, folder: Path, form: str, leaves: Sequence[Box], action: Box) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ConfigError(f'{form} data sets need pyarrow: pip install "rlsuite[offline]"') from error
        self._arrow = pyarrow
        self._folder, self._form, self._leaves, self._action = folder, form, leaves, action

    def read(self, index: int) -> tuple[Episode, Iterator[tuple[int, int, np.ndarray]]]:
        """Return one episode; see `Episodes`."""
        table, path = self._table(index)
        rows = table.num_rows
        if rows < 2:
            raise DataError(f"{path}: found {rows} rows, expected one more than the episode's steps")
        episode = Episode(
            rows - 1,
            self._vectors(self._column(table, ("actions",), path), self._action.width, "actions", path)[:-1],
            self._numbers(table, "rewards", path)[:-1].astype(np.float32),
            flags_of(self._numbers(table, "terminations", path)[:-1], path, "terminations"),
            flags_of(self._numbers(table, "truncations", path)[:-1], path, "truncations"),
        )
        return episode, self._observations(table, path)

    def _observations(self, table: Any, path: Path) -> Iterator[tuple[int, int, np.ndarray]]:
        for number, leaf in enumerate(self._leaves):
            column = self._column(table, ("observations", *leaf.path), path)
            yield number, 0, self._vectors(column, leaf.width, leaf.key, path)

    def _table(self, index: int) -> tuple[Any, Path]:
        folder = self._folder / str(index)
        files = sorted(folder.glob(f"*.{self._form}")) if folder.is_dir() else []
        if len(files) != 1:
            raise DataError(f"{folder}: found {len(files)} .{self._form} files, expected one")
        path = files[0]
        if self._folder.resolve() not in path.resolve().parents:
            raise DataError(f"{path}: found a link out of the data set, expected a file in it")
        try:
            if self._form == "parquet":
                return self._arrow.parquet.ParquetFile(path).read().combine_chunks(), path
            with self._arrow.memory_map(str(path)) as file:
                return self._arrow.ipc.open_file(file).read_all().combine_chunks(), path
        except (self._arrow.ArrowException, OSError) as error:
            said = " ".join(str(error).split())
            raise DataError(f"{path}: damaged or cut short: {said}; fetch or make it again") from error

    def _column(self, table: Any, names: tuple[str, ...], path: Path) -> Any:
        """Return the array at the end of a way through structs."""
        if names[0] not in table.column_names:
            raise DataError(f"{path}: {names[0]}: missing; found {', '.join(table.column_names)}")
        chunks = table.column(names[0]).chunks
        column = chunks[0] if len(chunks) == 1 else self._arrow.concat_arrays(chunks)
        for name in names[1:]:
            column_type = column.type
            if not self._arrow.types.is_struct(column_type) or column_type.get_field_index(name) < 0:
                raise DataError(f"{path}: {'/'.join(names)}: missing; found {column_type}")
            column = column.field(column_type.get_field_index(name))
        if column.null_count:
            raise DataError(
                f"{path}: {'/'.join(names)}: found {column.null_count} empty cells, expected none"
            )
        return column

    def _vectors(self, column: Any, width: int, key: str, path: Path) -> np.ndarray:
        types, column_type = self._arrow.types, column.type
        if not types.is_fixed_size_list(column_type) or column_type.list_size != width:
            raise DataError(f"{path}: {key}: found {column_type}, expected lists of {width} numbers")
        values = column.flatten()
        if values.null_count or not (types.is_floating(values.type) or types.is_integer(values.type)):
            raise DataError(f"{path}: {key}: found {values.type} with empty cells, expected numbers")
        return values.to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float32, copy=False)

    def _numbers(self, table: Any, name: str, path: Path) -> np.ndarray:
        column = self._column(table, (name,), path)
        types, dtype = self._arrow.types, column.type
        if not (types.is_floating(dtype) or types.is_integer(dtype) or types.is_boolean(dtype)):
            raise DataError(f"{path}: {name}: found {dtype}, expected numbers")
        return column.to_numpy(zero_copy_only=False)
