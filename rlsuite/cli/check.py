"""Check a task or an environment of your own against the contract, one line per finding."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

from tyro import conf

from rlsuite import registry
from rlsuite.command.arguments import import_modules, option_values, parse
from rlsuite.command.helptext import HelpPage
from rlsuite.errors import EnvironmentFailure

PROG = "rlsuite check"

PAGE = HelpPage(
    examples=(
        f"{PROG} env HalfCheetah",
        f"{PROG} env gym:Pendulum-v1 --env-option g=9.81",
        f"{PROG} env MySlide --import my_slide",
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckArgs:
    """Plays an environment and calls a task's functions; prints a line for each that breaks the contract.

    Shapes, dtypes, flags, seeds, resets, saved state, determinism, last observations. Nothing found: exit
    code 0; else 5.
    """

    what: conf.Positional[Literal["env"]]
    """What is checked."""
    name: conf.Positional[str]
    """Name of the environment, as --env of `rlsuite train` takes it."""
    env_option: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(metavar="KEY=VALUE")] = ()
    """Constructor argument of the environment; may be given several times."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, which registers the task; may be given several times."""


def run(argv: Sequence[str]) -> int:
    """Check what the words after `rlsuite check` say; return 0, or 5 where something was found."""
    args = parse(CheckArgs, argv, prog=PROG, description=str(CheckArgs.__doc__), page=PAGE)
    import_modules(args.imports)
    registry.check_env_name(args.name)

    from rlsuite.envs.check import check_env
    from rlsuite.envs.options import EnvOptions

    options = EnvOptions(options=option_values(args.env_option, "--env-option"))
    findings = check_env(args.name, options)
    for finding in findings:
        print(finding)
    if findings:
        return EnvironmentFailure.exit_code
    print(f"{args.name} keeps the contract")
    return 0
