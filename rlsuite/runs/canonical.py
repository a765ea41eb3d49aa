"""Plain values in one canonical form, and the digest that names a configuration everywhere."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


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
