"""One command's line, from the words to a dataclass: tyro parses, and every mistake becomes one sentence."""

import argparse
import contextlib
import dataclasses
import difflib
import importlib
import inspect
import io
import itertools
import os
import re
import sys
import tomllib
import typing
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from rlsuite import extensions
from rlsuite.bounds import check_numbers
from rlsuite.command.helptext import PLAIN, HelpPage, help_text
from rlsuite.errors import ConfigError, unknown_name

RUN_MARK = "config.toml"  # every run folder has one

T = TypeVar("T")

NAMED_CHECKPOINTS = ("best", "last")
MOST_DIGITS = 40  # of a whole number written as a power of ten

_STEP = re.compile("[0-9]{1,12}")
_POWER = re.compile(r"[+-]?[0-9][0-9_]*(?:\.[0-9]*)?[eE]\+?[0-9]{1,4}")
_RATE = re.compile(r"--(?:agent\.)?(?:lr|learning-rate)")
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_FRAME = re.compile("[╭╮╰╯│]")
_RULE = re.compile("─{3}|-{20}")  # the latter where the terminal has no box-drawing characters
_EXPECTED = "Expected one of"
_NOT_A_FLAG = re.compile(r"^Error parsing (?!--)\S+: ")
_QUOTED = re.compile(r"'([^']*)'")


def parse(
    cls: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    default: T | None = None,
    description: str = "",
    page: HelpPage = PLAIN,
) -> T:
    """Return a dataclass filled from the command line.

    Args:
        cls: a dataclass; its fields are the flags.
        argv: the arguments after the command.
        prog: the command as typed, for the usage line and hints.
        default: values of the flags that are not given (a preset's).
        description: the paragraph on top of the help text.
        page: what else the help text has: topics, examples.

    Raises:
        ConfigError: an unknown flag (with the nearest one), a missing or a wrong value.
        SystemExit: 0, after the help text was printed.
    """
    if wants_help(argv):
        fields, everything = cls if default is None else default, "--help-all" in argv
        summary = inspect.cleandoc(description)
        text = help_text(fields, prog=prog, summary=summary, page=page, everything=everything)
        sys.stdout.write(f"{text}\n")
        raise SystemExit(0)
    import tyro

    start: Any = {} if default is None else {"default": default}
    argv = _prepared(cls, argv)
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            parsed, unknown = tyro.cli(
                cls, args=list(argv), prog=prog, description=description, return_unknown_args=True, **start
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_sentence(stderr.getvalue())) from None
    sys.stderr.write(stderr.getvalue())
    if unknown:
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        name = word.partition("=")[0].replace("_", "-")
        rates = [flag for flag in flags(cls) if ".lr-" in flag]
        if _RATE.fullmatch(name) and rates:
            raise ConfigError(
                f'"{name}" is not an option of `{prog}`: its learning rates are {", ".join(rates)}'
            )
        raise unknown_name(f"an option of `{prog}`", name, flags(cls), f"{prog} --help")
    check_numbers(parsed)
    return typing.cast(T, parsed)


def _prepared(cls: type, argv: Sequence[str]) -> list[str]:
    """Return the arguments with whole numbers like 1e5 written out.

    Raises:
        ConfigError: an empty value, or none, where a name, a number or a path belongs.
    """
    hints = dict(_fields(cls))
    prepared: list[str] = []
    flag = ""
    for arg, following in itertools.pairwise([*argv, "--"]):
        name, equals, value = arg.partition("=")
        if arg.startswith("--"):
            flag = name.replace("_", "-")
            hint, default = hints.get(flag, (None, None))
            # tyro takes a bare flag of a tuple as the empty one: right for names (no loggers), not for sizes.
            several = typing.get_origin(hint) is tuple and {int, float} & {*typing.get_args(hint)}
            if not equals and following.startswith("--") and several and default:
                raise ConfigError(f"{flag}: at least one value must follow")
            prepared.append(f"{name}={_checked(hints, flag, value)}" if equals else arg)
        else:
            prepared.append(_checked(hints, flag, arg))
    return prepared


def _checked(hints: Mapping[str, tuple[Any, Any]], flag: str, value: str) -> str:
    """Return the value of a flag ("" for a positional one), a whole number written out."""
    hint, default = hints.get(flag, (None, None))
    if not value.strip() and default != "":
        raise ConfigError(f"{flag or 'the line'}: an empty value came; leave it out, or give one")
    if _POWER.fullmatch(value) and _takes_whole(hint):
        number = Decimal(value)
        if number.adjusted() > MOST_DIGITS:
            raise ConfigError(f"{flag} {value}: a number of more than {MOST_DIGITS} digits is too large")
        if number == number.to_integral_value():
            return str(int(number))
    return value


def _takes_whole(hint: Any) -> bool:
    """Return whether a field holds whole numbers and no others."""
    members = [item for item in typing.get_args(hint) if item not in (type(None), ...)] or [hint]
    return all(member is int for member in members)


def given(argv: Sequence[str], flag: str) -> bool:
    """Return whether a line has this flag, however it is spelled."""
    return any(arg.partition("=")[0].replace("_", "-") == flag for arg in argv)


def flags(cls: type, prefix: str = "") -> list[str]:
    """Return every flag that `parse` knows for a dataclass, with the negative form of switches."""
    return [name for name, _ in _fields(cls, prefix)]


def _fields(cls: type, prefix: str = "") -> list[tuple[str, tuple[Any, Any]]]:
    """Return every flag of a dataclass with its field's type and default."""
    from tyro import conf

    names: list[tuple[str, tuple[Any, Any]]] = []
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint: Any = hints[field.name]
        marks: list[Any] = []
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)
        if conf.Positional in marks or conf.Suppress in marks:
            continue
        if dataclasses.is_dataclass(hint):
            inner = "" if conf.OmitArgPrefixes in marks else f"{prefix}{field.name}."
            names += _fields(typing.cast(type, hint), inner.replace("_", "-"))
            continue
        renamed = [mark.name for mark in marks if getattr(mark, "name", None)]
        name = (renamed or [field.name])[0].replace("_", "-")
        spelled = [f"--{prefix}{name}"]
        spelled += [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        if hint is bool:
            spelled.append(f"--{prefix}no-{name}")
        names += [(spelling, (hint, field.default)) for spelling in spelled]
    return names


class FirstPass(typing.NamedTuple):
    """Values of a command line that decide which flags it has; None where a flag is absent.

    Attributes:
        imports: modules that may register agents, so that names of theirs are known.
        env, dataset, preset: which decide the defaults of all other flags.
        plugins: whose flags are added.
        steps: as given.
    """

    imports: tuple[str, ...]
    env: str | None
    dataset: str | None
    preset: str
    plugins: str | None
    steps: str | None


def first_pass(argv: Sequence[str]) -> FirstPass:
    """Read the few flags that decide which others there are; of one that is repeated the last counts."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--import", dest="imports", action="append", default=[], nargs="?")
    parser.add_argument("--preset", default="default", const="default", nargs="?")
    for flag in ("--env", "--dataset", "--plugins", "--steps"):
        parser.add_argument(flag, nargs="?")
    early, _ = parser.parse_known_args(list(argv))
    return FirstPass(**{**vars(early), "imports": tuple(name for name in early.imports if name is not None)})


def without(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the words less some flags and the one value of each."""
    kept, skip = [], False
    for word in argv:
        name, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif name.replace("_", "-") in flags:
            skip = not equals
        else:
            kept.append(word)
    return kept


def option_values(args: Sequence[str], flag: str) -> dict[str, Any]:
    """Return the values of repeated `KEY=VALUE` words; VALUE is as in TOML, or else a plain string.

    Raises:
        ConfigError: a word without `=`.
    """
    values: dict[str, Any] = {}
    for arg in args:
        key, equals, text = arg.partition("=")
        if not key or not equals:
            raise ConfigError(f'{flag} "{arg}": write KEY=VALUE, e.g. {flag} "healthy_z_range=[0.5, 2.0]"')
        try:
            parsed = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            parsed = {}
        values[key] = parsed["value"] if len(parsed) == 1 else text
    return values


def wants_help(argv: Sequence[str]) -> bool:
    """Say whether the line asks for help."""
    return any(arg in argv for arg in ("-h", "--help", "--help-all"))


def import_modules(names: Sequence[str]) -> None:
    """Import the user's modules (`--import`), which may register agents and Gymnasium ids.

    Modules in the working folder are found too.

    Raises:
        ConfigError: there is no such module. What a module itself raises keeps its traceback.
    """
    if names and "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that a stray file here shadows no library
    extensions.imported[:] = names
    for name in names:
        if not _MODULE.fullmatch(name):
            raise ConfigError(f'--import "{name:.60}": name a module as Python\'s import does, e.g. my_envs')
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
                raise
            raise ConfigError(
                f'--import {name}: there is no module "{error.name}"; name it as Python\'s import does, '
                "without .py, from the folder it lies in"
            ) from error


def _sentence(box: str) -> str:
    """Return what tyro's error box says, without frame and footer, with the nearest choice."""
    lines: list[str] = []
    titled = False
    for line in box.splitlines():
        text = line.strip()
        if text.startswith("╭"):
            titled = True
            continue
        if _RULE.search(text) and not titled:
            titled = True
            lines.clear()
            continue
        if _RULE.search(text) or text.startswith("╰"):
            break
        lines.append(_FRAME.sub("", text).strip())
    said = " ".join(lines)
    said = _NOT_A_FLAG.sub("", said)  # the dataclass's own message names the field
    wrong, _, allowed = said.partition(_EXPECTED)
    quoted, choices = _QUOTED.findall(wrong), _QUOTED.findall(allowed)
    near = difflib.get_close_matches(quoted[0], choices, n=1, cutoff=0.5) if quoted and choices else []
    return f'{said} Did you mean "{near[0]}"?' if near else said


def check_checkpoint(which: str) -> None:
    """Raise ConfigError unless `which` can name a checkpoint."""
    if which not in NAMED_CHECKPOINTS and not _STEP.fullmatch(which):
        raise ConfigError(f'checkpoint = "{which:.40}" is neither best, last nor an env step')


def check_video(path: Path) -> None:
    """Raise ConfigError for a file that no video can be written to; its folder may be missing."""
    if path.suffix.lower() != ".mp4":
        raise ConfigError(f'--video "{path}": name a file that ends in .mp4')
    if path.is_dir():
        raise ConfigError(f'--video "{path}" is a folder: name a file in it')
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f'--video "{path}": {existing} is no folder that can be written to')


def check_run(path: Path) -> None:
    """Raise ConfigError, with the nearest run beside it, unless `path` is a run folder; imports no torch."""
    if (path / RUN_MARK).is_file():
        return
    beside = [str(mark.parent) for mark in path.parent.glob(f"*/{RUN_MARK}")] if path.parent.is_dir() else []
    raise unknown_name(f"a run folder (it has no {RUN_MARK})", str(path), beside, f"ls {path.parent}")
