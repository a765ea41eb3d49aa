"""Extensions by other packages: agents, plug-ins, tasks and data sets, by entry point or by `--import`.

A package names them in its `pyproject.toml`, in the groups of `GROUPS`; a module that is given to `--import`
calls `register`. Nothing is imported before it is used: listing costs no import. docs/extending.md has a
template of each.
"""

import importlib
import re
from importlib import metadata
from types import ModuleType
from typing import Any, Literal

from rlsuite.errors import ConfigError

Category = Literal["agent", "plugin", "task", "dataset"]

GROUPS: dict[Category, str] = {
    category: f"rlsuite.{category}s" for category in ("agent", "plugin", "task", "dataset")
}
"""Entry-point group of each kind."""

NAMES: dict[Category, tuple[re.Pattern[str], str]] = {
    "agent": (re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}"), "a letter, then letters, digits and underscores"),
    "plugin": (
        re.compile(r"[a-z][a-z0-9_]{0,63}"),
        "a small letter, then small letters, digits, underscores",
    ),
    "task": (re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}"), "a letter, then letters and digits, no version"),
    "dataset": (
        re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(/[A-Za-z0-9][A-Za-z0-9_-]{0,63}){0,3}"),
        "letters, digits, dashes, underscores, and slashes between parts",
    ),
}
"""What each kind may be called, and the same in words: names become flags, folders and ids."""

_TARGET = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?")

_registered: dict[Category, dict[str, str]] = {}
imported: list[str] = []  # by `--import`; other processes of the run import them too


def register(category: Category, name: str, target: str) -> None:
    """Make something of the user's own known; for modules that `--import` loads.

    Args:
        kind: "agent", "plugin", "task" or "dataset".
        name: what the command line calls it.
        target: where it lives: `package.module` (agents, plug-ins, tasks) or `package.module:name`.

    Raises:
        ConfigError: a name or a target that cannot be one, or a name that is taken by another target.
    """
    _check(category, name, target)
    taken = targets(category).get(name)
    if taken is not None and taken != target:
        raise ConfigError(f'the {category} "{name}" exists already ({taken}): choose another name')
    _registered.setdefault(category, {})[name] = target


def targets(category: Category) -> dict[str, str]:
    """Return where everything that other packages and `register` added lives, by name.

    Raises:
        ConfigError: an installed package's entry point has a name or a target that cannot be one.
    """
    entries = {entry.name: entry.value for entry in metadata.entry_points(group=GROUPS[category])}
    for name, target in entries.items():
        _check(category, name, target)
    return dict(sorted((entries | _registered.get(category, {})).items()))


def module_of(category: Category, name: str) -> ModuleType:
    """Import the module of something that was added.

    Raises:
        ConfigError: there is no such module. What a module itself raises keeps its traceback.
    """
    path = targets(category)[name].partition(":")[0]
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not (path == error.name or path.startswith(f"{error.name}.")):
            raise
        raise ConfigError(
            f'the {category} "{name}" should live in {path}, and there is no module "{error.name}": correct '
            f"the entry point of group {GROUPS[category]}, and install that package again"
        ) from error


def load(category: Category, name: str) -> Any:
    """Import what `package.module:name` says; without a name after the colon, the module.

    Raises:
        ConfigError: there is no such module, or nothing of that name in it.
    """
    module = module_of(category, name)
    attribute = targets(category)[name].partition(":")[2]
    if not attribute:
        return module
    if not hasattr(module, attribute):
        raise ConfigError(f'the {category} "{name}": {module.__name__} has nothing called {attribute}')
    return getattr(module, attribute)


def _check(category: Category, name: str, target: str) -> None:
    pattern, rule = NAMES[category]
    if not pattern.fullmatch(name):
        raise ConfigError(
            f'"{name}" ({target}) cannot name {"an" if category == "agent" else "a"} {category}: {rule}'
        )
    if not _TARGET.fullmatch(target):
        raise ConfigError(
            f'the {category} "{name}": "{target}" is neither package.module nor package.module:name'
        )
