"""Parts of pages that are made from the code when the documentation is built, so that they cannot go stale.

A page says `<!-- generated: NAME -->`; `PARTS` has what takes its place.
"""

import dataclasses
import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import api_pages
from tyro import MISSING

from rlsuite import presets, registry
from rlsuite.bench.choose import ChooseArgs
from rlsuite.bench.sweep import SweepArgs
from rlsuite.cli.bench import BENCHES, benchmark_of
from rlsuite.cli.data import ACTIONS
from rlsuite.cli.list import KINDS
from rlsuite.cli.main import commands
from rlsuite.command.helptext import TRAIN, Flag, docstrings, flags_of
from rlsuite.command.train import OfflineArgs, TrainArgs
from rlsuite.runs.config import OfflineConfig, TrainConfig

MARK = re.compile(r"^<!-- generated: ([\w-]+) -->$", flags=re.MULTILINE)
BY_LIST = "list"  # the command without a dataclass: a word and --import


def lines_of_commands() -> Iterator[tuple[str, Any]]:
    """Yield every command as typed, with the dataclass (or an instance with the defaults) of its flags."""
    for command in commands():
        if command == "train":
            yield "train AGENT", TrainArgs(train=TrainConfig(env=MISSING))
            yield "train AGENT --dataset", OfflineArgs(train=OfflineConfig(dataset=MISSING))
        elif command == "data":
            yield from ((f"data {action}", cls) for action, cls in ACTIONS.items())
        elif command == "bench":
            for name in BENCHES:
                yield f"bench {name}", benchmark_of(name)[1]
        elif command == "sweep":
            yield "sweep", SweepArgs
        elif command == "choose":
            yield "choose", ChooseArgs
        elif command != BY_LIST:
            module = importlib.import_module(f"rlsuite.cli.{command}")
            yield command, getattr(module, f"{command.capitalize()}Args")


def command_pages() -> str:
    """Return a section a command: its words, its flags, with defaults and ranges."""
    parts = []
    for name, fields in lines_of_commands():
        cls = fields if isinstance(fields, type) else type(fields)
        flags = list(flags_of(fields))
        first = [flag.usage for flag in flags if flag.positional or flag.needed]
        usage = " ".join(["rlsuite", name, *first, "[--FLAG VALUE ...]"])
        parts += [f"## rlsuite {name}", paragraphs(cls.__doc__), f"```text\n{usage}\n```"]
        if isinstance(fields, TrainArgs):
            parts += by_topic(flags)
        else:
            parts.append(table(flags))
    kinds = "\n".join(
        f"- `rlsuite list {kind}`: {plain(function.__doc__)}" for kind, function in KINDS.items()
    )
    parts += [f"## rlsuite {BY_LIST}", f"{kinds}\n\n`--import MODULE` first imports a module that adds some."]
    return "\n\n".join(parts)


def by_topic(flags: list[Flag]) -> list[str]:
    """Return the flags of `rlsuite train` in a table a topic, as its help has them."""
    parts = []
    for topic in [*TRAIN.topics, ""]:
        chosen = [flag for flag in flags if TRAIN.topic_of(flag) == topic]
        parts += [f"**{(topic or 'rarely needed').capitalize()}**", table(chosen)]
    return parts


def agent_tables() -> str:
    """Return a section an agent: its fields and its presets."""
    parts = []
    for name, summary in registry.agent_names().items():
        config = registry.agent_class(name).Config
        source, actions = registry.agent_traits(name)
        learns = f"Learns {'from recorded data' if source == 'offline' else 'online'}; {actions} actions."
        parts += [f"## {name}", f"{cell(summary)} {learns}", table(flags_of(config, "agent."))]
        names = presets.preset_names(name)
        rows = [f"| `{preset}` | {cell(text)} |" for preset, text in names.items()]
        parts.append("\n".join(["| `--preset` | what it is |", "| --- | --- |", *rows]))
    return "\n\n".join(parts)


def plugin_tables() -> str:
    """Return a section a plug-in: its fields."""
    parts = []
    for name, summary in registry.plugin_names().items():
        config = registry.plugin_class(name).Config
        parts += [f"## {name}", cell(summary), table(flags_of(config, f"{name}."))]
    return "\n\n".join(parts)


def table(flags: Any) -> str:
    """Return flags as a table of Markdown."""
    rows = ["| flag | default | range | what it is |", "| --- | --- | --- | --- |"]
    for flag in flags:
        default = f"`{flag.default}`" if flag.default else "required" if flag.needed else ""
        rows.append(f"| {code(flag.usage)} | {default} | {cell(flag.limits)} | {cell(flag.text)} |")
    return "\n".join(rows) if len(rows) > 2 else "It has no flags."


def paragraphs(text: str | None) -> str:
    """Return a docstring as Markdown, its first paragraph alone."""
    return plain((text or "").partition("\n\n")[0])


def plain(text: str | None) -> str:
    """Return a docstring on one line."""
    return " ".join((text or "").split())


def code(text: str) -> str:
    """Return a word of a command line as code inside a table."""
    return "`" + text.replace("|", "\\|") + "`"


def cell(text: str) -> str:
    """Return text as it may stand in a cell: marks of Markdown outside of code mean themselves."""
    pieces = re.split(r"(`[^`]*`)", plain(text))
    return "".join(
        piece.replace("|", "\\|") if piece.startswith("`") else re.sub(r"([|$<*_\\])", r"\\\1", piece)
        for piece in pieces
    )


PARTS: dict[str, Callable[[], str]] = {
    "api": api_pages.listed,
    "commands": command_pages,
    "agents": agent_tables,
    "plugins": plugin_tables,
}


def undocumented() -> list[str]:
    """Return the fields of agents and plug-ins, and the flags of commands, whose meaning is nowhere said."""
    configs = [registry.agent_class(name).Config for name in registry.agent_names()]
    configs += [registry.plugin_class(name).Config for name in registry.plugin_names()]
    missing = [
        f"{config.__module__}.{field.name}"
        for config in configs
        for field in dataclasses.fields(config)
        if not docstrings(config).get(field.name)
    ]
    lines = [(name, flag) for name, fields in lines_of_commands() for flag in flags_of(fields)]
    return missing + [f"rlsuite {name} {flag.usage}" for name, flag in lines if not flag.text]


def filled(text: str) -> str:
    """Return the text of a page with the parts it asks for."""
    return MARK.sub(lambda mark: PARTS[mark[1]](), text)


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx fill pages when it reads them, and read those again at every build."""

    def read(app: Any, docname: str, source: list[str]) -> None:
        if MARK.search(source[0]):
            app.env.note_reread()
            source[0] = filled(source[0])

    app.connect("source-read", read)
    return {"parallel_read_safe": True}
