"""One run in several processes (torchrun): what is refused, whose folder is whose, saving together.

The first rank writes the run folder: configuration, metrics, checkpoints. The others keep checkpoints of what
is theirs, envs, replayed transitions and random streams, in `ranks/1`, `ranks/2`, ... below it. What the
configuration counts (envs, batch, replay, env steps) is the run's; every rank has its share.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent
from rlsuite.errors import ConfigError, DataError
from rlsuite.runs.checkpoint import CheckpointStore, Loaded
from rlsuite.runs.config import OfflineConfig, TrainConfig
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.assembly import Clock

RANKS_FOLDER = "ranks"
SHARED = ("num_envs", "batch_size")  # fields that the ranks share out evenly


def share_out(config: TrainConfig | OfflineConfig, *, resume: bool = False) -> TrainConfig | OfflineConfig:
    """Return the configuration of a run in as many processes as have joined, checked.

    Raises:
        ConfigError: a run on data or with plug-ins, envs or batches that cannot be shared out evenly, or
            other processes than the run was started with.
    """
    count = ranks.size()
    begun = config.ranks if isinstance(config, TrainConfig) else 1
    if resume and begun != count:
        how = "rlsuite" if begun == 1 else f"torchrun --nproc-per-node {begun} -m rlsuite"
        raise ConfigError(f"the run was started with {begun} processes, not {count}: {how} resume RUN")
    if count == 1:
        return config
    if not isinstance(config, TrainConfig):
        raise ConfigError("torchrun trains online agents only: for recorded data start one process")
    if config.plugins:
        raise ConfigError(
            f"--plugins {','.join(config.plugins)}: plug-ins look at one process's transitions, so they do "
            "not run under torchrun; start one process, with --num-envs for many envs"
        )
    if config.callbacks:
        raise ConfigError("--callbacks: they are called in one process, and not under torchrun")
    for name in SHARED:
        if getattr(config, name) % count:
            raise ConfigError(
                f"{name} = {getattr(config, name)} cannot be shared out over {count} processes: take a "
                f"multiple of {count} (numbers are those of the whole run)"
            )
    cores = max(1, (os.cpu_count() or 1) // ranks.announced().local_size)
    return dataclasses.replace(config, ranks=count, threads=config.threads or cores)


@contextmanager
def own_folder(path: Path, open_first: Callable[[], RunFolder]) -> Iterator[RunFolder]:
    """Give every rank its folder: the first one the run folder, locked, the others one below it.

    Args:
        path: the run folder, the same on every rank.
        open_first: makes or opens it, on the first rank, before the others go on.
    """
    if ranks.rank() == 0:
        with open_first() as folder:
            ranks.wait()
            yield folder
        return
    ranks.wait()
    folder = RunFolder(path / RANKS_FOLDER / str(ranks.rank()))
    folder.path.mkdir(parents=True, exist_ok=True)
    yield folder


def load_together(store: CheckpointStore, digest: str) -> Loaded | None:
    """Return the newest checkpoint of the first rank that verifies, and on the others theirs of that step.

    Raises:
        DataError: no checkpoint is usable, or a rank lacks the first one's.
    """
    if ranks.size() == 1:
        return store.load(config_digest=digest)
    loaded = store.load(config_digest=digest) if ranks.rank() == 0 else None
    step = int(ranks.agreed(str(-1 if loaded is None else loaded.step)))
    if ranks.rank() == 0:
        return loaded
    for later in store.steps():  # of a time that the first rank knows nothing of
        if later > step:
            for path in store.folder.glob(f"step-{later:012d}*"):
                shutil.rmtree(path)
    return store.load(config_digest=digest, step=step) if step >= 0 else None


def save_together(save: Callable[[], bool], agent: Agent, clock: Clock) -> None:
    """Save every rank's checkpoint, the first rank's last: what it has, all have.

    Args:
        save: writes this rank's, and returns whether it could.
        agent: must be the same on every rank.
        clock: counts saves that failed.

    Raises:
        DataError: the ranks' agents have drifted apart; nothing is saved.
    """
    if ranks.size() == 1:
        save()
        return
    weights = torch.stack([parameter.detach().double().sum() for parameter in agent.parameters()])
    if not ranks.alike(weights):
        raise DataError(
            "the processes' agents have drifted apart: something in the agent changes with a batch and is "
            "not averaged (rlsuite.distributed), or the machines compute differently; go on from the last "
            "checkpoint with like machines"
        )
    saved = True if ranks.rank() == 0 else save()
    if ranks.any_of(not saved):
        clock.failed_saves += int(saved)  # who failed has counted itself
    elif ranks.rank() == 0:
        save()
    ranks.wait()
