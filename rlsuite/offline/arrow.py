"""Minari's Arrow and Parquet formats: a folder per episode with one columnar file.

All columns have T + 1 rows; those of the steps are padded at the end. pyarrow is imported when needed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.hdf5 import flags_of
from rlsuite.offline.minari import Episode
from rlsuite.offline.spaces import Box


class ArrowEpisodes:
    """Episodes of a columnar data set; see `rlsuite.offline.minari.Episodes`.

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
            kind = column.type
            if not self._arrow.types.is_struct(kind) or kind.get_field_index(name) < 0:
                raise DataError(f"{path}: {'/'.join(names)}: missing; found {kind}")
            column = column.field(kind.get_field_index(name))
        if column.null_count:
            raise DataError(
                f"{path}: {'/'.join(names)}: found {column.null_count} empty cells, expected none"
            )
        return column

    def _vectors(self, column: Any, width: int, key: str, path: Path) -> np.ndarray:
        types, kind = self._arrow.types, column.type
        if not types.is_fixed_size_list(kind) or kind.list_size != width:
            raise DataError(f"{path}: {key}: found {kind}, expected lists of {width} numbers")
        values = column.flatten()
        if values.null_count or not (types.is_floating(values.type) or types.is_integer(values.type)):
            raise DataError(f"{path}: {key}: found {values.type} with empty cells, expected numbers")
        return values.to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float32, copy=False)

    def _numbers(self, table: Any, name: str, path: Path) -> np.ndarray:
        column = self._column(table, (name,), path)
        types, kind = self._arrow.types, column.type
        if not (types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)):
            raise DataError(f"{path}: {name}: found {kind}, expected numbers")
        return column.to_numpy(zero_copy_only=False)
