"""The console script `rlsuite COMMAND`: finds the command's file, runs it, turns errors into exit codes."""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rlsuite.errors import ConfigError, RLSuiteError, unknown_name
from rlsuite.registry import modules_in, summary_of
from rlsuite.version import __version__

EXIT_SIGINT = 130  # 128 + SIGINT, the shell's convention

DEFAULT_ENVIRONMENT = {  # read when torch and torchrl are imported; what the user has set stays
    "RL_LOGGING_LEVEL": "WARNING",  # torchrl reports every storage it allocates
    # Torch's threads otherwise spin while they wait for each other: beside three other busy processes, two
    # threads on two cores then made less than one update a second, and 23 with this.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def commands() -> dict[str, str]:
    """Return every command, a file of this folder each, with its one-line summary."""
    files = modules_in(Path(__file__).parent)
    return {name: summary_of(path) for name, path in files.items() if name != Path(__file__).stem}


def usage() -> str:
    """Return the text of `rlsuite --help`."""
    known = commands()
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in known.items()]
    return "\n".join(
        [
            "usage: rlsuite [-h] [--version] COMMAND ...",
            "",
            "Deep-RL agents for control and offline RL, native to TorchRL, on vectorised MuJoCo.",
            "",
            "commands:",
            *lines,
            "",
            "rlsuite COMMAND --help explains one command. To begin: rlsuite train dsac_t --env HalfCheetah",
        ]
    )


def run(argv: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code.

    Raises:
        RLSuiteError: whatever should end the program with one line and the error's own exit code.
    """
    command, *rest = argv or [""]
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command == "--version":
        print(f"rlsuite {__version__}")
        return 0
    known = commands()
    if command == "":
        raise ConfigError(f"no command given: choose one of {', '.join(known)}; rlsuite --help says more")
    if command not in known:
        raise unknown_name("a command", command, [*known, "--help", "--version"], "rlsuite --help")
    module = importlib.import_module(f"rlsuite.cli.{command}")
    code: int = module.run(rest)
    return code


def is_echo() -> bool:
    """Whether torchrun started this process beside a first one, which says what is wrong."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"


def main() -> None:
    """Run the command line of this process; errors of ours become one line on stderr and an exit code."""
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(format="rlsuite: %(message)s", level=logging.WARNING)
    try:
        code = run(sys.argv[1:])
    except RLSuiteError as error:
        if not (isinstance(error, ConfigError) and is_echo()):
            print("rlsuite:", " ".join(str(error).split()), file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:  # `rlsuite list envs | head -1`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = EXIT_SIGINT
    sys.exit(code)
