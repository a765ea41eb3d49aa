"""The second front door, `rlsuite.train(...)`: the command line's configuration from keyword arguments."""

import dataclasses
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsuite import distributed as ranks
from rlsuite.command.train import parse_train, typed_replace
from rlsuite.errors import ConfigError
from rlsuite.hub.bundle import check_resumable
from rlsuite.runs.config import check_learns
from rlsuite.runs.mapping import RunConfig
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import RunFolder
from rlsuite.strict import check_keys, typed
from rlsuite.training.callbacks import Callback, Callbacks, Hooks, load_callbacks
from rlsuite.training.loaded import LoadedPolicy, load
from rlsuite.training.loop import TrainResult
from rlsuite.training.recorder import evaluations
from rlsuite.training.start import begin, resume_joined, saved_config

if TYPE_CHECKING:
    import pandas

Callbacklike = Callback | str


class Run:
    """A run folder, finished or still training.

    Attributes:
        folder: where everything lies.
        result: how `train` or `resume` ended; None for a folder that was opened.
    """

    def __init__(self, folder: str | os.PathLike[str], result: TrainResult | None = None) -> None:
        """Open the run at `folder`.

        Raises:
            ConfigError: there is no run.
        """
        self.folder = RunFolder.open(Path(folder)).path
        self.result = result

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.result})"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as `config.toml` has it."""
        return RunFolder.open(self.folder).config()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`: numbers and None by name, each with its step."""
        path = RunFolder.open(self.folder).metrics
        return list(read_metrics(path)) if path.exists() else []

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines that have an evaluation; those of several seeds at one step joined."""
        return evaluations(RunFolder.open(self.folder).metrics)

    def dataframe(self) -> "pandas.DataFrame":
        """Return the records as a table, a column for every name.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError(
                "a DataFrame needs pandas: pip install pandas, or take `run.records`"
            ) from error
        return pandas.DataFrame(self.records)

    def policy(self, checkpoint: str | int = "best", seed_index: int = 0) -> LoadedPolicy:
        """Return the policy of a checkpoint; see `rlsuite.load`."""
        return load(self.folder, checkpoint=checkpoint, seed_index=seed_index)


def train(
    agent: str,
    env: str | None = None,
    *,
    dataset: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callbacklike] = (),
    agent_options: Mapping[str, Any] | None = None,
    console: bool | None = False,
    **fields: Any,
) -> Run:
    """Train an agent as `rlsuite train` does, with the same presets, checks and run folder.

    Args:
        agent: its name (`rlsuite list agents`).
        env: the environment; with a data set that names its own it may be left out.
        dataset: recorded data to learn from: a name, a file or a folder.
        out: run folder, new or empty; by default runs/AGENT-ENV-sSEED-TIME.
        callbacks: instances of `rlsuite.Callback`, or MODULE:CLASS as `--callbacks` takes them. Texts are
            kept in the configuration; instances are given to `resume` again.
        agent_options: hyper-parameters, the agent's `--agent.NAME`.
        console: what is shown: False nothing, True a bar, None what fits the terminal.
        fields: any field of the run, `--steps` as `steps=`, and so on; `preset`, `stages` as on the command
            line; `plugins` by name, each with its values.

    Raises:
        ConfigError: a name, a value or a device that cannot be had.
        DataError, NumericalError, EnvironmentFailure: as the command line's exit codes 3 to 5.
    """
    plugins = fields.pop("plugins", {})
    plugins = plugins if isinstance(plugins, Mapping) else {name: {} for name in plugins}
    line = [] if env is None else ["--env", env]
    line += [] if dataset is None else ["--dataset", os.fspath(dataset)]
    for name in ("preset", "steps", "stages", "then_online"):
        if name in fields:
            line += [f"--{name.replace('_', '-')}", str(fields.pop(name))]
    line += ["--plugins", ",".join(plugins)] if plugins else []
    args, agent_class = parse_train(agent, line)
    named = [item for item in callbacks if isinstance(item, str)]
    values = {
        **fields,
        **({"callbacks": named} if named else {}),
        **({"plugins": _merged(args.train.plugins, plugins)} if plugins else {}),
    }
    config = RunConfig(
        agent_name=agent,
        preset=args.preset,
        train=_with(args.train, values, "train"),
        agent=_with(args.agent, agent_options or {}, "agent_options"),
    )
    check_learns(config.train)
    hooks = _hooks(callbacks, config, console)
    with ranks.joined(config.train.device):
        path, result = begin(agent_class, config, None if out is None else Path(out), hooks)
    return Run(path, result)


def resume(
    folder: str | os.PathLike[str],
    *,
    steps: int | None = None,
    callbacks: Sequence[Callbacklike] = (),
    console: bool | None = False,
) -> Run:
    """Go on with a run where it stopped; the result is that of the unbroken one.

    Args:
        folder: of the run.
        steps: new total of env steps; more than the run had extends it.
        callbacks: those that were given as instances at the start, in their order; they get their state back.
        console: as in `train`.

    Raises:
        ConfigError: no run, or fewer steps than it has done.
        DataError: no checkpoint is usable.
    """
    path = Path(folder)
    RunFolder.open(path)
    check_resumable(path)
    config = saved_config(path, steps)
    hooks = _hooks(callbacks, config, console)
    with ranks.joined(config.train.device):
        return Run(path, resume_joined(path, config, steps is not None, hooks))


def _hooks(callbacks: Sequence[Callbacklike], config: RunConfig, console: bool | None) -> Hooks:
    """Return the callbacks of a run, those that the configuration names first."""
    given = [item for item in callbacks if not isinstance(item, str)]
    return Hooks(Callbacks([*load_callbacks(config.train.callbacks), *given]), console=console)


def _with(config: Any, values: Mapping[str, Any], where: str) -> Any:
    """Return a dataclass with other values; ConfigError for names and types that it does not have."""
    check_keys(values, [field.name for field in dataclasses.fields(config)], where)
    hints = typing.get_type_hints(type(config))
    changes = {name: typed(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    return typed_replace(config, **changes) if values else config


def _merged(resolved: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of plug-ins, the given ones over those of the preset."""
    merged = {}
    for name, values in resolved.items():
        check_keys(given.get(name, {}), list(values), f"plugins: {name}")
        merged[name] = {**values, **given.get(name, {})}
    return merged
