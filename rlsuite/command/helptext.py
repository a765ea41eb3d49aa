"""The help of every command: flags by topic, what must come first, ranges from the fields themselves."""

import ast
import dataclasses
import inspect
import math
import shutil
import textwrap
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from rlsuite.bounds import Bounds, bounds_of

MAX_WIDTH = 110
TOPICS: dict[str, tuple[str, ...]] = {
    "run": (
        "env",
        "dataset",
        "expert",
        "prior_data",
        "steps",
        "seed",
        "seeds",
        "out",
        "preset",
        "plugins",
        "then_online",
        "stages",
    ),
    "environment": ("env_option", "num_envs", "import"),
    "learning": (
        *("batch_size", "updates_per_step", "warmup_steps", "warmup_policy", "replay_size", "n_step"),
        *("epochs", "offline_share", "reward", "action_limit"),
    ),
    "evaluation and saving": (
        "eval_every",
        "eval_episodes",
        "checkpoint_every",
        "log_every",
        "loggers",
        "callbacks",
    ),
    "machine": ("device", "threads", "compile", "mixed_precision", "matmul", "processes", "launcher"),
}
"""Flags of `rlsuite train` that most runs want, by topic and in their order."""


class HelpPage(NamedTuple):
    """What the help of a command says beside its fields.

    Attributes:
        topics: flags by topic, in their order, spelled as fields; all others are shown by --help-all. Without
            any topic all are shown.
        required: flags that lines need although their fields have a default.
        examples: whole lines.
    """

    topics: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    required: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    def topic_of(self, flag: "Flag") -> str:
        """Return the topic of a flag; "" where only --help-all shows it."""
        if "." in flag.name:
            return flag.name.partition(".")[0]
        return next((topic for topic, fields in self.topics.items() if flag.field in fields), "")


PLAIN = HelpPage()
TRAIN = HelpPage(topics=TOPICS, required=("env", "dataset"))


class Flag(NamedTuple):
    """One flag, or one argument without a name.

    Attributes:
        name: without dashes.
        takes: its values, or their kind in capitals.
        default: as it is typed; "" for none.
        text: that of its field.
        limits: the range of its number in words; "" for none.
        positional: whether it is given without its name.
        needed: whether the field has no default.
    """

    name: str
    takes: str
    default: str
    text: str
    limits: str = ""
    positional: bool = False
    needed: bool = False

    @property
    def field(self) -> str:
        """Its name as a field's."""
        return self.name.replace("-", "_")

    @property
    def usage(self) -> str:
        """How it is given."""
        return self.takes if self.positional else f"--{self.name} {self.takes}".rstrip()


def help_text(fields: Any, *, prog: str, summary: str, page: HelpPage, everything: bool) -> str:
    """Return the help of a command.

    Args:
        fields: its dataclass, or an instance that has the defaults.
        prog: the command as typed.
        summary: what it does; may be empty.
        page: topics and examples.
        everything: show the flags, too, that few lines want.
    """
    every = list(flags_of(fields))
    flags = [flag for flag in every if not flag.positional]
    first = [flag for flag in every if flag.positional]
    first += [flag for flag in flags if flag.needed or flag.field in page.required]
    parts = [" ".join(["usage:", prog, *(flag.usage for flag in first), "[--FLAG VALUE ...]"]), summary]
    if arguments := [flag for flag in every if flag.positional]:
        parts.append("\n".join(["arguments:", *map(_shown, arguments)]))
    topics = list(dict.fromkeys([*page.topics, *map(page.topic_of, flags)]))
    for topic in topics:
        of_topic = [flag for flag in flags if page.topic_of(flag) == topic]
        if order := page.topics.get(topic):
            of_topic.sort(key=lambda flag: order.index(flag.field))
        rest = "rarely needed" if page.topics else "flags"
        if of_topic and (topic or everything or not page.topics):
            parts.append("\n".join([f"{topic or rest}:", *map(_shown, of_topic)]))
    hidden = sum(not page.topic_of(flag) for flag in flags) if page.topics else 0
    if hidden and not everything:
        parts.append(f"--help-all shows {hidden} {'flag' if hidden == 1 else 'flags'} more, rarely needed.")
    if page.examples:
        parts.append("\n".join(["examples:", *(f"  {example}" for example in page.examples)]))
    return "\n\n".join(filter(None, parts))


def _shown(flag: Flag) -> str:
    width = min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)
    limits = f" {flag.limits}." if flag.limits else ""
    note = f" (default {flag.default})" if flag.default else ""
    text = textwrap.wrap(flag.text + limits + note, max(30, width - 8), break_on_hyphens=False)
    return "\n".join([f"  {flag.usage}", *(f"        {line}" for line in text)])


def flags_of(source: Any, prefix: str = "") -> Iterator[Flag]:
    """Yield the flags of a dataclass, or of an instance of one, those of dataclasses inside it, too."""
    from tyro import conf

    cls: Any = source if isinstance(source, type) else type(source)
    hints = typing.get_type_hints(cls, include_extras=True)
    texts, ranges = docstrings(cls), dict(bounds_of(cls))
    for field in dataclasses.fields(cls):
        hint: Any = hints[field.name]
        marks: list[Any] = []
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)
        if conf.Suppress in marks:
            continue
        value = _value(source, field)
        if dataclasses.is_dataclass(hint) or dataclasses.is_dataclass(value):
            inner = prefix if conf.OmitArgPrefixes in marks else f"{prefix}{field.name}."
            yield from flags_of(hint if value is dataclasses.MISSING else value, inner.replace("_", "-"))
            continue
        renamed = [mark.name for mark in marks if getattr(mark, "name", None)]
        metavar = [mark.metavar for mark in marks if getattr(mark, "metavar", None)]
        aliases = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
        positional = conf.Positional in marks
        name = (renamed or [field.name])[0].replace("_", "-")
        takes = (metavar or [_takes(hint, field.name, positional)])[0]
        if hint is bool:
            takes = f"/ --{prefix}no-{name}"
        bounds = ranges.get(field.name)
        limits = allowed(bounds) if bounds is not None else ""
        text = texts.get(field.name, "") + (f" (also {', '.join(aliases)})" if aliases else "")
        needed = value is dataclasses.MISSING and not positional
        yield Flag(f"{prefix}{name}", takes, _default(value), text, limits, positional, needed)


def _value(source: Any, field: "dataclasses.Field[Any]") -> Any:
    """Return the value of an instance's field, of a class the default, dataclasses.MISSING where none is."""
    if not isinstance(source, type):
        return getattr(source, field.name)
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def allowed(bounds: Bounds) -> str:
    """Return the range of a field in words."""
    low = f"{'above' if bounds.open_low else 'at least'} {bounds.low:g}"
    high = f"{'below' if bounds.open_high else 'at most'} {bounds.high:.12g}"
    ends = [text for text, end in ((low, bounds.low), (high, bounds.high)) if math.isfinite(end)]
    return ", ".join(ends).capitalize()


def _takes(hint: Any, name: str, positional: bool = False) -> str:
    """Return what a flag takes, as a word in capitals, or its choices."""
    if positional and typing.get_origin(hint) is not typing.Literal:
        several = typing.get_origin(hint) is tuple
        word = name.upper().replace("_", "-")
        return f"{word.removesuffix('S')}..." if several else word
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:  # a member of a union that has its own bounds
        return _takes(arguments[0], name)
    if origin is typing.Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if origin is tuple:
        return f"[{_takes(arguments[0], name)} ...]"
    if arguments:  # a value, or none
        members = [_takes(item, name) for item in arguments if item is not type(None)]
        return "|".join([*members, *(["none"] if type(None) in arguments else [])])
    placeholders = {int: "INT", float: "FLOAT", str: name.upper().replace("_", "-")}
    return placeholders.get(hint, getattr(hint, "__name__", str(hint)).upper())


def _default(value: Any) -> str:
    if value is None or value is dataclasses.MISSING or value in ("", ()):
        return ""
    if type(value).__module__.startswith("tyro"):  # its mark of a value that is missing
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:_}" if isinstance(value, int) else str(value)


@cache
def docstrings(cls: type) -> dict[str, str]:
    """Return the text below each field of a dataclass and its bases, from their sources, on one line."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # made by make_dataclass: its bases have the texts
            continue
        body = ast.parse(source).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, after in zip(body.body, body.body[1:], strict=False):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and documented:
                texts[line.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return texts
