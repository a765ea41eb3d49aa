"""The help of `rlsuite train`: flags by topic, what must come first, ranges from the fields themselves."""

import ast
import dataclasses
import inspect
import math
import shutil
import textwrap
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from rlsuite.bounds import Bounds

MAX_WIDTH = 110
TOPICS: dict[str, tuple[str, ...]] = {
    "run": ("env", "dataset", "steps", "seed", "seeds", "out", "preset", "plugins", "then_online", "stages"),
    "environment": ("env_option", "num_envs", "import"),
    "learning": (
        *("batch_size", "updates_per_step", "warmup_steps", "warmup_policy", "replay_size", "n_step"),
        *("reward", "action_limit"),
    ),
    "evaluation and saving": ("eval_every", "eval_episodes", "checkpoint_every", "log_every", "loggers"),
    "machine": ("device", "threads", "compile", "mixed_precision", "processes", "launcher"),
}
"""Flags that most runs want, by topic and in their order. All others are shown by --help-all."""
REQUIRED = ("env", "dataset")


class Flag(NamedTuple):
    """One flag: its name without dashes, what it takes, its default, the text of its field."""

    name: str
    takes: str
    default: str
    text: str

    @property
    def topic(self) -> str:
        """The topic it belongs to; "" where only --help-all shows it."""
        if "." in self.name:
            return self.name.partition(".")[0]
        field = self.name.replace("-", "_")
        return next((topic for topic, fields in TOPICS.items() if field in fields), "")


def help_text(defaults: Any, *, prog: str, summary: str, examples: Sequence[str], everything: bool) -> str:
    """Return the help of a command.

    Args:
        defaults: an instance of its dataclass.
        prog: the command as typed.
        summary: what it does.
        examples: whole lines.
        everything: show the flags, too, that few runs want.
    """
    flags = list(_flags(defaults))
    required = [flag for flag in flags if flag.name in REQUIRED]
    usage = " ".join(f"--{flag.name} {flag.takes}" for flag in required)
    parts = [f"usage: {prog} {usage} [--FLAG VALUE ...]", summary]
    topics = [*TOPICS, *dict.fromkeys(flag.topic for flag in flags if flag.topic not in TOPICS)]
    for topic in topics:
        of_topic = [flag for flag in flags if flag.topic == topic]
        if topic in TOPICS:
            order = TOPICS[topic]
            of_topic.sort(key=lambda flag: order.index(flag.name.replace("-", "_")))
        if of_topic and (topic or everything):
            parts.append("\n".join([f"{topic or 'rarely needed'}:", *map(_shown, of_topic)]))
    hidden = sum(not flag.topic for flag in flags)
    if hidden and not everything:
        parts.append(f"--help-all shows {hidden} flags more, which few runs need.")
    parts.append("\n".join(["examples:", *(f"  {example}" for example in examples)]))
    return "\n\n".join(parts)


def _shown(flag: Flag) -> str:
    width = min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)
    head = f"  --{flag.name} {flag.takes}".rstrip()
    note = f" (default {flag.default})" if flag.default else ""
    text = textwrap.wrap(flag.text + note, max(30, width - 8), break_on_hyphens=False)
    return "\n".join([head, *(f"        {line}" for line in text)])


def _flags(defaults: Any, prefix: str = "") -> Iterator[Flag]:
    """Yield the flags of a dataclass instance, those of dataclasses inside it, too."""
    from tyro import conf

    hints = typing.get_type_hints(type(defaults), include_extras=True)
    cls: Any = type(defaults)
    texts = docstrings(cls)
    for field in dataclasses.fields(defaults):
        hint: Any = hints[field.name]
        marks: list[Any] = []
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)
        if conf.Suppress in marks:
            continue
        value = getattr(defaults, field.name)
        if dataclasses.is_dataclass(value):
            inner = prefix if conf.OmitArgPrefixes in marks else f"{prefix}{field.name}."
            yield from _flags(value, inner.replace("_", "-"))
            continue
        renamed = [mark.name for mark in marks if getattr(mark, "name", None)]
        metavar = [mark.metavar for mark in marks if getattr(mark, "metavar", None)]
        name = (renamed or [field.name])[0].replace("_", "-")
        takes = (metavar or [_takes(hint, field.name)])[0]
        if hint is bool:
            takes = f"/ --{prefix}no-{name}"
        bounds = next((mark for mark in marks if isinstance(mark, Bounds)), None)
        text = texts.get(field.name, "") + (f" {allowed(bounds)}." if bounds is not None else "")
        yield Flag(f"{prefix}{name}", takes, _default(value), text)


def allowed(bounds: Bounds) -> str:
    """Return the range of a field in words."""
    low = f"{'above' if bounds.open_low else 'at least'} {bounds.low:g}"
    high = f"{'below' if bounds.open_high else 'at most'} {bounds.high:.12g}"
    ends = [text for text, end in ((low, bounds.low), (high, bounds.high)) if math.isfinite(end)]
    return ", ".join(ends).capitalize()


def _takes(hint: Any, name: str) -> str:
    """Return what a flag takes, as a word in capitals, or its choices."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
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
    if value is None or value in ("", ()) or type(value).__module__.startswith("tyro"):
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
