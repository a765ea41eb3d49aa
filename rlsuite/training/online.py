"""Online training: act, step, store, reset, update.

Legend: B worlds. "Step" alone is never used: env steps count single worlds, a vector step moves all B,
updates are gradient updates. With several seeds all counts are those of each.
"""

from pathlib import Path
from typing import Any

import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent
from rlsuite.blocks.noise import normal, uniform
from rlsuite.errors import NumericalError
from rlsuite.runs.checkpoint import CheckpointStore, Loaded
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import Run, build, check_memory
from rlsuite.training.guard import LearnerGuard, write_dump
from rlsuite.training.loop import TrainResult, Work, drive, update
from rlsuite.training.processes import load_together
from rlsuite.training.recorder import Recorder

DUMPED_ROWS = 50  # of each world that failed
NAN_RESET_SHARE = 1e-3  # world resets for numbers that are not finite, per env step, that end a run
NAN_RESET_GRACE = 10  # such resets are an accident, not a rate, up to this many


def train_online(
    agent_class: type[Agent],
    agent_config: Any,
    config: TrainConfig,
    folder: RunFolder,
    *,
    stop: StopFlag | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train one agent on one environment and leave metrics and checkpoints in `folder`.

    Args:
        agent_class: the algorithm.
        agent_config: an instance of its `Config`.
        config: the run's fields.
        folder: a locked run folder.
        stop: asked at every step boundary; set, the run saves and returns as interrupted.
        resume: go on from the newest checkpoint that verifies; without one, start over.

    Raises:
        ConfigError: a device, engine or replay size that this machine cannot give.
        DataError: no checkpoint is usable, or the last one could not be written.
        NumericalError: a loss, gradient or too many worlds were not finite; `dump/` says more.
        EnvironmentFailure: the environment broke.
    """
    run = build(agent_class, agent_config, config)
    loaded = load_together(CheckpointStore(folder.checkpoints), run.digest) if resume else None
    return interact(run, config.steps, folder, stop, resume=resume, loaded=loaded)


def interact(
    run: Run,
    goal: int,
    folder: RunFolder,
    stop: StopFlag | None,
    *,
    resume: bool,
    loaded: Loaded | None,
    seconds: float = 0.0,
) -> TrainResult:
    """Act and learn until `goal` env steps; close the worlds. See `rlsuite.training.loop.drive`."""

    def advance(recorder: Recorder, guard: LearnerGuard | None) -> None:
        with torch.no_grad():
            _vector_step(run, recorder)
        update(run, guard, run.clock.updates_due(run.config))

    def numbers() -> list[dict[str, float]]:
        rows = ranks.count(len(run.replay)) // len(run.seeds)
        shared = {"env/nan_resets": ranks.count(run.env.nan_resets), "replay/rows": rows}
        return [episodes | shared for episodes in run.episodes.take()]

    work = Work(advance, run.config.num_envs, goal, numbers, lambda: _check_worlds(run, folder.path))
    try:
        return drive(run, work, folder, stop, resume=resume, loaded=loaded, seconds=seconds)
    finally:
        run.env.close()
        run.eval_env.close()


def train_steps(run: Run, env_steps: int) -> None:
    """Take `env_steps` env steps and the updates they earn, without log, evaluation or checkpoint."""
    goal = run.clock.env_steps + env_steps
    with set_exploration_type(ExplorationType.RANDOM):
        while run.clock.env_steps < goal:
            with torch.no_grad():
                _vector_step(run, None)
            update(run, None, run.clock.updates_due(run.config))


def _vector_step(run: Run, recorder: Recorder | None) -> None:
    """Act in all worlds, store the rows, reset the worlds whose episode ended."""
    config, clock = run.config, run.clock
    carried = run.carried
    if clock.env_steps < config.warmup_steps and config.warmup_policy != "agent":
        shape = run.env.action_spec.shape
        rows = torch.empty(shape, device=run.device).view(*run.agent.lead, -1, shape[-1])
        source = run.streams.source("explore")
        if config.warmup_policy == "uniform":
            action = uniform(rows, source, -1, 1)
        else:
            action = normal(rows, source).tanh()
        carried.set("action", action.view(shape))
    else:
        carried = run.policy(carried)
    step = run.env.step(carried)
    if not len(run.replay):
        needed = check_memory(run, step)
        if recorder is not None:
            recorder.note(f"replay: {run.replay.capacity:,} rows, {needed / 2**20:.0f} MiB on {run.device}")
    following = step.get("next")
    for plugin in run.plugins.values():
        if (stopped := plugin.stop_mask(step)) is not None:
            cut = stopped.unsqueeze(-1) & ~following.get("terminated")
            for key in ("truncated", "done"):
                following.set(key, following.get(key) | cut)
    run.episodes.add(following)
    if run.reward is not None:
        following.set("reward", run.reward(following.get("reward")))
    run.replay.extend(step)
    run.carried = run.env.maybe_reset(run.env.step_mdp(step))
    clock.env_steps += config.num_envs


def _check_worlds(run: Run, folder: Path) -> None:
    """Stop, with the worlds' states and what led there in a dump, when they break down too often."""
    resets = run.env.nan_resets
    env_steps = run.clock.env_steps * len(run.seeds) // ranks.size()
    if resets > NAN_RESET_GRACE and resets > NAN_RESET_SHARE * env_steps:
        report = {"nan_resets": resets, "env_steps": env_steps}
        before = run.replay.before_failures(DUMPED_ROWS)
        place = write_dump(folder, report, {"env": run.env.state_dict(), "before": before})
        raise NumericalError(
            f"{resets} worlds had numbers that are not finite in {env_steps} env steps, more than "
            f"{NAN_RESET_SHARE:.1%}: the task or its time step is unstable; {place}"
        )
