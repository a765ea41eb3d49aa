"""A run read back from its folder: its configuration, a checkpoint that verifies, and the agent in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlsuite.agents.base import Agent
from rlsuite.envs.base import VectorEnv
from rlsuite.errors import ConfigError, DataError
from rlsuite.registry import agent_class
from rlsuite.runs.checkpoint import CheckpointStore, Loaded
from rlsuite.runs.mapping import RunConfig, config_from_dict
from rlsuite.runs.runfolder import BEST_FOLDER, RunFolder
from rlsuite.strict import from_mapping, to_mapping
from rlsuite.training import state
from rlsuite.training.assembly import new_agent
from rlsuite.training.best import BestEvaluation, evaluations_of
from rlsuite.training.rng import SeedStreams

STEP = re.compile("[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class SavedRun:
    """Content of a run's folder.

    Attributes:
        config: the resolved configuration.
        loaded: one checkpoint, verified.
    """

    config: RunConfig
    loaded: Loaded

    def agent(self, env: VectorEnv, streams: SeedStreams, seed_index: int = 0) -> Agent:
        """Return one agent of the checkpoint for `env`; its own draws come from `streams`.

        Args:
            env: tells the sizes.
            streams: of one seed.
            seed_index: which agent, of a run with several seeds.
        """
        agent = new_agent(agent_class(self.config.agent_name), self.config.agent, env, streams)
        saved = self.loaded.tensors["agent"]
        state.load_agent_tensors(agent, state.cut_seed(saved, seed_index, agent))
        return agent

    def agents(self, env: VectorEnv, streams: SeedStreams) -> Agent:
        """Return all agents of the checkpoint as the run has them: several share a leading axis.

        Args:
            env: tells the sizes.
            streams: of every seed.
        """
        agent = new_agent(agent_class(self.config.agent_name), self.config.agent, env, streams)
        state.load_agent_tensors(agent, self.loaded.tensors["agent"])
        return agent

    def best_evaluations(self) -> Sequence[BestEvaluation]:
        """Return for every seed the evaluation that the weights were kept for; none where not known."""
        return evaluations_of(self.loaded, self.config.train.seeds)


def load_run(path: Path, which: str, agent_options: Mapping[str, Any] | None = None) -> SavedRun:
    """Read a run, which may still be training.

    Args:
        path: the run folder.
        which: "last", "best", or the env steps of a checkpoint.
        agent_options: other values of the agent's fields, such as FamO2O's strength; the weights must fit.

    Raises:
        ConfigError: `path` is no run folder, `which` is none of the above, or the agent has no such field.
        DataError: there is no usable checkpoint.
    """
    folder = RunFolder.open(path)
    config = config_from_dict(folder.config(), lambda name: agent_class(name).Config)
    if agent_options:
        values = {**to_mapping(config.agent), **agent_options}
        config = replace(config, agent=from_mapping(type(config.agent), values, "agent option"))
    check_which(which)
    store, best = CheckpointStore(folder.checkpoints), CheckpointStore(folder.path / BEST_FOLDER)
    if which == "best":  # runs of before they were kept have a checkpoint that scored best
        loaded = best.load(config_digest=None) if best.steps() else store.best(config_digest=None)
    else:
        loaded = store.load(config_digest=None, step=None if which == "last" else int(which))
    if loaded is None:
        raise DataError(f"{path} has no checkpoint yet: train it first, or wait for its first one")
    return SavedRun(config, loaded)


def check_which(which: str) -> None:
    """Raise ConfigError unless `which` can name a checkpoint."""
    if which not in ("last", "best") and not STEP.fullmatch(which):
        raise ConfigError(f'checkpoint "{which:.40}": name "last", "best" or its number of env steps')


AGENT_FILE = "agent.safetensors"


def agent_digest(loaded: Loaded) -> str:
    """Return the SHA-256 of the file that holds a checkpoint's agent."""
    return loaded.manifest.files[AGENT_FILE].sha256


def load_agent(path: Path, digest: str = "") -> SavedRun:
    """Read the run at `path` at the newest checkpoint whose agent has this digest, or any where it is empty.

    Raises:
        ConfigError: `path` is no run folder.
        DataError: there is no usable checkpoint, or none with that agent.
    """
    run = load_run(path, "last")
    if not digest or agent_digest(run.loaded) == digest:
        return run
    for step in reversed(CheckpointStore(RunFolder.open(path).checkpoints).steps()):
        run = load_run(path, str(step))
        if agent_digest(run.loaded) == digest:
            return run
    raise DataError(
        f"{path} no longer has the agent {digest[:12]}... that this run began from: it has gone on since; "
        "start a new run from it"
    )
