"""Train an agent on an environment, in a new run folder."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from tyro import MISSING, conf

from rlsuite import registry
from rlsuite.cli import _processes
from rlsuite.cli._line import import_modules, option_values, parse, peek, wants_help
from rlsuite.cli._outcome import about, outcome_code, say_outcome, title
from rlsuite.errors import ConfigError
from rlsuite.training.config import OfflineConfig, TrainConfig
from rlsuite.training.mapping import RunConfig, config_to_dict, from_mapping, to_mapping

if TYPE_CHECKING:
    from rlsuite.agents.base import Agent

PROG = "rlsuite train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainLine:
    """The flags of `rlsuite train` that belong to no agent; with --dataset it learns from recorded data."""

    train: conf.OmitArgPrefixes[TrainConfig]
    env_option: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(metavar="KEY=VALUE")] = ()
    """Constructor argument of the environment, e.g. healthy_reward=2.0; may be given several times."""
    with_plugins: Annotated[str, conf.arg(name="plugins", metavar="NAME,NAME")] = ""
    """Plug-ins, e.g. grama,least, each with flags of its own (`--grama.tau`); `rlsuite list plugins`."""
    preset: str = "default"
    """Named set of values from rlsuite/configs; flags win over it."""
    out: Path | None = None
    """Run folder, new or empty; by default runs/AGENT-ENV-sSEED-TIME."""
    processes: int = 1
    """Runs that share the seeds, each in a process and a folder of its own, OUT/s0-3, OUT/s4-7, ..."""
    launcher: Literal["local", "ray", "slurm"] = "local"
    """Who carries out the runs of --processes: this machine, a Ray cluster, Slurm."""
    launcher_option: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(metavar="KEY=VALUE")] = ()
    """Option of the launcher, e.g. partition=gpu (docs/clusters.md); several are allowed."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, which may register agents or gym: ids; may be given several times."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfflineLine(TrainLine):
    """The flags of `rlsuite train --dataset` that belong to no agent."""

    train: conf.OmitArgPrefixes[OfflineConfig]  # type: ignore[assignment]
    stages: Annotated[str, conf.arg(metavar="A,B")] = ""
    """Stages to learn, of agents that learn in stages, separated by commas; by default all."""


def run(argv: Sequence[str]) -> int:
    """Train what the words after `rlsuite train` say; return 0, or 75 when interrupted and resumable."""
    import_modules(peek(argv, "--import"))
    if not argv or argv[0].startswith("-"):
        if wants_help(argv):
            _print_help()
        raise ConfigError(f"name the agent first: {PROG} AGENT --env ENV; rlsuite list agents shows them")
    agent = argv[0]
    line, kind = parse_line(agent, argv[1:])
    if _processes.wanted(line):
        return _processes.run(agent, argv[1:], line)
    config = RunConfig(agent_name=agent, preset=line.preset, train=line.train, agent=line.agent)
    return start(kind, config, line.out)


def parse_line(agent: str, argv: Sequence[str]) -> tuple[Any, "type[Agent]"]:
    """Return the resolved line (a `TrainLine` with the field `agent`) and the class of the agent.

    Raises:
        ConfigError: a name, flag or value is wrong.
    """
    registry.check_agent_name(agent)
    env_id = next(reversed(peek(argv, "--env")), None)
    dataset = next(reversed(peek(argv, "--dataset")), None)
    preset = next(reversed(peek(argv, "--preset")), "default")
    if env_id is not None:
        registry.check_env_name(env_id)
    fixed: dict[str, Any] = {"env": env_id if env_id is not None else MISSING}
    kind_of_run: type[TrainConfig] | type[OfflineConfig] = TrainConfig
    if dataset is not None:
        from rlsuite.offline.load import environment_of

        kind_of_run = OfflineConfig
        env_id = env_id or environment_of(dataset)
        if env_id is None:
            raise ConfigError(f"{dataset} does not say which environment it is of: name it with --env")
        fixed = {"dataset": dataset, "env": env_id}
    elif env_id is None and not wants_help(argv):
        raise ConfigError(f"no environment: name one, e.g. {PROG} {agent} --env HalfCheetah")
    train_values, agent_values = registry.load_preset(agent, preset, env_id or "", dataset)
    kind = registry.agent_class(agent)
    where = f'preset "{preset}" of {agent}'
    # One dataclass for tyro, so that one help text and one error know every flag.
    base = TrainLine if dataset is None else OfflineLine
    plugins = plugin_configs(argv, train_values.pop("plugins", {}), where)
    shape = dataclasses.make_dataclass(
        base.__name__,
        [("agent", kind.Config), *((name, type(config)) for name, config in plugins.items())],
        bases=(base,),
        kw_only=True,
        frozen=True,
    )
    shape.__doc__ = TrainLine.__doc__
    default = shape(
        train=from_mapping(kind_of_run, train_values, where, **fixed),
        agent=from_mapping(kind.Config, agent_values, where),
        preset=preset,
        **plugins,
    )
    words = f"{registry.agent_names()[agent]}\n\n{where}: {registry.presets(agent)[preset]}"
    line = parse(shape, argv, prog=f"{PROG} {agent}", default=default, description=words)
    env_options = {**line.train.env_options, **option_values(line.env_option, "--env-option")}
    changed = {
        "env_options": env_options,
        "plugins": {name: to_mapping(getattr(line, name)) for name in plugins},
    }
    line = dataclasses.replace(line, train=dataclasses.replace(line.train, **changed))
    return (line if dataset is None else staged(line, kind, argv)), kind


def staged(line: Any, kind: "type[Agent]", argv: Sequence[str]) -> Any:
    """Return the line of a run on data with the stages it names, and with as many steps as these have.

    Raises:
        ConfigError: the agent has no such stages, or --steps where stages have their own.
    """
    from rlsuite.agents.base import StagedAgent

    if not issubclass(kind, StagedAgent):
        if line.stages:
            raise ConfigError(f"--stages {line.stages}: {kind.__name__} does not learn in stages")
        return line
    if peek(argv, "--steps"):
        counts = ", ".join(f"--agent.{stage}-updates" for stage in kind.stages)
        raise ConfigError(f"--steps: {kind.__name__} learns in stages, each with its own number: {counts}")
    agent = line.agent
    if line.stages:
        named = tuple(word.strip() for word in line.stages.split(","))
        agent = typed_replace(agent, stages=named)
    return dataclasses.replace(line, agent=agent, train=dataclasses.replace(line.train, steps=agent.updates))


def typed_replace(config: Any, **changes: Any) -> Any:
    """Replace fields of a dataclass; ConfigError where it refuses them."""
    try:
        return dataclasses.replace(config, **changes)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def plugin_configs(argv: Sequence[str], preset: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the `Config` of every plug-in that `--plugins` names, or else the preset, with its values.

    Raises:
        ConfigError: no such plug-in, or a field that it does not have.
    """
    named = next(reversed(peek(argv, "--plugins")), ",".join(preset))
    kinds = {name: registry.plugin_class(name) for name in filter(None, named.split(","))}
    return {
        name: from_mapping(kind.Config, preset.get(name, {}), f"{where}: plugins.{name}")
        for name, kind in kinds.items()
    }


def start(kind: "type[Agent]", config: RunConfig, out: Path | None) -> int:
    """Make the run folder, train in it, and say how it went; under torchrun, together."""
    from rlsuite.blocks import ranks

    with ranks.joined(config.train.device):
        return start_joined(kind, config, out)


def start_joined(kind: "type[Agent]", config: RunConfig, out: Path | None) -> int:
    """Train in as many processes as have joined; the first one writes and speaks."""
    from rlsuite.blocks import ranks
    from rlsuite.training.offline import train
    from rlsuite.training.ranked import own_folder, share_out
    from rlsuite.training.runfolder import RunFolder, default_run_path
    from rlsuite.training.savedrun import agent_digest, load_agent
    from rlsuite.training.signals import StopFlag

    config = dataclasses.replace(config, train=share_out(config.train))
    mode, reason = start_mode(kind, config)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, compile=mode))
    if isinstance(config.train, OfflineConfig) and config.train.earlier_run:
        digest = agent_digest(load_agent(Path(config.train.earlier_run)).loaded)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, earlier_digest=digest))
    own = out or default_run_path(config.agent_name, about(config.train), config.train.seed)
    path = Path(ranks.agreed(str(own)))  # of the first: clocks differ
    facts = ("seed", "device", "engine", "legacy_margin")
    meta = {name: getattr(config.train, name) for name in facts} | {"compile": mode}

    def create() -> RunFolder:
        folder = RunFolder.create(path, config_to_dict(config), meta)
        how = "compiled" if mode == "on" else "eager"
        print(f"{title(config)}\nupdates: {how}, {reason}\nrun folder: {path}", flush=True)
        return folder

    with own_folder(path, create) as folder, StopFlag() as stop:
        try:
            result = train(kind, config.agent, config.train, folder, stop=stop)
        except ConfigError:  # a name or an engine that only `make_env` knows: leave no empty run behind
            begun = folder.metrics.exists() or folder.checkpoints.exists()
            if not begun and ranks.rank() == 0:
                shutil.rmtree(path, ignore_errors=True)
            raise
    return say_outcome(config, path, result) if ranks.rank() == 0 else outcome_code(result)


def start_mode(kind: "type[Agent]", config: RunConfig) -> tuple[str, str]:
    """Return whether the run compiles its updates, "on" or "off", from its beginning to its end, and why."""
    from rlsuite.training.assembly import pick_device
    from rlsuite.training.updates import compile_mode

    device = pick_device(config.train.device, config.train.engine)
    return compile_mode(kind, config.agent, config.train, device.type)


def _print_help() -> NoReturn:
    """Print the flags that every agent shares, and the agents; imports none of them."""
    names = "\n".join(f"{name}: {summary}" for name, summary in registry.agent_names().items())
    words = f"{names}\n\n`{PROG} AGENT --help` adds the agent's own flags, as --agent.NAME."
    default = TrainLine(train=TrainConfig(env=MISSING))
    parse(TrainLine, ["--help"], prog=f"{PROG} AGENT", default=default, description=words)
    raise AssertionError("tyro prints help and leaves")
