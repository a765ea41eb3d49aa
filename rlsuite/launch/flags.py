"""The flags by which commands choose a launcher."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro import conf

from rlsuite.bounds import Bounds, check_bounds
from rlsuite.command.arguments import option_values
from rlsuite.launch.local import LocalLauncher, LocalOptions
from rlsuite.launch.queue import Launcher
from rlsuite.launch.ray import RayLauncher, RayOptions
from rlsuite.launch.slurm import SlurmLauncher, SlurmOptions
from rlsuite.strict import from_mapping

OPTION = "--launcher-option"
OPTIONS: Mapping[str, type] = {"local": LocalOptions, "ray": RayOptions, "slurm": SlurmOptions}


@dataclass(frozen=True, kw_only=True)
class LaunchFlags:
    """Flags that choose a launcher."""

    jobs: Annotated[int | None, Bounds(1)] = None
    """Runs at once; by default 1 on this machine, and as many as a cluster takes."""
    launcher: Literal["local", "ray", "slurm"] = "local"
    """Who carries the runs out: processes of this machine, a Ray cluster, Slurm."""
    launcher_option: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(metavar="KEY=VALUE")] = ()
    """Option of the launcher, e.g. gpus=0,1 or partition=gpu (docs/clusters.md); several are allowed."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)
        options_of(self.launcher, self.launcher_option)

    def make_launcher(self) -> "closing[Launcher]":
        """Return the launcher, as a context manager.

        Raises:
            ConfigError: what it needs is not installed, not there, or too small.
        """
        return make_launcher(self.jobs, self.launcher, self.launcher_option)


def options_of(launcher: str, args: Sequence[str]) -> Any:
    """Return the options of a launcher from their KEY=VALUE words.

    Raises:
        ConfigError: an unknown key, or a value that means nothing.
    """
    values = option_values(args, OPTION)
    cls = OPTIONS[launcher]
    texts = {name for name, hint in cls.__annotations__.items() if hint is str}
    # TOML reads gpus=0 and time=90 as numbers.
    plain = {arg.partition("=")[0]: arg.partition("=")[2] for arg in args}
    typed = {key: plain[key] if key in texts else value for key, value in values.items()}
    return from_mapping(cls, typed, f"{OPTION} of --launcher {launcher}")


def make_launcher(jobs: int | None, launcher: str, args: Sequence[str] = ()) -> "closing[Launcher]":
    """Return a launcher by its name, to be closed."""
    options = options_of(launcher, args)
    made: Launcher
    if launcher == "ray":
        made = RayLauncher(jobs, options)
    elif launcher == "slurm":
        made = SlurmLauncher(jobs, options)
    else:
        made = LocalLauncher(jobs or 1, options)
    return closing(made)
