"""Load what a flag names of the user's own as MODULE:CLASS: callbacks, loggers, networks."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from rlsuite.errors import ConfigError

_TARGET = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_target(text: str) -> bool:
    """Return whether a text has the form MODULE:CLASS."""
    return _TARGET.fullmatch(text) is not None


def load_target(text: str, flag: str) -> Any:
    """Import what MODULE:CLASS names; modules in the working folder are found, too.

    Args:
        text: as the user wrote it.
        flag: where, for the error.

    Raises:
        ConfigError: another form, no such module, or nothing of that name in it. What a module itself raises
            keeps its traceback.
    """
    if not is_target(text):
        raise ConfigError(f'{flag} "{text:.60}": name a class as MODULE:CLASS, e.g. my_module:Mine')
    module_name, _, name = text.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that a stray file here shadows no library
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise ConfigError(
            f'{flag} {text}: there is no module "{error.name}"; name it as Python\'s import does, without '
            ".py, from the folder it lies in"
        ) from error
    if not hasattr(module, name):
        raise ConfigError(f"{flag} {text}: {module_name} has nothing called {name}")
    return getattr(module, name)
