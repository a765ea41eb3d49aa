"""What the online and the offline loop share: one update, evaluation, guard and checkpoint."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from rlsuite.training import state
from rlsuite.training.assembly import Learner, snapshot, world_seeds
from rlsuite.training.checkpoint import CheckpointStore, CheckpointWriteError, Chunk
from rlsuite.training.evaluate import evaluate, per_seed, summary
from rlsuite.training.graphs import verified
from rlsuite.training.guard import READ_EVERY, LearnerGuard
from rlsuite.training.recorder import Recorder

logger = logging.getLogger(__name__)

FINAL_SAVE_TRIES = 3


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended; returns are of evaluations, None where none was made."""

    interrupted: bool
    env_steps: int
    updates: int
    best_return: float | None
    final_return: float | None


def update(run: Learner, guard: LearnerGuard | None) -> None:
    """One gradient update on one batch."""
    batch = run.replay.sample()
    if run.update is None:
        captured = run.config.cuda_graphs and run.device.type == "cuda"
        with precision(run):
            run.update = verified(run.agent, batch) if captured else run.agent.update
    with precision(run):
        metrics = run.update(batch)
    run.clock.updates += 1
    run.sums.add(metrics)
    if guard is not None:
        guard.check(metrics, batch, run.clock.updates)
        if run.clock.updates % READ_EVERY == 0:
            read_guard(run, guard)


def precision(run: Learner) -> torch.autocast:
    """Return the context of updates; a cache of cast weights would outlive them inside a CUDA graph."""
    wanted = run.config.mixed_precision
    return torch.autocast(run.device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)


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


def save(run: Learner, store: CheckpointStore, recorder: Recorder, *, final: bool) -> None:
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
