"""Reading HDF5 files that other people made: only plain numeric columns, and only out of the file itself.

An HDF5 file can point to other files (external links, external storage, virtual data sets) and can ask for
filters that are loaded as plug-ins. Both are refused. h5py is imported when a file is opened.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlsuite.errors import ConfigError, DataError

if TYPE_CHECKING:
    import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"  # first bytes of every HDF5 file without a user block
SHOWN_NAMES = 12  # of what a file has; they may be bytes where they are no text
# HDF5 keeps what it knows of visited arrays in up to 32 MiB, and with ten thousand small episodes spends
# another 130 MiB around it; every array is visited once here.
METADATA_CACHE_BYTES = 1 << 20
SHOWN_BYTES = 16  # of a file that is none
KNOWN_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # built into h5py, none a plug-in
NUMERIC_KINDS = "biuf"


def import_h5py() -> Any:
    """Return the module h5py; ConfigError where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise ConfigError('data sets need h5py: pip install "rlsuite[offline]"') from error
    return h5py


@contextlib.contextmanager
def opened(path: Path) -> Iterator["h5py.File"]:
    """Open a file for reading; whatever the library finds wrong with it becomes a DataError.

    Raises:
        ConfigError: h5py is not installed.
        DataError: the file cannot be opened or read, is cut short, or is not HDF5.
    """
    h5py = import_h5py()
    try:
        with path.open("rb") as file:
            head = file.read(SHOWN_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not head.startswith(SIGNATURE):
        raise DataError(f"{path}: found a file that begins with {head!r}, expected HDF5")
    # What overflows float32 is found, and named, when the columns are complete.
    with reading(path), np.errstate(over="ignore"), h5py.File(path, "r") as file:
        cache = file.id.get_mdc_config()
        cache.set_initial_size, cache.initial_size = True, METADATA_CACHE_BYTES
        cache.min_size = cache.max_size = METADATA_CACHE_BYTES
        file.id.set_mdc_config(cache)
        yield file


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors that h5py raises for damaged files into a DataError."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError) as error:
        if not _from_h5py(error):
            raise
        said = " ".join(str(error).split())
        raise DataError(f"{path}: damaged or cut short: {said}; fetch or make it again") from error


def _from_h5py(error: BaseException) -> bool:
    """Return whether an error's innermost frame lies in h5py: our own mistakes keep their traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "h5py" in trace.tb_frame.f_code.co_filename


def find(file: "h5py.File", key: str, path: Path) -> "h5py.Dataset | None":
    """Return the numeric column `key` ("observations", "infos/goal"), or None where the file has none.

    Raises:
        DataError: it is a group, is not numeric, or is not stored in this file in a known way.
    """
    h5py = import_h5py()
    node: Any = file
    for name in key.split("/"):
        if not isinstance(node, h5py.Group) or name not in node:
            return None
        check_link(node.get(name, getlink=True), key, path)
        node = node[name]
    if not isinstance(node, h5py.Dataset):
        raise DataError(f"{path}: {key}: found a group, expected an array")
    check_storage(node.id.get_create_plist(), key, path)
    if node.dtype.kind not in NUMERIC_KINDS:
        raise DataError(f"{path}: {key}: found values of type {node.dtype}, expected numbers")
    return node


def need(file: "h5py.File", key: str, path: Path) -> "h5py.Dataset":
    """Return what `find` finds; DataError naming what the file has where there is none."""
    node = find(file, key, path)
    if node is None:
        there = ", ".join(sorted(map(str, file))[:SHOWN_NAMES]) or "nothing"
        raise DataError(f"{path}: {key}: missing; expected an array, found only {there}")
    return node


def check_link(link: Any, key: str, path: Path) -> None:
    """Raise DataError unless a link of `Group.get(getlink=True)` is a plain name inside the file."""
    h5py = import_h5py()
    if not isinstance(link, h5py.HardLink):
        target = getattr(link, "filename", None) or getattr(link, "path", "")
        raise DataError(
            f"{path}: {key}: found {type(link).__name__} to {target!r}, expected an array in this file"
        )


def check_storage(plist: Any, key: str, path: Path) -> None:
    """Raise DataError for values that lie in other files or pass through unknown filters.

    Args:
        plist: the creation property list of a data set.
        key: its name, for the message.
        path: the file.
    """
    h5py = import_h5py()
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise DataError(f"{path}: {key}: found values kept in other files, expected them in this one")
    for index in range(plist.get_nfilters()):
        number, _, _, name = plist.get_filter(index)
        if number not in KNOWN_FILTERS:
            known = ", ".join(KNOWN_FILTERS.values())
            raise DataError(
                f"{path}: {key}: found filter {number} ({name.decode()}), expected one of {known}"
            )


def check_shape(path: Path, key: str, actual: tuple[int, ...], expected: tuple[int | str, ...]) -> None:
    """Raise DataError unless the shapes agree; a letter in `expected` stands for any length of at least 1."""
    fits = len(actual) == len(expected) and all(
        have == want if isinstance(want, int) else have > 0
        for have, want in zip(actual, expected, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, expected))
        raise DataError(f"{path}: {key}: found shape {list(actual)}, expected [{wanted}]")


def flags_of(values: np.ndarray, path: Path, key: str) -> np.ndarray:
    """Return a column of 0 and 1 as bool; DataError for other values."""
    if values.dtype == np.bool_:
        return values
    wrong = values[(values != 0) & (values != 1)]
    if len(wrong):
        raise DataError(f"{path}: {key}: found {wrong[0]}, expected only true and false")
    return values.astype(np.bool_)
