"""List agents, plug-ins, envs, data sets or presets, one a line."""

from collections.abc import Callable, Sequence

from rlsuite import registry
from rlsuite.command.arguments import first_pass, import_modules, wants_help
from rlsuite.errors import ConfigError, unknown_name
from rlsuite.presets import preset_names

PROG = "rlsuite list"

Rows = list[tuple[str, ...]]


def agents() -> Rows:
    """Return name, what it learns from, its actions and summary of every agent."""
    return [(name, *registry.agent_traits(name), summary) for name, summary in registry.agent_names().items()]


def plugins() -> Rows:
    """Return name and summary of every plug-in."""
    return [*registry.plugin_names().items()]


def envs() -> Rows:
    """Return name and summary of every environment."""
    return [*registry.env_names()]


def datasets() -> Rows:
    """Return name and summary of every data set that can be fetched or made."""
    return [*registry.dataset_names()]


def presets() -> Rows:
    """Return agent, preset and description of every preset."""
    return [
        (agent, name, description)
        for agent in registry.agent_names()
        for name, description in preset_names(agent).items()
    ]


KINDS: dict[str, Callable[[], Rows]] = {
    "agents": agents,
    "plugins": plugins,
    "envs": envs,
    "datasets": datasets,
    "presets": presets,
}


def run(argv: Sequence[str]) -> int:
    """Print the list that the words after `rlsuite list` name; return 0."""
    if wants_help(argv):
        print(f"usage: {PROG} {{{','.join(KINDS)}}} [--import MODULE]\n")
        print("Prints one line each, names first: made for grep and awk.")
        return 0
    modules = first_pass(argv).imports
    args = [arg for arg in argv if arg != "--import" and arg not in modules]
    if len(args) != 1:
        raise ConfigError(f"{PROG} takes one of {', '.join(KINDS)}, and {len(args)} words came")
    if args[0] not in KINDS:
        raise unknown_name("a list", args[0], KINDS, f"{PROG} --help")
    import_modules(modules)
    rows = KINDS[args[0]]()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]])
        for row in rows
    ]
    print("\n".join(lines), flush=True)
    return 0
