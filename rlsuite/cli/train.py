"""Train an agent on an environment, in a new run folder."""

from collections.abc import Sequence
from typing import NoReturn

from tyro import MISSING

from rlsuite import registry
from rlsuite.command.arguments import first_pass, import_modules, parse, wants_help
from rlsuite.command.train import PROG, TrainLine, parse_line
from rlsuite.errors import ConfigError
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.mapping import RunConfig


def run(argv: Sequence[str]) -> int:
    """Train what the words after `rlsuite train` say; return 0, or 75 when interrupted and resumable."""
    import_modules(first_pass(argv).imports)
    if not argv or argv[0].startswith("-"):
        if wants_help(argv):
            _print_help()
        raise ConfigError(f"name the agent first: {PROG} AGENT --env ENV; rlsuite list agents shows them")
    agent = argv[0]
    line, kind = parse_line(agent, argv[1:])
    if line.processes != 1 or line.launcher != "local" or line.launcher_option:
        from rlsuite.launch.plan import run_in_processes

        return run_in_processes(agent, argv[1:], line)
    from rlsuite.training.start import start

    config = RunConfig(agent_name=agent, preset=line.preset, train=line.train, agent=line.agent)
    return start(kind, config, line.out)


def _print_help() -> NoReturn:
    """Print the flags that every agent shares, and the agents; imports none of them."""
    names = "\n".join(f"{name}: {summary}" for name, summary in registry.agent_names().items())
    words = f"{names}\n\n`{PROG} AGENT --help` adds the agent's own flags, as --agent.NAME."
    default = TrainLine(train=TrainConfig(env=MISSING))
    parse(TrainLine, ["--help"], prog=f"{PROG} AGENT", default=default, description=words)
    raise AssertionError("tyro prints help and leaves")
