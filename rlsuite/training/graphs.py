"""CUDA graphs of an agent's update, used only after they gave what eager code gives.

An update launches some three hundred small kernels; on a GPU launching them costs more than running them. A
graph replays all of them in one launch. What a graph may get silently wrong (a stale address, a random
stream that stands still) shows as a difference to eager updates, so that comparison comes first.
"""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from rlsuite.agents.base import Agent
from rlsuite.blocks.noise import generators_of
from rlsuite.training import state

logger = logging.getLogger(__name__)

Update = Callable[[Any], dict[str, Tensor]]
Factory = Callable[[Agent, Any], Update]

CHECKED_PERIODS = 2  # periods of updates compared: the second one runs on moments that the first one made
RTOL, ATOL = 1e-4, 1e-6  # float32 sums may be reordered; a wrong graph is off by far more


class Captured(NamedTuple):
    """One graph and the tensors its replays write the metrics to."""

    graph: torch.cuda.CUDAGraph
    metrics: dict[str, Tensor]


class GraphedUpdate:
    """`agent.update` as one CUDA graph per position in the agent's period (delayed updates differ).

    The returned metrics are overwritten by the next update at the same position. The state of the
    optimisers must exist already: one eager update per position makes it.
    """

    def __init__(self, agent: Agent, batch: Any) -> None:
        """Capture on a side stream, as CUDA asks; `batch` is copied and fixes shapes and device."""
        self.agent = agent
        self.batch = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, batch)
        self.captured: dict[int, Captured] = {}
        count, pool = agent.update_count, torch.cuda.graph_pool_handle()
        torch.cuda.synchronize()
        for position in range(agent.period):
            agent.update_count = position
            graph = torch.cuda.CUDAGraph()
            for generator in _generators(agent):
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph, pool=pool):
                metrics = agent.update(self.batch)
            self.captured[position] = Captured(graph, metrics)
        agent.update_count = count

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Copy `batch` to where the graph reads and replay it."""
        for ours, given in zip(tree_leaves(self.batch), tree_leaves(batch), strict=True):
            if isinstance(ours, Tensor):
                ours.copy_(given)
        captured = self.captured[self.agent.update_count % self.agent.period]
        captured.graph.replay()
        self.agent.update_count += 1
        return captured.metrics


def verified(agent: Agent, batch: Any, factory: Factory = GraphedUpdate) -> Update:
    """Return `factory`'s update if it equals `agent.update` from the same state, else `agent.update`.

    The agent is left exactly as it came: weights, moments, random streams and count.

    Args:
        agent: any agent; its optimisers may be new.
        batch: replayed rows for the comparison.
        factory: makes the faster update; replaced in tests.
    """
    before = _Snapshot(agent)
    updates = CHECKED_PERIODS * agent.period
    for _ in range(updates):
        agent.update(batch)
    expected = {name: tensor.clone() for name, tensor in state.agent_tensors(agent).items()}
    before.restore()
    try:
        candidate = factory(agent, batch)
        for _ in range(updates):
            candidate(batch)
    except RuntimeError as error:
        logger.warning("updates stay eager: they could not be captured (%s)", str(error).split("\n")[0])
        before.restore()
        return agent.update
    given = state.agent_tensors(agent)
    wrong = [
        name
        for name, tensor in expected.items()
        if not torch.allclose(given[name].double(), tensor.double(), rtol=RTOL, atol=ATOL)
    ]
    before.restore()
    if wrong:
        logger.warning("updates stay eager: captured ones gave another %s", ", ".join(wrong[:3]))
        return agent.update
    return candidate


class _Snapshot:
    """Everything an update changes, put back in place: a graph keeps the addresses."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.tensors = {name: t.clone() for name, t in state.agent_tensors(agent).items()}
        self.moments = {name: t.clone() for name, t in state.optimizer_tensors(agent).items()}
        self.generators = [generator.get_state() for generator in _generators(agent)]

    def restore(self) -> None:
        """Put weights, moments (zero where there were none), random streams and count back."""
        state.load_agent_tensors(self.agent, self.tensors)
        for name, tensor in state.optimizer_tensors(self.agent).items():
            if name in self.moments:
                tensor.copy_(self.moments[name])
            else:
                tensor.zero_()
        for generator, saved in zip(_generators(self.agent), self.generators, strict=True):
            generator.set_state(saved)


def _generators(agent: Agent) -> list[torch.Generator]:
    return [generator for source in agent.generators.values() for generator in generators_of(source)]
