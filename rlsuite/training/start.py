"""Front door of training, where every run begins or resumes: its folder, its loop, its messages."""

import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent, Spaces, StagedAgent
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.offline.locate import locate
from rlsuite.registry import agent_class, agent_names, agent_traits
from rlsuite.replay.memory import host_free_bytes
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.config import NO_ENV, OfflineConfig, TrainConfig, check_prior
from rlsuite.runs.mapping import RunConfig, config_from_dict, config_to_dict
from rlsuite.runs.runfolder import RunFolder, default_run_path
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import eval_engine, pick_device, spaces_of
from rlsuite.training.callbacks import Callbacks, Hooks, load_callbacks
from rlsuite.training.checks import check_actions, check_rollouts
from rlsuite.training.guard import DUMP_FOLDER
from rlsuite.training.interventions import load_intervention
from rlsuite.training.loop import TrainResult
from rlsuite.training.offline import train_offline
from rlsuite.training.online import train_online
from rlsuite.training.outcome import about, goal, outcome_code, say_outcome, title
from rlsuite.training.processes import own_folder, share_out
from rlsuite.training.replays import goals_of
from rlsuite.training.savedrun import agent_digest, load_agent
from rlsuite.training.updates import COMPILED, EAGER, compile_mode

ENV_BYTES = 8_192  # of one copy of the smallest environments; simulators take far more


def train(
    agent_class: type[Agent],
    agent_config: Any,
    config: TrainConfig | OfflineConfig,
    folder: RunFolder,
    *,
    stop: StopFlag | None = None,
    resume: bool = False,
    hooks: Hooks | None = None,
) -> TrainResult:
    """Train online or offline, as the configuration says; see `train_online` and `train_offline`.

    Without `hooks` the callbacks are those that the configuration names.
    """
    hooks = hooks or Hooks(Callbacks(load_callbacks(config.callbacks)))
    check_data(agent_class, config)
    if isinstance(config, OfflineConfig):
        check_columns(agent_class, agent_config, config)
        if config.then_online and issubclass(agent_class, StagedAgent):
            raise ConfigError(
                f"{agent_class.__name__} learns from recorded data only: leave out --then-online"
            )
        check_online_columns(agent_class, agent_config, config)
        if config.expert:
            locate(config.expert)  # before there is a folder
        return train_offline(agent_class, agent_config, config, folder, stop=stop, resume=resume, hooks=hooks)
    return train_online(agent_class, agent_config, config, folder, stop=stop, resume=resume, hooks=hooks)


def check_data(agent_class: type[Agent], config: TrainConfig | OfflineConfig) -> None:
    """Raise ConfigError for an agent of recorded data in a run that has none: it would copy its own noise.

    Also for prior data that are not there or without use, and for what is of prior data where there are none.
    """
    check_rollouts(agent_class, config)
    check_prior(config)
    if isinstance(config, TrainConfig):
        load_intervention(config.intervention)
        if config.prior_data:
            locate(config.prior_data)  # before there is a folder
    if agent_class.needs_data and not isinstance(config, OfflineConfig):
        raise ConfigError(
            f"{agent_class.__name__} learns from recorded data: name some with --dataset "
            "(rlsuite list datasets)"
        )


def check_online_columns(agent_class: type[Agent], agent_config: Any, config: OfflineConfig) -> None:
    """Raise ConfigError where an agent would need online what only recorded data have."""
    wanted = agent_class.online_columns(agent_config)
    if config.then_online and (wanted.next_action or wanted.expert):
        raise ConfigError(
            f"{agent_class.__name__} learns from columns that only recorded data have: leave out "
            "--then-online"
        )
    if config.then_online and wanted.returns and config.offline_share is None:
        raise ConfigError(
            f"{agent_class.__name__} learns from returns online, too, which mixed batches alone have: add "
            "--offline-share 0.5"
        )


def check_columns(agent_class: type[Agent], agent_config: Any, config: OfflineConfig) -> None:
    """Raise ConfigError where demonstrations are missing, or given to an agent that has no use for them."""
    name, wanted = agent_class.__name__, agent_class.columns(agent_config).expert
    if wanted and not config.expert:
        raise ConfigError(f"{name} imitates demonstrations: name some with --expert DATA")
    if config.expert and not wanted:
        raise ConfigError(f"{name} has no use for demonstrations: leave out --expert")
    if wanted and config.batch_size < 2:
        raise ConfigError(f"batch_size = {config.batch_size}: half of it are demonstrations; take 2 or more")
    if config.expert_episodes and not config.expert:
        raise ConfigError("expert_episodes needs demonstrations: name some with --expert DATA")


def start(cls: type[Agent], config: RunConfig, out: Path | None) -> int:
    """Make the run folder, train in it, and say how it went; under torchrun, together."""
    with ranks.joined(config.train.device):
        return start_joined(cls, config, out)


def start_joined(cls: type[Agent], config: RunConfig, out: Path | None) -> int:
    """Train in as many processes as have joined; the first one writes and speaks."""
    path, result = begin(cls, config, out)
    return say_outcome(config, path, result) if ranks.rank() == 0 else outcome_code(result)


def begin(
    cls: type[Agent], config: RunConfig, out: Path | None, hooks: Hooks | None = None
) -> tuple[Path, TrainResult]:
    """Make the run folder and train in it; return both. Says nothing where `hooks.console` is False."""
    if hooks is None:
        hooks = Hooks(Callbacks(load_callbacks(config.train.callbacks)))  # before there is a folder
    config = dataclasses.replace(config, train=share_out(config.train))
    device = pick_device(config.train.device, config.train.engine)
    mode, reason = compile_mode(cls, config.agent, config.train, device.type)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, compile=mode))
    if isinstance(config.train, OfflineConfig) and config.train.earlier_run:
        digest = agent_digest(load_agent(Path(config.train.earlier_run)).loaded)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, earlier_digest=digest))
    try_out(cls, config)
    wanted = out or default_run_path(config.agent_name, about(config.train), config.train.seed)
    path = Path(ranks.agreed(str(wanted)))  # of the first: clocks differ
    facts = ("seed", "device", "engine", "legacy_margin")
    meta = {name: getattr(config.train, name) for name in facts} | {"compile": mode}

    absent = [parent for parent in (path, *path.parents) if not parent.exists()]

    def create() -> RunFolder:
        folder = RunFolder.create(path, config_to_dict(config), meta)
        how = "compiled" if mode == COMPILED else "eager"
        if hooks.console is not False:
            print(f"{title(config)}\nupdates: {how}, {reason}\nrun folder: {path}", flush=True)
        return folder

    with own_folder(path, create) as folder, StopFlag() as stop:
        try:
            result = train(cls, config.agent, config.train, folder, stop=stop, hooks=hooks)
        except BaseException:  # data, a device or an environment: the same command can be given again
            wrote = folder.metrics.exists() and folder.metrics.stat().st_size
            kept = folder.checkpoints.exists() or any(folder.path.glob(f"{DUMP_FOLDER}*"))
            if not wrote and not kept and ranks.rank() == 0:
                remove_start(path, absent)
            raise
    return path, result


def try_out(cls: type[Agent], config: RunConfig) -> None:
    """Make the environment of a run once, before there is a folder or a title, and compare sizes with memory.

    Raises:
        ConfigError: it does not exist, its actions are not the agent's, or the run does not fit into memory.
        EnvironmentFailure: it cannot be made.
    """
    train = config.train
    check_data(cls, train)
    if isinstance(train, OfflineConfig):
        check_columns(cls, config.agent, train)
        check_online_columns(cls, config.agent, train)
    if train.env in ("", NO_ENV):
        return  # the data know it, or there is none
    try:
        env = make_env(
            train.env,
            1,
            engine=eval_engine(train.engine),
            options=train.env_options,
            observation_keys=train.observation_keys or None,
            legacy_margin=train.legacy_margin,
            workers=train.env_workers,
        )
        try:
            check_actions(cls, env)
            if isinstance(train, TrainConfig) and train.replay == "her":
                goals_of(env, train)
            needed = least_bytes(config, spaces_of(env))
        finally:
            env.close()
    except ConfigError as error:
        if "discrete" not in str(error) or cls.discrete is not False:
            raise
        able = ", ".join(name for name in agent_names() if "discrete" in agent_traits(name)[1])
        raise ConfigError(
            f"{config.agent_name} is for continuous actions: {error}; agents of discrete actions: {able}"
        ) from error
    if needed > (free := host_free_bytes()):
        raise ConfigError(
            f"the run needs at least {needed / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} GiB are free: "
            "take fewer envs (--num-envs), a smaller --batch-size or narrower networks"
        )


def least_bytes(config: RunConfig, spaces: Spaces) -> int:
    """Return bytes that a run needs at the least: its envs, one batch, and its hidden layers.

    An estimate from below, for sizes that are far off; the replay is compared exactly at the first step.
    """
    train = config.train
    # Of pictures a replay has bytes, and what hidden layers see is made by an encoder.
    seen, size = (spaces.observation, 4) if spaces.pixels is None else (0, 1)
    row = 2 * size * spaces.observation + 4 * (spaces.action + 4)
    envs = (train.num_envs + train.eval_episodes) * train.seeds
    hidden = getattr(config.agent, "hidden", ())
    widths = hidden if isinstance(hidden, tuple) else (hidden,)
    pairs = zip((seen, *widths), (*widths, spaces.action), strict=True) if widths else ()
    weights = sum(rows * columns for rows, columns in pairs) * train.seeds
    # An actor and a critic at the least, each with gradient and two moments.
    return envs * (row + ENV_BYTES) + train.batch_size * train.seeds * row * 2 + weights * 4 * 4 * 2


def remove_start(path: Path, absent: Sequence[Path]) -> None:
    """Remove the folder of a run that did not begin, and the empty folders that were made for it."""
    shutil.rmtree(path, ignore_errors=True)
    if path not in absent:  # the user made it
        path.mkdir(exist_ok=True)
    for parent in absent:
        if parent != path:
            with contextlib.suppress(OSError):  # somebody else uses it
                parent.rmdir()


def resume(path: Path, steps: int | None = None) -> int:
    """Go on with a run where it stopped; under torchrun, together.

    Args:
        path: the run folder.
        steps: new total of env steps (offline: updates); None leaves the run's own.

    Raises:
        ConfigError: the folder holds no run, or one that was begun with other processes.
    """
    config = saved_config(path, steps)
    with ranks.joined(config.train.device):
        result = resume_joined(path, config, steps is not None)
        return say_outcome(config, path, result) if ranks.rank() == 0 else outcome_code(result)


def saved_config(path: Path, steps: int | None) -> RunConfig:
    """Return the configuration of a run, with a new total of steps where one is given; see `resume`."""
    saved = RunFolder.open(path).config()
    if isinstance(saved.get("train"), dict):
        saved["train"].setdefault("compile", EAGER)  # runs of before there was a choice
    config = config_from_dict(saved, lambda name: agent_class(name).Config)
    if steps is None:
        return config
    check_extension(path, config.train, steps)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))


def check_extension(path: Path, train: TrainConfig | OfflineConfig, steps: int) -> None:
    """Raise ConfigError for a new total of steps that lies before the place where a run is."""
    saved = CheckpointStore(RunFolder.open(path).checkpoints).steps()
    at = saved[-1] if saved else 0
    offline = train.steps if isinstance(train, OfflineConfig) and train.then_online else None
    if offline is not None and at > offline != steps:
        raise ConfigError(f"--steps {steps:,}: {path} acts online already, after {offline:,} updates on data")
    if steps == offline:
        return  # as it was
    if steps < min(at, goal(train)):
        raise ConfigError(
            f"--steps {steps:,}: {path} has done {at:,} of {goal(train):,} already; give a greater total"
        )


def resume_joined(path: Path, config: RunConfig, extended: bool, hooks: Hooks | None = None) -> TrainResult:
    """Go on in as many processes as have joined; the first one writes, and says where it goes on."""
    if hooks is None:
        hooks = Hooks(Callbacks(load_callbacks(config.train.callbacks)))
    shared = share_out(config.train, resume=True)

    def reopen() -> RunFolder:
        folder = RunFolder.open(path).__enter__()
        if extended:
            folder.replace_config(config_to_dict(config))  # an interrupted extension goes on to its end
        if hooks.console is not False:
            print(f"{title(config)}\nresuming {path} to {goal(config.train):,} steps", flush=True)
        return folder

    with own_folder(path, reopen) as folder, StopFlag() as stop:
        cls = agent_class(config.agent_name)
        return train(cls, config.agent, shared, folder, stop=stop, resume=True, hooks=hooks)
