"""Session of a run, online or offline: updates, and what surrounds its steps."""

import logging
import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite import distributed as ranks
from rlsuite.runs import machine
from rlsuite.runs.checkpoint import CheckpointStore, CheckpointWriteError, Loaded, SavedChunk
from rlsuite.runs.config import OfflineConfig
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import Run, env_seeds
from rlsuite.training.best import BestWeights
from rlsuite.training.callbacks import Evaluation, Start
from rlsuite.training.evaluate import Abandoned, chosen_stocks, evaluate, per_seed, summary
from rlsuite.training.guard import LearnerGuard
from rlsuite.training.learning import products, read_guard
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
    """Result of a run; returns are of evaluations, None where none was made.

    `stopped_by` is the callback that ended it, and why; "" for none.
    """

    interrupted: bool
    env_steps: int
    updates: int
    best_return: float | None
    final_return: float | None
    seconds: float = 0.0
    stopped_by: str = ""


class Session:
    """Services around the steps of a run: metrics, evaluations, checkpoints, and when to stop.

    ```
    with Session(run, folder, goal, stop, resume=False) as session:
        while session.goes_on:
            ...  # act, learn, and move the clock on by `stride` env steps
            session.report(stride)
            session.save_when_due(stride)
        return session.finish()
    ```

    Args:
        run: freshly built.
        folder: a locked run folder.
        goal: env steps at which the run ends.
        stop: asked after every step; set, the run saves and ends as interrupted.
        resume: lines of metrics later than the checkpoint are set aside.
        loaded: the checkpoint to go on from.
        seconds: that the run has already taken, without a checkpoint.
    """

    def __init__(
        self,
        run: Run,
        folder: RunFolder,
        goal: int,
        stop: StopFlag | None,
        *,
        resume: bool,
        loaded: Loaded | None = None,
        seconds: float = 0.0,
    ) -> None:
        first = ranks.rank() == 0
        self.run, self.folder, self.goal, self.stop = run, folder, goal, stop
        self.guard = LearnerGuard(folder.path) if run.config.guard else None
        self.recorder = Recorder(
            folder.path,
            loggers=run.config.loggers if first else (),
            total_steps=goal,
            console=run.hooks.console if first else False,
            after=None if loaded is None else loaded.step,
        )
        self.best = BestWeights(folder.path, run) if first else None
        self.interrupted = False
        self.stopped_by = ""  # a callback asked the run to end
        self._store = CheckpointStore(folder.checkpoints, keep_last=KEPT if first else KEPT_BESIDE)
        self._resume, self._loaded, self._seconds = resume, loaded, seconds
        self._mode = ""  # how updates run, as last said
        self._saved_at: int | None = None  # env steps of the newest checkpoint
        self._contexts = ExitStack()

    def __enter__(self) -> Self:
        """Open the metrics, start the watchdog, and put the checkpoint into the run.

        Raises:
            DataError: the checkpoint does not fit.
        """
        run, config = self.run, self.run.config
        torch.set_num_threads(config.threads or os.cpu_count() or 1)
        run.updates.tell = self.recorder.note
        envs = [env for env in (getattr(run, "env", None), run.eval_env) if env is not None]
        with ExitStack() as contexts:
            contexts.enter_context(self.recorder)
            contexts.enter_context(Watchdog(envs, config.step_timeout))
            contexts.enter_context(set_exploration_type(ExplorationType.RANDOM))
            contexts.enter_context(products(config.matmul, run.device))
            self._go_on()
            self._contexts = contexts.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._contexts.__exit__(*error)

    def _go_on(self) -> None:
        run, clock, loaded = self.run, self.run.clock, self._loaded
        self._store.remove_stages()
        if loaded is not None:
            if others := machine.difference(loaded.manifest.written_by, machine.maker(run.device)):
                logger.warning("goes on from %s, but not bit for bit: %s", loaded.path.name, others)
            restore(run, loaded)
            self.recorder.load_state_dict(loaded.documents.get("recorder"))
        elif self._seconds:
            self.recorder.load_state_dict({"seconds": self._seconds, "last_return": clock.last_return})
        if self._resume:
            self.recorder.rewind(clock.env_steps)
        self._saved_at = clock.env_steps or None
        if self.best is not None:
            self.best.resume()
        begin = Start(self.folder.path, run.config, clock.env_steps, self.goal, run)
        run.hooks.callbacks.start(begin, None if loaded is None else loaded.path)
        if clock.owes_evaluation:  # a signal came during it
            try:
                self._log(evaluation(run, self.best, self.stop), evaluated=True)
                self._saved_at = None
            except Abandoned:  # the checkpoint that owes it is still the newest
                self.interrupted = True
        self.stopped_by = run.hooks.callbacks.reason()

    @property
    def goes_on(self) -> bool:
        """Whether the goal is not reached and neither a signal nor a callback has ended the run."""
        return not self.interrupted and not self.stopped_by and self.run.clock.env_steps < self.goal

    def report(self, stride: int, extra: Callable[[], list[dict[str, float]]] | None = None) -> bool:
        """Log and evaluate where it is due; return whether a line of metrics was due.

        Args:
            stride: env steps since the last call.
            extra: gives further metrics, for every seed; called where a line is due.
        """
        run, config, clock = self.run, self.run.config, self.run.clock
        lines: list[dict[str, float]] = [{} for _ in run.seeds]
        at_goal, evaluated = clock.env_steps >= self.goal, False
        if clock.passed(config.log_every, stride) or at_goal:
            parts = [run.sums.take()]
            if extra is not None:
                parts.append(extra())
            if run.updates.captures:
                parts.append(self._how_updates_ran())
            if clock.failed_saves:
                parts.append([{"ckpt/failed": clock.failed_saves} for _ in lines])
            parts += [plugin.numbers() for plugin in run.plugins.values()]
            _merge(lines, parts)
        if clock.passed(config.eval_every, stride) or (at_goal and config.eval_every):
            try:
                _merge(lines, [evaluation(run, self.best, self.stop)])
                evaluated = True
            except Abandoned:
                clock.owes_evaluation = 1
        self._log(lines, evaluated=evaluated)
        if lines[0]:
            self.stopped_by = run.hooks.callbacks.reason()
        self.recorder.tick(clock.env_steps, clock.updates)
        return bool(lines[0])

    def _how_updates_ran(self) -> list[dict[str, float]]:
        """Return whether they were graphs, for the lines; in words it goes to meta.json."""
        mode = self.run.updates.mode
        if mode != self._mode and ranks.rank() == 0:
            self._mode = mode
            self.folder.amend_meta({"updates": mode})
            self.recorder.note(f"updates: {mode}")
        return [{"updates/graphed": float(mode.startswith("graph"))} for _ in self.run.seeds]

    def _log(self, lines: list[dict[str, float]], *, evaluated: bool) -> None:
        """Write the lines of all seeds, and tell the callbacks."""
        clock, callbacks = self.run.clock, self.run.hooks.callbacks
        if ranks.rank() == 0:
            for seed, line in zip(self.run.seeds, lines, strict=True):
                if line:
                    owner = seed if len(lines) > 1 else None
                    self.recorder.log(clock.env_steps, clock.updates, line, seed=owner)
                    named = {} if owner is None else {"seed": owner}
                    callbacks.log({"step": clock.env_steps, "updates": clock.updates, **named, **line})
        if evaluated:
            seen = (clock.env_steps, clock.updates, clock.evaluations, tuple(lines))
            callbacks.evaluated(Evaluation(*seen, self.run, self.recorder))

    def save_when_due(self, stride: int) -> None:
        """Save where a checkpoint is due or a signal came, which ends the run; `finish` saves the last step.

        Args:
            stride: env steps since the last call.
        """
        clock, pause = self.run.clock, self.run.hooks.pause
        stopped = ranks.any_of(self.stop is not None and self.stop.stop is not None)
        stopped = stopped or (pause is not None and clock.env_steps >= pause)
        if clock.env_steps >= self.goal and not clock.owes_evaluation:
            return
        if stopped or clock.passed(self.run.config.checkpoint_every, stride):
            self._save(final=stopped)
            self.interrupted = stopped

    def finish(self) -> TrainResult:
        """Save what is not saved yet; return how the run ended.

        Raises:
            DataError: the last checkpoint could not be written.
        """
        clock = self.run.clock
        if self._saved_at != clock.env_steps:
            self._save(final=True)
        returns = clock.best_return, clock.last_return
        ended = (self.interrupted, clock.env_steps, clock.updates, *returns, self.recorder.seconds)
        result = TrainResult(*ended, stopped_by="" if self.interrupted else self.stopped_by)
        self.folder.mark_stopped(clock.env_steps, result.stopped_by)
        config = self.run.config
        more = isinstance(config, OfflineConfig) and config.then_online > 0  # its updates on data are done
        if not more or result.interrupted or result.stopped_by:
            self.run.hooks.callbacks.end(result)
        return result

    def _save(self, *, final: bool) -> None:
        read_guard(self.run, self.guard)
        written: list[Path] = []

        def write() -> bool:
            path = save(self.run, self._store, self.recorder, final=final)
            written.extend([path] if path is not None else [])
            return path is not None

        save_together(write, self.run.agent, self.run.clock)
        self._saved_at = self.run.clock.env_steps
        for path in written:
            self.run.hooks.callbacks.saved(path)


def _merge(lines: list[dict[str, float]], parts: list[list[dict[str, float]]]) -> None:
    """Add to every seed's line its own of each part; a part may have fewer than there are seeds."""
    for part in parts:
        for line, more in zip(lines, part, strict=False):
            line |= more


def evaluation(
    run: Run, best: BestWeights | None = None, stop: StopFlag | None = None
) -> list[dict[str, float]]:
    """Evaluate every seed's agent; return a line of metrics for each.

    The seeds depend on the number of evaluations alone, so training's random streams do not move. Of several
    processes the first evaluates, and the others wait where they next need it.

    Args:
        run: whose agents.
        best: keeps those that are better than before.
        stop: set, an evaluation that does not end soon is given up.

    Raises:
        Abandoned: it was.
    """
    clock, count = run.clock, run.config.eval_episodes
    if ranks.rank():
        clock.evaluations += 1
        return [{} for _ in run.seeds]
    firsts = [seed + clock.evaluations * count for seed in run.streams.seeds("eval")]
    seeds, trace = env_seeds(firsts, count), value_trace(run.agent)
    begin = chosen_stocks(run.agent, run.eval_env)
    heard = stop if ranks.size() == 1 else None  # ranks go on together: none may leave on its own
    episodes = evaluate(run.policy, run.eval_env, seeds=seeds, trace=trace, begin=begin, stop=heard)
    metrics = [summary(of_seed) for of_seed in per_seed(episodes, len(firsts))]
    if run.reference is not None:
        for line in metrics:
            if run.reference.measure in line:
                line["eval/score"] = run.reference.score(line[run.reference.measure])
    clock.evaluations += 1
    mean = sum(line["eval/return_mean"] for line in metrics) / len(metrics)
    clock.last_return, clock.evaluated = mean if math.isfinite(mean) else None, clock.updates
    clock.owes_evaluation = 0
    if best is not None:
        best.consider(metrics, firsts)
    return metrics


def save(run: Run, store: CheckpointStore, recorder: Recorder, *, final: bool) -> Path | None:
    """Write a checkpoint and return it; a failed one is a warning, and costs the run at its end alone."""
    tensors, documents = snapshot(run, recorder)
    for attempt in range(FINAL_SAVE_TRIES if final else 1):
        chunks = [
            SavedChunk(
                name=chunk.name,
                version=chunk.version,
                rows=partial(dict, chunk.rows),
                nbytes=sum(t.numel() * t.element_size() for t in chunk.rows.values()),
            )
            for chunk in run.replay.chunks()
        ]
        try:
            return store.save(
                run.clock.env_steps,
                tensors=tensors,
                documents=documents,
                chunks=chunks,
                config_digest=run.digest,
                score=run.clock.last_return if run.clock.evaluated == run.clock.updates else None,
                written_by=machine.maker(run.device),
            )
        except CheckpointWriteError as error:
            run.clock.failed_saves += 1
            logger.warning("%s", error)
            if final and attempt + 1 == FINAL_SAVE_TRIES:
                raise
    return None
