"""Candidates of a choice: the policies of finished runs, what they do on recorded data, how well they did.

Legend: K candidates, N observations, O observation, A action.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import Agent
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.offline.data import OfflineData
from rlsuite.offline.transforms import transformed
from rlsuite.registry import agent_class
from rlsuite.runs.config import NO_ENV, OfflineConfig
from rlsuite.runs.metrics import read_metrics
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.evaluate import evaluate_run
from rlsuite.training.offline import data_options
from rlsuite.training.recorder import OWNER_KEY
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import SavedRun, load_run

CHUNK_ROWS = 4_096  # shown to a policy at once


class Candidate(NamedTuple):
    """One policy to be judged.

    Attributes:
        run: its folder.
        seed_index: its place among the run's seeds.
        saved: the checkpoint.
        agent: its agent, alone.
    """

    run: Path
    seed_index: int
    saved: SavedRun
    agent: Agent

    @property
    def seed(self) -> int:
        """The root of its random streams."""
        return self.saved.config.train.seed + self.seed_index


def candidates_of(run: Path, checkpoint: str) -> list[Candidate]:
    """Return the agents of a run, one for each seed."""
    saved = load_run(run, checkpoint)
    train = saved.config.train
    env = make_env(train.env, 1, observation_keys=train.observation_keys or None, options=train.env_options)
    try:
        return [
            Candidate(run, index, saved, saved.agent(env, SeedStreams([train.seed + index]), index))
            for index in range(train.seeds)
        ]
    finally:
        env.close()


def check_sizes(candidates: Sequence[Candidate], data: OfflineData) -> None:
    """Raise ConfigError where a candidate's observations or actions are not the data's."""
    widths = data.rows["observation"].shape[-1], data.rows["action"].shape[-1]
    for run, _, _, agent in candidates:
        if (agent.spaces.observation, agent.spaces.action) != widths:
            raise ConfigError(
                f"{run} has {agent.spaces.observation} observations and {agent.spaces.action} actions, "
                f"{data.name} has {widths[0]} and {widths[1]}: judge runs by data of their environment"
            )
        if list(agent.policy.out_keys) != ["action"]:
            raise ConfigError(
                f"{run}: its policy carries a state from step to step and cannot be judged here"
            )


@torch.no_grad()
def actions(candidates: Sequence[Candidate], observation: Tensor) -> Tensor:
    """Return what each policy does without exploration at observations `[N, O]`, `[K, N, A]`."""
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return torch.stack(
            [
                torch.cat([agent.policy.module(part) for part in observation.split(CHUNK_ROWS)])
                for _, _, _, agent in candidates
            ]
        )


def own_errors(candidate: Candidate, held_out: OfflineData, data: OfflineData) -> Tensor | None:
    """Return the squared TD errors of the candidate's own critics on held-out transitions, `[N]`.

    Divided by the variance of its values there, which takes out the scale of its rewards. None for agents
    without critics, or that were not trained on recorded data.

    Args:
        candidate: whose critics.
        held_out: the transitions.
        data: of which they are, whole: its returns give rewards their scale, as in training.
    """
    agent, config = candidate.agent, candidate.saved.config
    if type(agent).values is Agent.values or not isinstance(config.train, OfflineConfig):
        return None
    columns = agent_class(config.agent_name).columns(config.agent)
    options = data_options(config.train, columns._replace(next_action=False), config.agent)
    rows = transformed(held_out, options, scale=data).rows
    if (
        columns.next_action
    ):  # zero where an episode ends: no transition is left out, as the error needs them all
        rows["next", "action"] = next_of(held_out)
    valued = [agent.values(rows[start : start + CHUNK_ROWS]) for start in range(0, len(rows), CHUNK_ROWS)]
    q = torch.cat([part["q"] for part in valued])
    error = torch.cat([part["td_error"] for part in valued])
    return error.square() / q.var().clamp(min=1e-12)


def next_of(data: OfflineData) -> Tensor:
    """Return the recorded action at each next observation, `[N, A]`; an episode's last one repeats itself."""
    action = data.rows["action"]
    following = torch.cat([action[1:], action[-1:]])
    last = data.episodes[:, 1] - 1
    following[last] = action[last]
    return following


def true_return(candidate: Candidate, episodes: int, checkpoint: str) -> float:
    """Return the candidate's mean return: of episodes played now, or of its run's evaluation; or nan.

    Args:
        candidate: whose.
        episodes: to play; with 0, or without an environment, what the run recorded of these weights counts.
        checkpoint: which weights: of the last evaluation, the best, or the last one up to this step.
    """
    train = candidate.saved.config.train
    if episodes and train.env != NO_ENV:
        played = evaluate_run(
            candidate.run,
            episodes=episodes,
            seed=None,
            video=None,
            which=checkpoint,
            seed_index=candidate.seed_index,
        )
        return float(played["return_mean"])
    metrics = RunFolder.open(candidate.run).metrics
    recorded = [
        float(record["eval/return_mean"])
        for record in (read_metrics(metrics) if metrics.exists() else ())
        if record.get("eval/return_mean") is not None
        and record.get(OWNER_KEY, train.seed) == candidate.seed
        and (not checkpoint.isdecimal() or record["step"] <= int(checkpoint))
    ]
    if checkpoint == "best":
        return max(recorded, default=math.nan)
    return recorded[-1] if recorded else math.nan
