"""A run's own evaluations: of which episodes, and what follows from their numbers."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from rlsuite import distributed as ranks
from rlsuite.runs.signals import StopFlag
from rlsuite.training import state
from rlsuite.training.assembly import Run, env_seeds
from rlsuite.training.best import BestWeights
from rlsuite.training.evaluate import Abandoned, chosen_stocks, evaluate, per_seed, summary
from rlsuite.training.value_error import value_trace


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
    clock = run.clock
    if ranks.rank():
        clock.evaluations += 1
        return [{} for _ in run.seeds]
    count, trace = run.config.eval_episodes, value_trace(run.agent)
    begin = chosen_stocks(run.agent, run.eval_env)
    heard = stop if ranks.size() == 1 else None  # ranks go on together: none may leave on its own
    firsts = next_episodes(run)
    try:
        seeds = env_seeds(firsts, count)
        episodes = evaluate(run.policy, run.eval_env, seeds=seeds, trace=trace, begin=begin, stop=heard)
    except Abandoned:  # it will be made again
        clock.evaluations -= 1
        raise
    metrics = [summary(of_seed) for of_seed in per_seed(episodes, len(firsts))]
    clock.owes_evaluation = 0
    tensors = state.agent_tensors(run.agent)
    conclude(run, best, metrics, firsts, step=clock.env_steps, updates=clock.updates, tensors=tensors)
    return metrics


def next_episodes(run: Run) -> list[int]:
    """Return the seed of every agent's first episode in the run's next evaluation, which is counted."""
    before = run.clock.evaluations * run.config.eval_episodes
    run.clock.evaluations += 1
    return [seed + before for seed in run.streams.seeds("eval")]


def conclude(
    run: Run,
    best: BestWeights | None,
    metrics: list[dict[str, float]],
    firsts: Sequence[int],
    *,
    step: int,
    updates: int,
    tensors: Mapping[str, Tensor],
) -> None:
    """Score an evaluation, note it on the clock, keep the agents that are better than before.

    Args:
        run: whose agents.
        best: keeps them.
        metrics: a line of every seed; scores are added.
        firsts: seed of every agent's first episode.
        step, updates, tensors: of the run and the agents when it was made.
    """
    if run.reference is not None:
        for line in metrics:
            if run.reference.measure in line:
                line["eval/score"] = run.reference.score(line[run.reference.measure])
    mean = sum(line["eval/return_mean"] for line in metrics) / len(metrics)
    run.clock.last_return, run.clock.evaluated = mean if math.isfinite(mean) else None, updates
    if best is not None:
        best.consider(metrics, firsts, step=step, updates=updates, tensors=tensors)
