"""The gradient updates of a run: batch after batch, of a rollout, or several in one CUDA graph."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlsuite.agents.base import OnPolicyAgent
from rlsuite.replay.batch import Batch, columns_of
from rlsuite.replay.rollout import RolloutReplay
from rlsuite.replay.windows import WindowReplay
from rlsuite.training import state
from rlsuite.training.assembly import OnlineRun, Run
from rlsuite.training.guard import READ_EVERY, LearnerGuard

CARRIED = "from_rollout"  # what an on-policy agent carries from one rollout to the next, one number an env
LAUNCHED_TOGETHER = 16  # updates of one graph: what a launch costs is then little, and so is recording them


def update(run: Run, guard: LearnerGuard | None, count: int = 1) -> None:
    """Take `count` gradient updates, each on a batch of its own; none where fewer than one is due."""
    replay = run.replay
    if count < 1:
        return
    if isinstance(replay, RolloutReplay):
        learn_from_rollout(run, guard, count)
        return
    if run.updates.captures and not isinstance(replay, WindowReplay):
        launch(run, guard, count)
        return
    if not isinstance(replay, WindowReplay):
        for batch in replay.batches(count):
            update_on(run, guard, batch)
        return
    for _ in range(count):  # the next batch depends on the priorities that the last one left
        batch = replay.sample()
        priority = update_on(run, guard, batch)
        if priority is not None:
            replay.reprioritise(batch.get("index"), priority)


def learn_from_rollout(run: Run, guard: LearnerGuard | None, count: int) -> None:
    """Take the updates of a rollout that is complete; what the agent carries on stays in `run.td`."""
    assert isinstance(run, OnlineRun) and isinstance(run.replay, RolloutReplay)
    assert isinstance(run.agent, OnPolicyAgent)
    agent, steps, lead = run.agent, run.replay.steps(), run.agent.lead
    carried = run.td.get(CARRIED, None)
    if carried is not None and lead:
        carried = carried.unflatten(0, (*lead, -1))
    columns, carried = agent.study(steps, carried)
    for batch in run.replay.minibatches(columns, count):
        update_on(run, guard, batch)
    agent.after_rollout(steps)
    run.td.set(CARRIED, carried.flatten())


def launch(run: Run, guard: LearnerGuard | None, count: int) -> None:
    """Take `count` gradient updates by as few CUDA graphs as may be, and eagerly where there is none."""
    clock, plugins = run.clock, run.plugins.values()
    graphs = run.updates.graphs(run.replay, run.sums, guard, partial(precision, run))
    while count > 0:
        size = 1 if plugins else min(count, LAUNCHED_TOGETHER)
        number = clock.updates + size
        if any(plugin.watches(number) for plugin in plugins) or not graphs.launch(size, number):
            for batch in run.replay.batches(size):
                update_on(run, guard, batch)
        else:
            clock.updates = number
            for plugin in plugins:
                run.sums.add(plugin.after_update(run.agent))
            if number // READ_EVERY != (number - size) // READ_EVERY:
                read_guard(run, guard)
        count -= size


def update_on(run: Run, guard: LearnerGuard | None, batch: Any) -> Tensor | None:
    """Take one gradient update; return new priorities of the batch, where the agent gives them."""
    number = run.clock.updates + 1
    watched = any(plugin.watches(number) for plugin in run.plugins.values())
    with precision(run):
        metrics = run.updates(batch, watched=watched)
    run.clock.updates = number
    priority = metrics.pop("priority", None)
    run.sums.add(metrics)
    if run.hooks.trace is not None:
        run.hooks.trace(run, metrics)
    for plugin in run.plugins.values():
        run.sums.add(plugin.after_update(run.agent))
    if guard is not None:
        guard.check(metrics, columns_of(batch) if isinstance(batch, Batch) else batch, number)
        if number % READ_EVERY == 0:
            read_guard(run, guard)
    return priority


@contextmanager
def products(name: str, device: torch.device) -> Iterator[None]:
    """Let products of float32 on a CUDA device be "tf32" meanwhile, where asked."""
    if device.type != "cuda" or name != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def precision(run: Run) -> AbstractContextManager[Any]:
    """Return the context of updates; a cache of cast weights would outlive them inside a CUDA graph."""
    if not run.config.mixed_precision:
        return nullcontext()
    return torch.autocast(run.device.type, torch.bfloat16, cache_enabled=False)


def read_guard(run: Run, guard: LearnerGuard | None) -> None:
    """Stop on a number that was not finite, with the parts' norms in the dump; before every save, too."""
    if guard is None:
        return

    def norms() -> dict[str, float]:
        return {
            part.name: torch.stack([p.detach().norm() for p in part.module.parameters()]).norm().item()
            for part in run.agent.parts()
        }

    guard.read(norms=norms, tensors=lambda: {"agent": state.agent_tensors(run.agent)})
