"""Between frozen dataclasses and plain mappings (TOML, options by name): strict both ways.

TOML has no null, so a field that is None is written as the string "none" and read back as None.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeGuard, TypeVar, Union

from rlsuite.bounds import check_numbers
from rlsuite.errors import ConfigError

NONE_TEXT = "none"

T = TypeVar("T")


def to_mapping(config: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance as plain values (tuples as lists, None as "none")."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str, **fixed: Any) -> T:
    """Build the dataclass `kind` from plain values, its defaults filling what is not there.

    Args:
        kind: a dataclass; fields are int, float, bool, str, Literal, tuple, mapping, or one of these or None.
        values: field names and plain values.
        where: the file and table the values stand in, for the error message.
        fixed: fields already of their final type; they win over `values`.

    Raises:
        ConfigError: unknown key (with the nearest one), value of a wrong type, or one the dataclass refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {values!r} should be a table")
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    check_keys(values, sorted(fields), where)
    hints = typing.get_type_hints(cls)
    built = {name: typed(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        made = cls(**(built | fixed))
        check_numbers(made)
        return made
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def check_keys(values: Mapping[str, Any], allowed: list[str], where: str) -> None:
    """Raise ConfigError, with the nearest allowed key, for one that is not allowed."""
    for key in values:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.5)
            suggestion = f' Did you mean "{near[0]}"?' if near else f" Allowed: {', '.join(allowed)}"
            raise ConfigError(f'{where}: unknown key "{key}".{suggestion}')


def _plain(value: Any) -> Any:
    if value is None:
        return NONE_TEXT
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def typed(hint: Any, value: Any, where: str) -> Any:
    """Return the plain `value` as the type `hint` says; raise ConfigError, naming `where`, if it is none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _optional(hint, arguments, value, where)
    if origin is Literal:
        if value not in arguments or type(value) not in {type(choice) for choice in arguments}:
            near = difflib.get_close_matches(
                str(value), [str(choice) for choice in arguments], n=1, cutoff=0.5
            )
            suggestion = f' Did you mean "{near[0]}"?' if near else ""
            allowed = ", ".join(str(choice) for choice in arguments)
            raise ConfigError(f"{where} = {value!r} is none of {allowed}.{suggestion}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} = {value!r} should be a list")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(typed(arguments[0], item, where) for item in value)
        if len(value) != len(arguments):
            raise ConfigError(f"{where} = {value!r} should have {len(arguments)} items")
        return tuple(typed(item_hint, item, where) for item_hint, item in zip(arguments, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r} should be a table")
        return {key: typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError as error:  # TOML's whole numbers have no bound
            raise ConfigError(f"{where}: a number of {len(str(value))} digits is too large") from error
    if type(value) is not hint:
        raise ConfigError(f"{where} = {value!r} should be of type {getattr(hint, '__name__', hint)}")
    return value


def _optional(hint: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if type(None) in arguments and (value is None or value == NONE_TEXT):
        return None
    for member in arguments:
        try:
            return typed(member, value, where)
        except ConfigError:
            continue  # another member of the union may fit
    raise ConfigError(f"{where} = {value!r} should be of type {hint}")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value read from JSON is a number, and one that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's whole numbers have no bound
        return False
