"""Plain values in one canonical form, and the digest that names a configuration everywhere."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, TypeGuard


def canonical(value: Any) -> bytes:
    """Return `value` as JSON that is the same text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def without_none(value: Any) -> Any:
    """Return `value` with None entries of its tables left out and tuples as lists, as TOML would hold it."""
    if isinstance(value, Mapping):
        return {key: without_none(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return [without_none(entry) for entry in value]
    return value


def config_digest(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of `config` as canonical JSON; key order does not matter, None is as absent."""
    return hashlib.sha256(canonical(without_none(config))).hexdigest()


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value read from JSON is a number, and one that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's whole numbers have no bound
        return False
