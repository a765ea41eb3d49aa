"""The online training loop: act, step, store, reset, update, log, evaluate, save.

Legend: B worlds. "Step" alone is never used: env steps count single worlds, a vector step moves all B,
updates are gradient updates. With several seeds all counts are those of each.
"""

import logging
import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import Agent
from rlsuite.blocks.noise import normal, uniform
from rlsuite.errors import ConfigError, NumericalError
from rlsuite.training import state
from rlsuite.training.assembly import Run, build, free_bytes, restore, snapshot, world_seeds
from rlsuite.training.checkpoint import CheckpointStore, CheckpointWriteError, Chunk
from rlsuite.training.config import TrainConfig
from rlsuite.training.evaluate import evaluate, per_seed, summary
from rlsuite.training.graphs import verified
from rlsuite.training.guard import READ_EVERY, LearnerGuard, write_dump
from rlsuite.training.recorder import Recorder
from rlsuite.training.runfolder import RunFolder
from rlsuite.training.signals import StopFlag

logger = logging.getLogger(__name__)

NAN_RESET_SHARE = 1e-3  # world resets for numbers that are not finite, per env step, that end a run
NAN_RESET_GRACE = 10  # such resets are an accident, not a rate, up to this many
FINAL_SAVE_TRIES = 3


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended; returns are of evaluations, None where none was made."""

    interrupted: bool
    env_steps: int
    updates: int
    best_return: float | None
    final_return: float | None


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
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    run = build(agent_class, agent_config, config)
    store = CheckpointStore(folder.checkpoints)
    guard = LearnerGuard(folder.path) if config.guard else None
    recorder = Recorder(folder.path, loggers=config.loggers, total_steps=config.steps)
    with recorder, set_exploration_type(ExplorationType.RANDOM):
        try:
            store.remove_stages()
            loaded = store.load(config_digest=run.digest) if resume else None
            if loaded is not None:
                restore(run, loaded.tensors, loaded.documents, loaded.chunks())
                recorder.load_state_dict(loaded.documents["recorder"])
            if resume:
                recorder.rewind(run.clock.env_steps)
            interrupted = _loop(run, folder.path, store, recorder, guard, stop)
        finally:
            run.env.close()
            run.eval_env.close()
    clock = run.clock
    return TrainResult(interrupted, clock.env_steps, clock.updates, clock.best_return, clock.last_return)


def train_steps(run: Run, env_steps: int) -> None:
    """Take `env_steps` env steps and the updates they earn, without log, evaluation or checkpoint."""
    goal = run.clock.env_steps + env_steps
    with set_exploration_type(ExplorationType.RANDOM):
        while run.clock.env_steps < goal:
            with torch.no_grad():
                _vector_step(run, None)
            for _ in range(run.clock.updates_due(run.config)):
                _update(run, None)


def _loop(
    run: Run,
    folder: Path,
    store: CheckpointStore,
    recorder: Recorder,
    guard: LearnerGuard | None,
    stop: StopFlag | None,
) -> bool:
    """Run to the end or to a stop signal; return whether it was a signal."""
    config, clock, num_envs = run.config, run.clock, run.config.num_envs
    saved_at = clock.env_steps if clock.env_steps else None
    while clock.env_steps < config.steps:
        with torch.no_grad():
            _vector_step(run, recorder)
        for _ in range(clock.updates_due(config)):
            _update(run, guard)
        lines: list[dict[str, float]] = [{} for _ in run.seeds]
        if clock.passed(config.log_every, num_envs):
            shared = {"env/nan_resets": run.env.nan_resets, "replay/rows": len(run.replay) // len(lines)}
            shared |= {"ckpt/failed": clock.failed_saves} if clock.failed_saves else {}
            for line, sums, episodes in zip(lines, run.sums.take(), run.episodes.take(), strict=True):
                line |= sums | episodes | shared
        last = clock.env_steps >= config.steps
        if clock.passed(config.eval_every, num_envs) or (last and config.eval_every):
            for line, found in zip(lines, _evaluate(run), strict=True):
                line |= found
        for seed, line in zip(run.seeds, lines, strict=True):
            if line:
                recorder.log(clock.env_steps, clock.updates, line, seed=seed if len(lines) > 1 else None)
        recorder.tick(clock.env_steps, clock.updates)
        if lines[0]:  # asking a device for its count waits for it
            _check_worlds(run, folder)
        stopped = stop is not None and stop.stop is not None
        if (stopped and not last) or (clock.passed(config.checkpoint_every, num_envs) and not last):
            _read_guard(run, guard)
            _save(run, store, recorder, final=stopped)
            saved_at = clock.env_steps
        if stopped and not last:
            return True
    if saved_at != clock.env_steps:
        _read_guard(run, guard)
        _save(run, store, recorder, final=True)
    return False


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
        try:
            needed = run.replay.check_memory(step, free_bytes(run.device))
        except MemoryError as error:
            raise ConfigError(str(error)) from error
        if recorder is not None:
            recorder.note(f"replay: {run.replay.capacity:,} rows, {needed / 2**20:.0f} MiB on {run.device}")
    run.replay.extend(step)
    run.episodes.add(step.get("next"))
    run.carried = run.env.maybe_reset(run.env.step_mdp(step))
    clock.env_steps += config.num_envs


def _update(run: Run, guard: LearnerGuard | None) -> None:
    """One gradient update on one batch."""
    batch = run.replay.sample()
    if run.update is None:
        captured = run.config.cuda_graphs and run.device.type == "cuda"
        with _precision(run):
            run.update = verified(run.agent, batch) if captured else run.agent.update
    with _precision(run):
        metrics = run.update(batch)
    run.clock.updates += 1
    run.sums.add(metrics)
    if guard is not None:
        guard.check(metrics, batch, run.clock.updates)
        if run.clock.updates % READ_EVERY == 0:
            _read_guard(run, guard)


def _precision(run: Run) -> torch.autocast:
    """Return the context of updates; a cache of cast weights would outlive them inside a CUDA graph."""
    wanted = run.config.mixed_precision
    return torch.autocast(run.device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)


def _read_guard(run: Run, guard: LearnerGuard | None) -> None:
    """Stop on a number that was not finite, with the parts' norms in the dump; before every save, too."""
    if guard is None:
        return

    def norms() -> dict[str, float]:
        return {
            part.name: torch.stack([p.detach().norm() for p in part.module.parameters()]).norm().item()
            for part in run.agent.parts()
        }

    guard.read(norms=norms, tensors=lambda: {"agent": state.agent_tensors(run.agent)})


def _evaluate(run: Run) -> list[dict[str, float]]:
    """Evaluate every seed's agent, from seeds of the number of evaluations alone: training feels nothing."""
    clock, count = run.clock, run.config.eval_episodes
    firsts = [seed + clock.evaluations * count for seed in run.streams.seeds("eval")]
    episodes = evaluate(run.policy, run.eval_env, seeds=world_seeds(firsts, count))
    metrics = [summary(own) for own in per_seed(episodes, len(firsts))]
    clock.evaluations += 1
    found = sum(own["eval/return_mean"] for own in metrics) / len(metrics)
    clock.last_return = found if math.isfinite(found) else None
    if clock.last_return is None:
        return metrics
    if clock.best_return is None or clock.last_return > clock.best_return:
        clock.best_return = clock.last_return
    return metrics


def _check_worlds(run: Run, folder: Path) -> None:
    """Stop, with the worlds' states in a dump, when they break down more often than by accident."""
    resets = run.env.nan_resets
    env_steps = run.clock.env_steps * len(run.seeds)
    if resets > NAN_RESET_GRACE and resets > NAN_RESET_SHARE * env_steps:
        report = {"nan_resets": resets, "env_steps": env_steps}
        place = write_dump(folder, report, {"env": run.env.state_dict()})
        raise NumericalError(
            f"{resets} worlds had numbers that are not finite in {env_steps} env steps, more than "
            f"{NAN_RESET_SHARE:.1%}: the task or its time step is unstable; {place}"
        )


def _save(run: Run, store: CheckpointStore, recorder: Recorder, *, final: bool) -> None:
    """Write a checkpoint; a failed one costs a warning in the middle of a run and the run at its end."""
    tensors, documents = snapshot(run, recorder)
    for attempt in range(FINAL_SAVE_TRIES if final else 1):
        chunks = [
            Chunk(
                name=chunk.name,
                version=chunk.version,
                rows=partial(dict, chunk.rows),
                nbytes=sum(t.numel() * t.element_size() for t in chunk.rows.values()),
            )
            for chunk in run.replay.chunks()
        ]
        try:
            store.save(
                run.clock.env_steps,
                tensors=tensors,
                documents=documents,
                chunks=chunks,
                config_digest=run.digest,
                score=run.clock.last_return,
            )
        except CheckpointWriteError as error:
            run.clock.failed_saves += 1
            logger.warning("%s", error)
            if final and attempt + 1 == FINAL_SAVE_TRIES:
                raise
        else:
            return
