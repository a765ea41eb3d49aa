"""What online and offline training share: the loop around the steps, updates, evaluation, checkpoints."""

import logging
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite import distributed as ranks
from rlsuite.replay.batch import Batch
from rlsuite.replay.windows import WindowReplay
from rlsuite.runs import machine
from rlsuite.runs.checkpoint import CheckpointStore, CheckpointWriteError, Chunk, Loaded
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training import state
from rlsuite.training.assembly import Learner, world_seeds
from rlsuite.training.evaluate import chosen_stocks, evaluate, per_seed, summary
from rlsuite.training.guard import READ_EVERY, LearnerGuard
from rlsuite.training.processes import save_together
from rlsuite.training.recorder import Recorder
from rlsuite.training.saving import restore, snapshot
from rlsuite.training.value_error import value_trace
from rlsuite.training.watchdog import Watchdog

logger = logging.getLogger(__name__)

FINAL_SAVE_TRIES = 3
KEPT, KEPT_BESIDE = 2, 5  # checkpoints; of the other ranks more, should the first one's saves fail


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended; returns are of evaluations, None where none was made."""

    interrupted: bool
    env_steps: int
    updates: int
    best_return: float | None
    final_return: float | None
    seconds: float = 0.0


class Work(NamedTuple):
    """What one turn of the loop does.

    Attributes:
        advance: moves the clock's env steps (offline: its updates) on by `stride`, and learns, given the
            recorder, for notes, and the guard.
        stride: env steps per turn.
        goal: env steps at which the run ends.
        numbers: what else to log, for every seed.
        check: raises when the run must not go on; asked after every line of metrics.
    """

    advance: Callable[[Recorder, LearnerGuard | None], None]
    stride: int
    goal: int
    numbers: Callable[[], list[dict[str, float]]]
    check: Callable[[], None] = lambda: None


def drive(
    run: Learner,
    work: Work,
    folder: RunFolder,
    stop: StopFlag | None,
    *,
    resume: bool,
    loaded: Loaded | None = None,
    seconds: float = 0.0,
) -> TrainResult:
    """Do the work to its goal or to a stop signal, with metrics, evaluations and checkpoints in `folder`.

    Args:
        run: a freshly built learner.
        work: one turn.
        folder: a locked run folder.
        stop: asked after every turn; set, the run saves and returns as interrupted.
        resume: lines of metrics later than the checkpoint are set aside.
        loaded: the checkpoint to go on from.
        seconds: that the run has already taken, without a checkpoint.

    Raises:
        DataError: the checkpoint does not fit, or the last one could not be written.
        NumericalError: a loss or a gradient was not finite; `dump/` says more.
    """
    config, clock = run.config, run.clock
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    first = ranks.rank() == 0
    store = CheckpointStore(folder.checkpoints, keep_last=KEPT if first else KEPT_BESIDE)
    guard = LearnerGuard(folder.path) if config.guard else None
    recorder = Recorder(
        folder.path,
        loggers=config.loggers if first else (),
        total_steps=work.goal,
        console=None if first else False,
    )
    run.updates.tell = recorder.note
    watched = [env for env in (getattr(run, "env", None), run.eval_env) if env is not None]
    with (
        recorder,
        Watchdog(watched, config.step_timeout),
        set_exploration_type(ExplorationType.RANDOM),
    ):
        store.remove_stages()
        if loaded is not None:
            if others := machine.difference(loaded.manifest.written_by, machine.maker(run.device)):
                logger.warning("goes on from %s, but not bit for bit: %s", loaded.path.name, others)
            restore(run, loaded)
            recorder.load_state_dict(loaded.documents.get("recorder"))
        elif seconds:
            recorder.load_state_dict({"seconds": seconds, "last_return": clock.last_return})
        if resume:
            recorder.rewind(clock.env_steps)
        interrupted = _turns(run, work, store, recorder, guard, stop)
        seconds = recorder.seconds
    returns = clock.best_return, clock.last_return
    return TrainResult(interrupted, clock.env_steps, clock.updates, *returns, seconds)


def _turns(
    run: Learner,
    work: Work,
    store: CheckpointStore,
    recorder: Recorder,
    guard: LearnerGuard | None,
    stop: StopFlag | None,
) -> bool:
    """Turn after turn; return whether a signal ended it."""
    config, clock = run.config, run.clock
    saved_at = clock.env_steps if clock.env_steps else None
    while clock.env_steps < work.goal:
        work.advance(recorder, guard)
        lines: list[dict[str, float]] = [{} for _ in run.seeds]
        if clock.passed(config.log_every, work.stride):
            failed = {"ckpt/failed": clock.failed_saves} if clock.failed_saves else {}
            for line, sums, more in zip(lines, run.sums.take(), work.numbers(), strict=True):
                line |= sums | more | failed
            for plugin in run.plugins.values():
                for line, own in zip(lines, plugin.numbers(), strict=False):
                    line |= own
        last = clock.env_steps >= work.goal
        if clock.passed(config.eval_every, work.stride) or (last and config.eval_every):
            for line, found in zip(lines, evaluation(run), strict=True):
                line |= found
        for seed, line in zip(run.seeds, lines, strict=True):
            if line and ranks.rank() == 0:
                owner = seed if len(lines) > 1 else None
                recorder.log(clock.env_steps, clock.updates, line, seed=owner)
        recorder.tick(clock.env_steps, clock.updates)
        if lines[0]:  # asking a device for its counts waits for it
            work.check()
        stopped = ranks.any_of(stop is not None and stop.stop is not None)
        if (stopped and not last) or (clock.passed(config.checkpoint_every, work.stride) and not last):
            read_guard(run, guard)
            save_together(partial(save, run, store, recorder, final=stopped), run.agent, run.clock)
            saved_at = clock.env_steps
        if stopped and not last:
            return True
    if saved_at != clock.env_steps:
        read_guard(run, guard)
        save_together(partial(save, run, store, recorder, final=True), run.agent, run.clock)
    return False


def update(run: Learner, guard: LearnerGuard | None, count: int = 1) -> None:
    """Take `count` gradient updates, each on a batch of its own."""
    if isinstance(run.replay, WindowReplay):
        for _ in range(count):  # the next batch depends on the priorities that the last one left
            _update(run, guard, run.replay.sample())
        return
    for batch in run.replay.batches(count):
        _update(run, guard, batch)


def _update(run: Learner, guard: LearnerGuard | None, batch: Any) -> None:
    number = run.clock.updates + 1
    watched = any(plugin.watches(number) for plugin in run.plugins.values())
    with precision(run):
        metrics = run.updates(batch, watched=watched)
    run.clock.updates = number
    priority = metrics.pop("priority", None)
    if priority is not None:
        run.replay.reprioritise(batch.get("index"), priority)  # type: ignore[attr-defined]
    run.sums.add(metrics)
    for plugin in run.plugins.values():
        run.sums.add(plugin.after_update(run.agent))
    if guard is not None:
        guard.check(metrics, batch._asdict() if isinstance(batch, Batch) else batch, number)
        if number % READ_EVERY == 0:
            read_guard(run, guard)


def precision(run: Learner) -> AbstractContextManager[Any]:
    """Return the context of updates; a cache of cast weights would outlive them inside a CUDA graph."""
    if not run.config.mixed_precision:
        return nullcontext()
    return torch.autocast(run.device.type, torch.bfloat16, cache_enabled=False)


def read_guard(run: Learner, guard: LearnerGuard | None) -> None:
    """Stop on a number that was not finite, with the parts' norms in the dump; before every save, too."""
    if guard is None:
        return

    def norms() -> dict[str, float]:
        return {
            part.name: torch.stack([p.detach().norm() for p in part.module.parameters()]).norm().item()
            for part in run.agent.parts()
        }

    guard.read(norms=norms, tensors=lambda: {"agent": state.agent_tensors(run.agent)})


def evaluation(run: Learner) -> list[dict[str, float]]:
    """Evaluate every seed's agent, from seeds of the number of evaluations alone: training feels nothing.

    Of several processes the first evaluates, and the others wait where they next need it.
    """
    clock, count = run.clock, run.config.eval_episodes
    if ranks.rank():
        clock.evaluations += 1
        return [{} for _ in run.seeds]
    firsts = [seed + clock.evaluations * count for seed in run.streams.seeds("eval")]
    worlds, trace = world_seeds(firsts, count), value_trace(run.agent)
    begin = chosen_stocks(run.agent, run.eval_env)
    episodes = evaluate(run.policy, run.eval_env, seeds=worlds, trace=trace, begin=begin)
    metrics = [summary(own) for own in per_seed(episodes, len(firsts))]
    if run.reference is not None:
        for own in metrics:
            own["eval/score"] = run.reference.score(own["eval/return_mean"])
    clock.evaluations += 1
    found = sum(own["eval/return_mean"] for own in metrics) / len(metrics)
    clock.last_return = found if math.isfinite(found) else None
    if clock.last_return is None:
        return metrics
    if clock.best_return is None or clock.last_return > clock.best_return:
        clock.best_return = clock.last_return
    return metrics


def save(run: Learner, store: CheckpointStore, recorder: Recorder, *, final: bool) -> bool:
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
                written_by=machine.maker(run.device),
            )
        except CheckpointWriteError as error:
            run.clock.failed_saves += 1
            logger.warning("%s", error)
            if final and attempt + 1 == FINAL_SAVE_TRIES:
                raise
        else:
            return True
    return False
