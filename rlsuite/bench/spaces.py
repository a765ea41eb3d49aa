"""Search spaces of hyper-parameters: TOML files, flag by flag; and values of them as words of a command."""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsuite import registry
from rlsuite.errors import ConfigError

SPACES = Path(registry.__file__).parent / "configs" / "spaces"


def read_space(agent: str, path: Path | None = None) -> dict[str, Mapping[str, Any]]:
    """Return a search space, checked: flag -> low, high, log, or choices.

    Args:
        agent: whose own it is, where none is named.
        path: TOML file of another one.

    Raises:
        ConfigError: there is none, or an entry means nothing.
    """
    registry.check_agent_name(agent)
    path = path or SPACES / f"{agent}.toml"
    if not path.is_file():
        raise ConfigError(f"there is no search space {path}: write one and name it with --space")
    try:
        space = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not space:
        raise ConfigError(f"{path} is empty: nothing to search for")
    for name, entry in space.items():
        problem = wrong(entry)
        if problem:
            raise ConfigError(
                f"{path}: {name} = {entry}: {problem}; give {{ low = 1e-5, high = 1e-3, log = true }} or "
                "{ choices = [1, 2] }"
            )
    return space


def wrong(entry: Any) -> str | None:
    """Say what is wrong with an entry of a search space; None where nothing is."""
    if not isinstance(entry, Mapping):
        return "is no table"
    if set(entry) == {"choices"}:
        fine = isinstance(entry["choices"], list) and entry["choices"]
        return None if fine else "choices must be a list with something in it"
    if not {"low", "high"} <= set(entry) <= {"low", "high", "log"}:
        return "has other keys"
    low, high = entry["low"], entry["high"]
    if (
        any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high))
        or not low < high
    ):
        return "low and high must be numbers in order"
    if entry.get("log") and low <= 0:
        return "a logarithmic range begins above 0"
    return None


def example(name: str, entry: Mapping[str, Any]) -> Any:
    """Return one value of an entry, to try the flags with."""
    return entry["choices"][0] if "choices" in entry else entry["low"]


def is_whole(entry: Mapping[str, Any]) -> bool:
    """Return whether a range is one of whole numbers."""
    return isinstance(entry["low"], int) and isinstance(entry["high"], int)


def args_of(values: Mapping[str, Any]) -> list[str]:
    """Return values as flags: `--agent.lr-critic 0.001`, `--agent.hidden 256 256`, `--agent.no-goal`."""
    args = []
    for name, value in values.items():
        if isinstance(value, bool):
            prefix, dot, field = name.rpartition(".")
            args.append(f"--{name}" if value else f"--{prefix}{dot}no-{field}")
            continue
        args += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return args


def digest_of(values: Mapping[str, Any]) -> str:
    """Return ten letters that name a set of values: the same values have one run folder."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
