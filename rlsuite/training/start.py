"""Where every run begins or goes on: its folder, the loop that it needs, and what is said about it."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent, StagedAgent
from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.runs.config import OfflineConfig, TrainConfig
from rlsuite.runs.mapping import RunConfig, config_from_dict, config_to_dict
from rlsuite.runs.runfolder import RunFolder, default_run_path
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import pick_device
from rlsuite.training.loop import TrainResult
from rlsuite.training.offline import train_offline
from rlsuite.training.online import train_online
from rlsuite.training.outcome import about, goal, outcome_code, say_outcome, title
from rlsuite.training.processes import own_folder, share_out
from rlsuite.training.savedrun import agent_digest, load_agent
from rlsuite.training.updates import COMPILED, EAGER, compile_mode


def train(
    agent_class: type[Agent],
    agent_config: Any,
    config: TrainConfig | OfflineConfig,
    folder: RunFolder,
    *,
    stop: StopFlag | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train online or offline, as the configuration says; see `train_online` and `train_offline`."""
    if isinstance(config, OfflineConfig):
        if config.then_online and issubclass(agent_class, StagedAgent):
            raise ConfigError(
                f"{agent_class.__name__} learns from recorded data only: leave out --then-online"
            )
        return train_offline(agent_class, agent_config, config, folder, stop=stop, resume=resume)
    if issubclass(agent_class, StagedAgent):
        raise ConfigError(
            f"{agent_class.__name__} learns from recorded data: name some with --dataset "
            "(rlsuite list datasets)"
        )
    return train_online(agent_class, agent_config, config, folder, stop=stop, resume=resume)


def start(cls: type[Agent], config: RunConfig, out: Path | None) -> int:
    """Make the run folder, train in it, and say how it went; under torchrun, together."""
    with ranks.joined(config.train.device):
        return start_joined(cls, config, out)


def start_joined(cls: type[Agent], config: RunConfig, out: Path | None) -> int:
    """Train in as many processes as have joined; the first one writes and speaks."""
    config = dataclasses.replace(config, train=share_out(config.train))
    device = pick_device(config.train.device, config.train.engine)
    mode, reason = compile_mode(cls, config.agent, config.train, device.type)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, compile=mode))
    if isinstance(config.train, OfflineConfig) and config.train.earlier_run:
        digest = agent_digest(load_agent(Path(config.train.earlier_run)).loaded)
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, earlier_digest=digest))
    wanted = out or default_run_path(config.agent_name, about(config.train), config.train.seed)
    path = Path(ranks.agreed(str(wanted)))  # of the first: clocks differ
    facts = ("seed", "device", "engine", "legacy_margin")
    meta = {name: getattr(config.train, name) for name in facts} | {"compile": mode}

    def create() -> RunFolder:
        folder = RunFolder.create(path, config_to_dict(config), meta)
        how = "compiled" if mode == COMPILED else "eager"
        print(f"{title(config)}\nupdates: {how}, {reason}\nrun folder: {path}", flush=True)
        return folder

    with own_folder(path, create) as folder, StopFlag() as stop:
        try:
            result = train(cls, config.agent, config.train, folder, stop=stop)
        except ConfigError:  # a name or an engine that only `make_env` knows: leave no empty run behind
            begun = folder.metrics.exists() or folder.checkpoints.exists()
            if not begun and ranks.rank() == 0:
                shutil.rmtree(path, ignore_errors=True)
            raise
    return say_outcome(config, path, result) if ranks.rank() == 0 else outcome_code(result)


def resume(path: Path, steps: int | None = None) -> int:
    """Go on with a run where it stopped; under torchrun, together.

    Args:
        path: the run folder.
        steps: new total of env steps (offline: updates); None leaves the run's own.

    Raises:
        ConfigError: the folder holds no run, or one that was begun with other processes.
    """
    saved = RunFolder.open(path).config()
    saved["train"].setdefault("compile", EAGER)  # runs of before there was a choice
    config = config_from_dict(saved, lambda name: agent_class(name).Config)
    if steps is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
    with ranks.joined(config.train.device):
        return resume_joined(path, config, steps is not None)


def resume_joined(path: Path, config: RunConfig, extended: bool) -> int:
    """Go on in as many processes as have joined; the first one writes and speaks."""
    shared = share_out(config.train, resume=True)

    def reopen() -> RunFolder:
        folder = RunFolder.open(path).__enter__()
        if extended:
            folder.replace_config(config_to_dict(config))  # an interrupted extension goes on to its end
        print(f"{title(config)}\nresuming {path} to {goal(config.train):,} steps", flush=True)
        return folder

    with own_folder(path, reopen) as folder, StopFlag() as stop:
        cls = agent_class(config.agent_name)
        result = train(cls, config.agent, shared, folder, stop=stop, resume=True)
    return say_outcome(config, path, result) if ranks.rank() == 0 else outcome_code(result)
