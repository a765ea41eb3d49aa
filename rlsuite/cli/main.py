"""The console script `rlsuite COMMAND`: finds the command's file, runs it, turns errors into exit codes."""

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from rlsuite.command.console import lenient_streams
from rlsuite.errors import ConfigError, DataError, RLSuiteError, unknown_name
from rlsuite.registry import modules_in, summary_of
from rlsuite.version import __version__

logger = logging.getLogger(__name__)

RUNNING = ("train", "resume", "branch", "sweep", "bench", "report", "export")  # whose results are files
GL_VARIABLE = "MUJOCO_GL"
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # torch's words for it

EXIT_SIGINT = 130  # 128 + SIGINT, the shell's convention

DEFAULT_ENVIRONMENT = {  # read when torch and torchrl are imported; what the user has set stays
    "RL_LOGGING_LEVEL": "WARNING",  # torchrl reports every storage it allocates
    # Torch's threads otherwise spin while they wait for each other: beside three other busy processes, two
    # threads on two cores then made less than one update a second, and 23 with this.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Pictures of Gymnasium's classic environments are made without a window: SDL looks for none.
    "SDL_VIDEODRIVER": "dummy",
    "SDL_AUDIODRIVER": "dummy",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
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
    """Return whether torchrun started this process beside a first one, which says what is wrong."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"


def main() -> None:
    """Run the command line of this process; errors of ours become one line on stderr and an exit code."""
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(format="rlsuite: %(message)s", level=logging.WARNING)
    argv = sys.argv[1:]
    with lenient_streams() as console, warnings.catch_warnings():
        if not sys.warnoptions:
            be_quiet()
        code = guarded(argv)
        console.flush()
    if console.lost and not code and argv[:1] and argv[0] not in RUNNING:
        code = DataError.exit_code  # what it prints is all that such a command does
    sys.exit(code)


def be_quiet() -> None:
    """Show no warnings of other libraries, which the user can hardly change; `python -W default` does."""
    warnings.simplefilter("ignore")
    with contextlib.suppress(ImportError):
        import farama_notifications

        farama_notifications.notifications.clear()  # printed where Gymnasium's packages are imported


def guarded(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; what the user can mend is one line on stderr."""
    try:
        return run(argv)
    except RLSuiteError as error:
        if not (isinstance(error, ConfigError) and is_echo()):
            say(str(error))
        return error.exit_code
    except SystemExit as stop:  # help was printed, or a library left
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return EXIT_SIGINT
    except OSError as error:  # a disk that is full or may not be written to, wherever it shows
        logger.debug("the cause", exc_info=error)
        say(f"{error.filename or 'a file'}: {error.strerror or error}; nothing more was done")
        return DataError.exit_code
    except (MemoryError, RuntimeError) as error:
        if GL_VARIABLE in str(error):  # torchrl imports MuJoCo, which reads it then
            say(f"{error}; unset it, or set it to egl or osmesa")
            return ConfigError.exit_code
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in NO_MEMORY):
            raise
        logger.debug("the cause", exc_info=error)
        say(f"the memory does not suffice: {str(error)[:200]}; take fewer worlds, rows or units")
        return ConfigError.exit_code


def say(text: str) -> None:
    """Print one line on stderr, where there is one."""
    with contextlib.suppress(OSError, ValueError):
        print("rlsuite:", " ".join(text.split()), file=sys.stderr)
