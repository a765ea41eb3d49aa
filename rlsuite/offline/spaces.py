"""Spaces as Minari writes them in metadata.json: boxes, and dictionaries of spaces.

The observation of a dictionary space is its leaves side by side, in the order of `rlsuite.envs.flatten`:
that of our environments, too.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlsuite.envs.flatten import FIRST_KEYS, choose, key_order
from rlsuite.errors import DataError

MAX_WIDTH = 1_000_000  # numbers per step; more is no vector observation but a damaged file
TYPE_NAME = re.compile(r"[<>=|]?[a-z]{1,12}[0-9]{0,3}")  # float32, bool, <f8


@dataclass(frozen=True, slots=True)
class Box:
    """A leaf: a vector of numbers.

    Attributes:
        path: names on the way to it, () for a space that is one box.
        width: numbers per step.
        dtype: NumPy's name of their type.
        low: lower bounds `[width]`, or None where the file does not tell.
        high: upper bounds.
    """

    path: tuple[str, ...]
    width: int
    dtype: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @property
    def key(self) -> str:
        """The path in one word, `observation` where the space is one box."""
        return "/".join(self.path) or "observation"


def parse_space(
    metadata: Mapping[str, Any], name: str, where: str, keys: Sequence[str] | None = None
) -> tuple[Box, ...]:
    """Return the leaves of `observation_space` or `action_space`, in the order of this module.

    Args:
        metadata: of the data set.
        name: of the space.
        where: for the message.
        keys: the parts that will be read; others may be what cannot be read (pictures, text), and are left
            out where they are. None reads all.

    Raises:
        DataError: the space is missing or holds something other than boxes of vectors.
    """
    text = metadata.get(name)
    if not isinstance(text, str):
        raise DataError(f"{where}: {name}: found {type(text).__name__}, expected a space as JSON text")
    try:
        space = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {name}: not JSON ({error})") from error
    wanted = None if keys is None else [tuple(key.split("/")) for key in keys]
    leaves = tuple(_leaves(space, (), f"{where}: {name}", wanted))
    if not leaves:
        raise DataError(f"{where}: {name}: found no box, expected at least one")
    return leaves


def box_json(
    dtype: str, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray
) -> dict[str, Any]:
    """Return a vector space as Minari's JSON has it; infinities are written as JSON's extension."""
    low, high = np.asarray(low, dtype), np.asarray(high, dtype)
    return {
        "type": "Box",
        "dtype": dtype,
        "shape": list(low.shape),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def nested_json(leaves: Mapping[tuple[str, ...], dict[str, Any]]) -> dict[str, Any]:
    """Return a dictionary space, nested where paths have more than one name, from its leaves by path."""
    subspaces: dict[str, Any] = {}
    for path, leaf in leaves.items():
        level = subspaces
        for name in path[:-1]:
            level = level.setdefault(name, {"type": "Dict", "subspaces": {}})["subspaces"]
        level[path[-1]] = leaf
    return {"type": "Dict", "subspaces": subspaces}


def choose_boxes(leaves: Sequence[Box], keys: Sequence[str] | None, where: str) -> tuple[Box, ...]:
    """Return the leaves that `keys` name, in the order of `keys`; a key may name a whole subtree.

    Raises:
        ConfigError: a key names nothing.
    """
    by_path = {leaf.path or (FIRST_KEYS[0],): leaf for leaf in leaves}
    return tuple(by_path[path] for path in choose(list(by_path), keys, where))


def _leaves(
    space: Any, path: tuple[str, ...], where: str, wanted: Sequence[tuple[str, ...]] | None
) -> Iterator[Box]:
    space_type = space.get("type") if isinstance(space, dict) else None
    if space_type == "Dict" and isinstance(space.get("subspaces"), dict):
        for name in sorted(space["subspaces"], key=key_order):
            if not name or "/" in name or name.startswith("."):
                raise DataError(f"{where}: found a part named {name!r}, expected a plain word")
            yield from _leaves(space["subspaces"][name], (*path, name), where, wanted)
        return
    here, problem = "/".join(path) or "the space", ""
    shape, dtype = (space.get("shape"), space.get("dtype")) if space_type == "Box" else (None, None)
    if space_type != "Box":
        problem = f"is of type {space_type!r}, expected Box: our agents need vectors"
    elif not _is_vector(shape) or not _is_number_type(dtype):
        problem = f"has shape {shape!r} and type {dtype!r}, expected a vector of numbers"
    if problem and path and wanted is not None and not any(path[: len(way)] == way for way in wanted):
        return
    if problem:
        raise DataError(f"{where}: {here} {problem}")
    assert shape is not None and dtype is not None  # else there is a problem
    width = math.prod(shape)
    yield Box(path, width, dtype, _bounds(space, "low", width), _bounds(space, "high", width))


def _is_vector(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= 1
        and all(type(size) is int and 0 < size <= MAX_WIDTH for size in shape)
    )


def _is_number_type(dtype: Any) -> bool:
    # One word alone reaches NumPy: of several, with commas, it makes records, through Python's own parser.
    if not isinstance(dtype, str) or not TYPE_NAME.fullmatch(dtype):
        return False
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


def _bounds(space: Mapping[str, Any], name: str, width: int) -> np.ndarray | None:
    """Return bounds as float64 `[width]`, or None where they are absent or are no numbers."""
    try:
        bounds = np.asarray(space.get(name), np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        return None
    return bounds if bounds.shape == (width,) else None
