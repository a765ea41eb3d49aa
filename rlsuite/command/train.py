"""From the arguments of `rlsuite train` to a run's configuration; `bench` and `launch` read them here too."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro import MISSING, conf

from rlsuite import registry
from rlsuite.command.arguments import first_pass, given, option_values, parse, wants_help
from rlsuite.command.helptext import TRAIN
from rlsuite.errors import ConfigError
from rlsuite.presets import load_preset, preset_names
from rlsuite.runs.config import NO_ENV, OfflineConfig, TrainConfig, spaced
from rlsuite.strict import from_mapping, to_mapping

if TYPE_CHECKING:
    from rlsuite.agents.base import Agent

PROG = "rlsuite train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainArgs:
    """The flags of `rlsuite train` that belong to no agent; with --dataset it learns from recorded data."""

    train: conf.OmitArgPrefixes[TrainConfig]
    env_option: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(metavar="KEY=VALUE")] = ()
    """Constructor argument of the environment, e.g. healthy_reward=2.0; may be given several times."""
    logger_option: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(metavar="LOGGER.KEY=VALUE")] = ()
    """Option of a logger, e.g. wandb.project=mine, wandb.group=g, wandb.tags=[...]; several are allowed."""
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
class OfflineArgs(TrainArgs):
    """The flags of `rlsuite train --dataset` that belong to no agent."""

    train: conf.OmitArgPrefixes[OfflineConfig]  # type: ignore[assignment]
    stages: Annotated[str, conf.arg(metavar="A,B")] = ""
    """Stages to learn, of agents that learn in stages, separated by commas; by default all."""


def parse_train(agent: str, argv: Sequence[str]) -> tuple[Any, "type[Agent]"]:
    """Return the resolved line (a `TrainArgs` with the field `agent`) and the class of the agent.

    Raises:
        ConfigError: a name, flag or value is wrong.
    """
    registry.check_agent_name(agent)
    early = first_pass(argv)
    env_id, dataset, preset = early.env, early.dataset, early.preset
    if env_id is not None:
        registry.check_env_name(env_id)
    if dataset is not None:
        from rlsuite.offline.load import environment_of

        env_id = env_id or environment_of(dataset)
        if env_id is None:
            raise ConfigError(
                f"{dataset} does not say which environment it is of: name it with --env, or learn without "
                f"evaluations with --env {NO_ENV}"
            )
    elif env_id is None and not wants_help(argv):
        raise ConfigError(f"no environment: name one, e.g. {PROG} {agent} --env HalfCheetah")
    load_preset(agent, preset, env_id or "", dataset)  # a wrong name is refused before torch is imported
    agent_class = registry.agent_class(agent)
    offline = dataset is not None or agent_class.needs_data
    if offline and dataset is None and not wants_help(argv):
        raise ConfigError(
            f"{agent} learns from recorded data: name some with --dataset (rlsuite list datasets), or take "
            "an agent that acts (rlsuite list agents)"
        )
    train_values, agent_values = load_preset(
        agent, preset, env_id or "", (dataset or "") if offline else None
    )
    if env_id == NO_ENV:
        train_values["eval_every"] = 0
    where = f'preset "{preset}" of {agent}'
    # One dataclass for tyro, so that one help text and one error know every flag.
    base, config_class = (OfflineArgs, OfflineConfig) if offline else (TrainArgs, TrainConfig)
    fixed = {"env": MISSING if env_id is None else env_id}
    if offline:
        fixed["dataset"] = MISSING if dataset is None else dataset
    plugins = plugin_configs(early.plugins, train_values.pop("plugins", {}), where)
    shape = dataclasses.make_dataclass(
        base.__name__,
        [("agent", agent_class.Config), *((name, type(config)) for name, config in plugins.items())],
        bases=(base,),
        kw_only=True,
        frozen=True,
    )
    shape.__doc__ = TrainArgs.__doc__
    default = shape(
        train=from_mapping(config_class, train_values, where, **fixed),
        agent=from_mapping(agent_class.Config, agent_values, where),
        preset=preset,
        **plugins,
    )
    description = f"{registry.agent_names()[agent]}\n\n{where}: {preset_names(agent)[preset]}"
    prog = f"{PROG} {agent}"
    if registry.agent_traits(agent)[0] == "offline":
        description += f"\n\n{agent} learns from recorded data: name some with --dataset DATA."
    more = ""
    if agent_class.columns(default.agent).expert:
        description += f" {agent} imitates demonstrations, a second data set: --expert DATA."
        more = " --expert hopper-expert-v2"
    page = TRAIN._replace(examples=examples_of(agent, more))
    args = parse(shape, argv, prog=prog, default=default, description=description, page=page)
    env_options = {**args.train.env_options, **option_values(args.env_option, "--env-option")}
    changed = {
        "env_options": env_options,
        "logger_options": logger_options(args.train.logger_options, args.logger_option),
        "plugins": {name: to_mapping(getattr(args, name)) for name in plugins},
    }
    args = dataclasses.replace(args, train=dataclasses.replace(args.train, **changed))
    if offline:
        args = staged(args, agent_class, early.steps is not None)
    if "eval_every" not in train_values and not given(argv, "--eval-every"):
        length = args.train.steps or args.train.then_online
        every = spaced(args.train.eval_every, length)
        args = dataclasses.replace(args, train=dataclasses.replace(args.train, eval_every=every))
    return args, agent_class


def logger_options(preset: Mapping[str, Any], args: Sequence[str]) -> dict[str, Any]:
    """Return the options of each logger, those of `LOGGER.KEY=VALUE` before a preset's.

    Raises:
        ConfigError: a word of another form.
    """
    options = {name: dict(values) for name, values in preset.items()}
    for key, value in option_values(args, "--logger-option").items():
        logger, dot, name = key.rpartition(".")
        if not dot:
            raise ConfigError(f'--logger-option "{key}": write LOGGER.KEY=VALUE, e.g. wandb.project=mine')
        options.setdefault(logger, {})[name] = value
    return options


def examples_of(agent: str, more: str = "") -> tuple[str, ...]:
    """Return lines that train an agent, for its help; `more` are flags that it cannot do without."""
    learns_from, actions, *_ = registry.agent_traits(agent)
    source = "--env discrete:gym:CartPole-v1" if actions == "discrete" else "--env HalfCheetah"
    if learns_from == "offline":
        source = "--dataset hopper-medium-v2"
    begin = f"{PROG} {agent} {source}{more}"
    return (
        begin,
        f"{begin} --seeds 4 --out runs/mine",
        f"rlsuite list presets    # then: {begin} --preset NAME",
    )


def staged(args: Any, agent_class: "type[Agent]", steps_given: bool) -> Any:
    """Return the line of a run on data with the stages it names, and with as many steps as these have.

    Raises:
        ConfigError: the agent has no such stages, or --steps where stages have their own.
    """
    from rlsuite.agents.base import StagedAgent

    if not issubclass(agent_class, StagedAgent):
        if args.stages:
            raise ConfigError(f"--stages {args.stages}: {agent_class.__name__} does not learn in stages")
        return args
    if steps_given:
        counts = ", ".join(f"--agent.{stage}-updates" for stage in agent_class.stages)
        raise ConfigError(
            f"--steps: {agent_class.__name__} learns in stages, each with its own number: {counts}"
        )
    agent = args.agent
    if args.stages:
        stages = tuple(word.strip() for word in args.stages.split(","))
        agent = typed_replace(agent, stages=stages)
    return dataclasses.replace(args, agent=agent, train=dataclasses.replace(args.train, steps=agent.updates))


def typed_replace(config: Any, **changes: Any) -> Any:
    """Replace fields of a dataclass; ConfigError where it refuses them."""
    try:
        return dataclasses.replace(config, **changes)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def plugin_configs(given: str | None, preset: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the `Config` of every plug-in that `--plugins` names, or else the preset, with its values.

    Raises:
        ConfigError: no such plug-in, or a field that it does not have.
    """
    names = ",".join(preset) if given is None else given
    plugins = {name: registry.plugin_class(name) for name in filter(None, names.split(","))}
    return {
        name: from_mapping(plugin.Config, preset.get(name, {}), f"{where}: plugins.{name}")
        for name, plugin in plugins.items()
    }
