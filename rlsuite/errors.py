"""The errors a user meets, each with the exit code of the command line (docs/design.md, section 5).

Imports nothing, so that every room of the house may use it.
"""

import difflib
from collections.abc import Iterable


class RLSuiteError(Exception):
    """Base of all errors that end a command with one line instead of a traceback."""

    exit_code = 1


class ConfigError(RLSuiteError, ValueError):
    """A wrong name, flag, value or path: what came, what is allowed, what to do."""

    exit_code = 2


class DataError(RLSuiteError):
    """A data set or a checkpoint that cannot be used."""

    exit_code = 3


class NumericalError(RLSuiteError, ArithmeticError):
    """Training stopped on a number that is not finite; a dump lies in the run folder."""

    exit_code = 4


class EnvironmentFailure(RLSuiteError):
    """An environment or one of its workers failed while running."""

    exit_code = 5


class Interrupted(RLSuiteError):
    """A signal stopped the run after its checkpoint; `rlsuite resume` goes on."""

    exit_code = 75


def unknown_name(what: str, name: str, options: Iterable[str], hint: str) -> ConfigError:
    """Build the error for a name that does not exist, with the nearest one that does.

    Args:
        what: what the name should have been, with its article ("an agent").
        name: what came.
        options: every allowed name.
        hint: the command that lists them.
    """
    bare = {option.lower().lstrip("-"): option for option in options}  # dashes would make all flags alike
    near = difflib.get_close_matches(name.lower().lstrip("-"), list(bare), n=1, cutoff=0.5)
    suggestion = f' Did you mean "{bare[near[0]]}"?' if near else ""
    return ConfigError(f'"{name}" is not {what}.{suggestion} List them with: {hint}')
