"""Offline training: update on recorded rows; online training afterwards where asked.

Offline, the clock's env steps count updates; online they count on from there, so that one axis serves both.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rlsuite.agents.base import Agent, Columns, StagedAgent, WindowShape
from rlsuite.blocks.noise import Source
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.collect import spaces_of_data
from rlsuite.offline.data import OfflineData
from rlsuite.offline.load import load_dataset
from rlsuite.offline.transforms import (
    DataOptions,
    best_episodes,
    moments,
    reward_transform,
    transformed,
    tries,
    with_demonstrations,
)
from rlsuite.replay.offline import OfflineReplay, split_where
from rlsuite.replay.windows import WindowReplay
from rlsuite.runs.checkpoint import CheckpointStore, Loaded
from rlsuite.runs.config import NO_ENV, LearnConfig, OfflineConfig, TrainConfig
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import (
    Learner,
    OfflineRun,
    build_learner,
    online_run,
    parts_of,
)
from rlsuite.training.callbacks import Hooks
from rlsuite.training.learning import update
from rlsuite.training.loop import Session, TrainResult
from rlsuite.training.online import act_and_learn, preload
from rlsuite.training.prior import Prior, check_widths
from rlsuite.training.savedrun import load_agent


@runtime_checkable
class ChoosesEpisodes(Protocol):
    """The configuration of an agent that learns from the best of the recorded episodes."""

    fraction: float


GOAL_KEYS = ("desired_goal", "infos/goal")  # parts of observations: Minari's, D4RL's


def train_offline(
    agent_class: type[Agent],
    agent_config: Any,
    config: OfflineConfig,
    folder: RunFolder,
    *,
    stop: StopFlag | None = None,
    resume: bool = False,
    hooks: Hooks | None = None,
) -> TrainResult:
    """Train one agent on one data set, then online where asked; metrics and checkpoints go to `folder`.

    Args:
        agent_class: the algorithm.
        agent_config: an instance of its `Config`.
        config: the run's fields.
        folder: a locked run folder.
        stop: asked after every update; set, the run saves and returns as interrupted.
        resume: go on from the newest checkpoint that verifies; without one, start over.
        hooks: callbacks, and what else looks on.

    Raises:
        ConfigError: no such data set or environment, or data that do not fit the environment.
        DataError: the data, or all checkpoints, are damaged.
        NumericalError: a loss or gradient was not finite; `dump/` says more.
    """
    recorded = load_dataset(
        config.dataset, dictionary_keys=config.observation_keys or None, env=config.env or None
    )
    columns = agent_class.columns(agent_config)
    options = data_options(config, columns, agent_config)
    data = transformed(recorded, options)
    if columns.expert:
        expert = load_dataset(
            config.expert,
            dictionary_keys=config.observation_keys or None,
            options=DataOptions(action_limit=options.action_limit),
        )
        data = with_demonstrations(data, expert, config.expert_episodes)
    if isinstance(agent_config, ChoosesEpisodes) and agent_config.fraction < 1:
        data = best_episodes(data, agent_config.fraction)
    if config.env == NO_ENV:
        config = with_sizes(config, data, folder)
    learner = build_learner(agent_class, agent_config, config, env_of(config, data))
    learner.hooks = hooks or learner.hooks
    run = offline_run(learner, data)
    loaded = CheckpointStore(folder.checkpoints).load(config_digest=run.digest) if resume else None
    if config.earlier_run and loaded is None:
        earlier = load_agent(Path(config.earlier_run), config.earlier_digest)
        if not isinstance(run.agent, StagedAgent):
            raise ConfigError(
                f"--from: {agent_class.__name__} does not learn in stages: it cannot go on from another run"
            )
        run.agent.inherit(earlier.config.agent, earlier.loaded.tensors["agent"])
    seconds, online_already = 0.0, loaded is not None and "env" in loaded.tensors
    if config.steps and not online_already:
        try:
            result = learn(run, folder, config.steps, stop, resume=resume, loaded=loaded)
        except BaseException:
            run.close()
            raise
        if result.interrupted or result.stopped_by or not config.then_online:
            run.close()
            return result
        seconds = result.seconds
    del run  # the rows of its batches: an online replay has its own
    prior = Prior(data, reward_transform(config.reward, recorded))
    online = online_run(learner, online_config(config, data), config.then_online, prior)
    online.agent.start_online()
    goal = config.steps + config.then_online
    if online_already:
        return act_and_learn(online, folder, goal, stop, resume=True, loaded=loaded)
    preload(online, prior)
    online.clock.offline = online.clock.env_steps
    again = resume and not config.steps  # nothing was saved yet: its metrics begin anew
    return act_and_learn(online, folder, goal, stop, resume=again, loaded=None, seconds=seconds)


def data_options(config: OfflineConfig, columns: Columns, agent_config: Any) -> DataOptions:
    """Return what is done to a data set for an agent whose batches need these columns."""
    return DataOptions(
        action_limit=config.action_limit,
        reward=config.reward,
        next_action=columns.next_action,
        return_gamma=agent_config.gamma if columns.returns else None,
        failure_reward=columns.failure_reward,
    )


def with_sizes(config: OfflineConfig, data: OfflineData, folder: RunFolder) -> OfflineConfig:
    """Return the configuration with the data's sizes in place of an environment; the folder keeps it."""
    action = spaces_of_data(data).action
    sizes = {
        "observation": data.rows["observation"].shape[-1],
        "action_low": list(action["low"]),
        "action_high": list(action["high"]),
    }
    if config.env_options != sizes:
        saved = folder.config()
        saved["train"]["env_options"] = sizes
        folder.replace_config(saved)
    return replace(config, env_options=sizes)


def offline_run(learner: Learner, data: OfflineData) -> OfflineRun:
    """Join a learner with the data: its replay, its observations' statistics, its scores.

    Raises:
        ConfigError: observations or actions of the data are not the environment's.
        DataError: no window fits into the data, or their moments are not finite.
    """
    agent = learner.agent
    check_widths(data, agent, learner.eval_env.env_id)
    agent.adopt_statistics(*moments(data.rows["observation"]))
    rewards = data.rows["next", "reward"]
    agent.adopt_rewards(float(rewards.min()), float(rewards.max()))
    there = replace(data, rows=data.rows.to(learner.device), episodes=data.episodes.to(learner.device))
    batch_size, generator = learner.config.batch_size, learner.streams.source("sample")
    learner.reference = data.reference
    replay: WindowReplay | OfflineReplay
    if isinstance(agent, StagedAgent):
        replay = windows(there, agent.windows, batch_size, generator)
    else:
        replay = there.replay(batch_size=batch_size, generator=generator, gamma=agent.gamma)
    return OfflineRun(**parts_of(learner), replay=replay)


def windows(data: OfflineData, shape: WindowShape, batch_size: int, generator: Source = None) -> WindowReplay:
    """Return a replay of windows that cross neither the end of an episode nor a change of its goal.

    Raises:
        DataError: no window fits into the data.
    """
    segments = tries(data)
    for part in data.parts:
        if part.key in GOAL_KEYS:
            segments = split_where(segments, data.rows["observation"][:, data.columns(part.key)])
    try:
        return WindowReplay(
            data.rows,
            data.episodes,
            segments=segments,
            batch_size=batch_size,
            generator=generator,
            **shape._asdict(),
        )
    except ValueError as error:
        raise DataError(f"{data.source}: {error}") from error


def learn(
    run: OfflineRun,
    folder: RunFolder,
    goal: int,
    stop: StopFlag | None,
    *,
    resume: bool,
    loaded: Loaded | None,
) -> TrainResult:
    """Update until `goal` updates; see `Session` for the arguments."""
    with Session(run, folder, goal, stop, resume=resume, loaded=loaded) as session:
        while session.goes_on:
            if isinstance(run.agent, StagedAgent):
                prepare(run.agent, run.replay, session.recorder.note)
            update(run, session.guard)
            run.clock.env_steps += 1
            session.report(1)
            session.save_when_due(1)
        return session.finish()


def prepare(agent: StagedAgent, replay: Any, note: Callable[[str], None]) -> None:
    """Set the replay up for the next update, and say before a stage begins: that may take minutes."""
    if replay.stage != agent.stage:
        note(f"stage {agent.stage}: making what it learns from")
    if (told := agent.prepare(replay)) is not None:
        note(told)


def online_config(config: OfflineConfig, data: OfflineData) -> TrainConfig:
    """Return the fields of the online phase, whose prior data are the run's."""
    shared = {field.name: getattr(config, field.name) for field in fields(LearnConfig)}
    return TrainConfig(
        **shared,
        env=env_of(config, data),
        steps=config.steps + config.then_online,
        num_envs=config.num_envs,
        updates_per_step=config.updates_per_step,
        warmup_steps=config.warmup_steps,
        warmup_policy="uniform" if config.warmup_steps else "agent",
        replay_size=config.replay_size,
        prior_data=config.dataset,
        offline_share=config.offline_share,
    )


def env_of(config: OfflineConfig, data: OfflineData) -> str:
    """Return the environment of a run: the one asked for, or the one the data name."""
    if config.env:
        return config.env
    if data.env is None:
        raise ConfigError(f"{data.name} does not say which environment it is of: name it with --env")
    return data.env
