"""Train an agent on an environment, in a new run folder."""

from collections.abc import Sequence
from typing import NoReturn

from tyro import MISSING

from rlsuite import registry
from rlsuite.command.arguments import first_pass, import_modules, wants_help
from rlsuite.command.helptext import help_text
from rlsuite.command.train import PROG, TrainArgs, parse_train
from rlsuite.errors import ConfigError
from rlsuite.runs.config import TrainConfig, check_learns
from rlsuite.runs.mapping import RunConfig


def run(argv: Sequence[str]) -> int:
    """Train what the words after `rlsuite train` say; return 0, or 75 when interrupted and resumable."""
    import_modules(first_pass(argv).imports)
    if not argv or argv[0].startswith("-"):
        if wants_help(argv):
            _print_help(everything="--help-all" in argv)
        raise ConfigError(f"name the agent first: {PROG} AGENT --env ENV; rlsuite list agents shows them")
    agent = argv[0]
    args, agent_class = parse_train(agent, argv[1:])
    check_learns(args.train)
    if args.processes != 1 or args.launcher != "local" or args.launcher_option:
        from rlsuite.launch.plan import run_in_processes

        return run_in_processes(agent, argv[1:], args)
    from rlsuite.training.start import start

    config = RunConfig(agent_name=agent, preset=args.preset, train=args.train, agent=args.agent)
    return start(agent_class, config, args.out)


def _print_help(*, everything: bool) -> NoReturn:
    """Print the agents as a list, and the flags that every agent shares; imports none of them."""
    agents = registry.agent_names()
    width = max(map(len, agents))
    lines = [
        f"  {name:<{width}}  {', '.join(filter(None, registry.agent_traits(name)))}: {summary}"
        for name, summary in agents.items()
    ]
    text = help_text(
        TrainArgs(train=TrainConfig(env=MISSING)),
        prog=f"{PROG} AGENT",
        summary="\n".join(["agents:", *lines, "", f"`{PROG} AGENT --help` adds the agent's own flags."]),
        examples=[f"{PROG} sac --env gym:Pendulum-v1 --steps 10_000", f"{PROG} dsac_t --env HalfCheetah"],
        everything=everything,
    )
    print(text)
    raise SystemExit(0)
