"""CUDA graphs of whole updates: sampling, update, sums and guard of several of them in one launch.

An update launches some three hundred small kernels, and what surrounds it some sixty more; on a GPU launching
them costs more than running them. A graph replays all of them in one launch. What a graph may get silently
wrong (a stale address, a random stream that stands still) shows as a difference to eager updates, so that
comparison comes first.
"""

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rlsuite.agents.base import Agent
from rlsuite.blocks.noise import generators_of
from rlsuite.replay.batch import Batch, columns_of
from rlsuite.training import state
from rlsuite.training.guard import LearnerGuard

logger = logging.getLogger(__name__)

Update = Callable[[Any], dict[str, Tensor]]
Launch = Callable[[], object]
Key = tuple[Any, ...]

CHECKED_LAUNCHES = 2  # compared: the second one runs on moments and random streams that the first one moved
# What a graph may be off by, in root mean squares of each tensor: rounding moves a weight in Adam's first
# steps by twice the rate wherever it changes the sign of a gradient near zero. A run from weights that differ
# in the last bit says how far that goes here, and some signs will change there and not in the graph.
ROUNDING = 2.0**-23
SPREADS, MOVED, SCALE = 10.0, 0.02, 1e-6


class Sampled(Protocol):
    """A replay whose batches depend on nothing that the last update left."""

    def batches(self, count: int) -> list[Batch]:
        """Draw batches; on a CUDA device without a word to the host."""


@dataclass(slots=True)
class Chain:
    """Updates in a row with all that surrounds them: on a device, no word to the host.

    Attributes:
        agent: its `update_count` says where in its period the chain begins.
        update: `agent.update`, or the same compiled.
        replay: where batches come from.
        generators: all random streams that are drawn from.
        sums: metrics are added up in it.
        guard: looks at metrics, or None.
        precision: makes the context of an update.
        number: of the last update, `[1]`, for the guard's dump.
    """

    agent: Agent
    update: Update
    replay: Sampled
    generators: tuple[torch.Generator, ...]
    sums: state.RunningSums
    guard: LearnerGuard | None
    precision: Callable[[], AbstractContextManager[Any]]
    number: Tensor

    def __call__(self, count: int) -> Counter[str]:
        """Make `count` updates; return how often each metric came."""
        names: Counter[str] = Counter()
        for batch in self.replay.batches(count):
            with self.precision():
                metrics = self.update(batch)
            self.number += 1
            self.sums.add_in_place(metrics)
            names.update(metrics.keys())
            if self.guard is not None:
                self.guard.check(metrics, columns_of(batch), self.number)
        return names

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a launch writes and the next one reads, random streams aside."""
        agent = state.agent_tensors(self.agent)
        del agent[state.UPDATE_COUNT]  # the host's, and no memory of the agent's
        parts = {"agent": agent, "moments": state.optimizer_tensors(self.agent), "sums": self.sums.in_place}
        parts["guard"] = {} if self.guard is None else self.guard.tensors()
        named = {f"{part}.{name}": t for part, tensors in parts.items() for name, t in tensors.items()}
        return named | {"number": self.number}


def cuda_graph(work: Launch, generators: Iterable[torch.Generator], pool: Any) -> Launch:
    """Record `work` on a side stream, as CUDA asks, and return its replay; its state must exist already."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    collecting = gc.isenabled()
    gc.disable()  # freeing device memory would end the recording
    try:
        # thread_local: what loggers and the watchdog do meanwhile is not ours.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            work()
    finally:
        if collecting:
            gc.enable()
    return graph.replay


@dataclass(slots=True)
class GraphedUpdates:
    """Launches of a chain, one graph for every number of updates and place in the agent's period.

    Attributes:
        chain: what is recorded.
        record: makes a replay of work; replaced in tests.
        refusal: why updates stay eager, "" as long as none was refused.
    """

    chain: Chain
    record: Callable[[Launch, Iterable[torch.Generator], Any], Launch] = cuda_graph
    refusal: str = ""
    _graphs: dict[Key, tuple[Launch, Counter[str]]] = field(default_factory=dict)
    _pool: Any = None

    def launch(self, count: int, number: int) -> bool:
        """Make `count` updates, the last one being the run's `number`-th, or none and return False.

        The first launch of its kind compares the graph with eager updates, which leaves no trace.
        """
        agent = self.chain.agent
        first = agent.update_count
        key = (count, *self._phases(first, count))
        if not self.refusal and key not in self._graphs:
            self._admit(key, first, count)
        if self.refusal:
            return False
        replay, names = self._graphs[key]
        self.chain.number.fill_(number - count)
        replay()
        agent.update_count = first + count
        self.chain.sums.count(names)
        return True

    def _phases(self, first: int, count: int) -> list[tuple[Any, ...]]:
        agent, phases = self.chain.agent, []
        for number in range(first, first + count):
            agent.update_count = number
            phases.append(tuple(agent.phase().items()))
        agent.update_count = first
        return phases

    def _admit(self, key: Key, first: int, count: int) -> None:
        """Record a graph and keep it if it does what eager updates do; everything is left as it came."""
        chain, agent, before = self.chain, self.chain.agent, _Snapshot(self.chain)
        drawn: dict[torch.Generator, None] = {}  # streams that moved; to each replay every other is a burden

        def launched(work: Launch) -> dict[str, Tensor]:
            for _ in range(CHECKED_LAUNCHES):
                agent.update_count = first
                work()
            drawn.update(dict.fromkeys(before.moved()))
            kept = {name: t.clone() for name, t in chain.tensors().items() if name.startswith("agent.")}
            before.restore()
            return kept

        try:
            eager = launched(lambda: chain(count))
            self._nudge()
            near = launched(lambda: chain(count))
            start = {name: t.clone() for name, t in chain.tensors().items() if name in eager}
            if self._pool is None and chain.number.is_cuda:
                self._pool = torch.cuda.graph_pool_handle()
            names: list[Counter[str]] = []
            agent.update_count = first
            replay = self.record(lambda: names.append(chain(count)), list(drawn), self._pool)
            graphed = launched(replay)
        except RuntimeError as error:
            before.restore()
            self.refusal = f"they could not be captured ({str(error).splitlines()[0]})"
        else:
            wrong = [n for n, t in eager.items() if _differs(graphed[n], t, near[n], start[n])]
            if wrong:
                self.refusal = f"captured ones gave another {', '.join(wrong[:3])}"
            else:
                self._graphs[key] = replay, names[0]
        if self.refusal:
            self._graphs.clear()
            logger.warning("updates stay eager: %s", self.refusal)
        agent.update_count = first

    @torch.no_grad()
    def _nudge(self) -> None:
        """Change weights in their last bit, about."""
        for parameter in self.chain.agent.parameters():
            signs = torch.arange(parameter.numel(), device=parameter.device).remainder(2).mul(2).sub(1)
            parameter.mul_(1 + ROUNDING * signs.to(parameter.dtype).view_as(parameter))


def _differs(graphed: Tensor, eager: Tensor, near: Tensor, start: Tensor) -> bool:
    """Return whether a graph's tensor is off by more than rounding may do."""

    def rms(tensor: Tensor) -> float:
        return float(tensor.square().mean().sqrt()) if tensor.numel() else 0.0

    graphed, eager, near, start = (tensor.double() for tensor in (graphed, eager, near, start))
    allowed = SPREADS * rms(near - eager) + MOVED * rms(eager - start) + SCALE * rms(eager)
    return not rms(graphed - eager) <= allowed  # a nan is no equal


class _Snapshot:
    """Everything that a chain changes, put back in place: a graph keeps the addresses."""

    def __init__(self, chain: Chain) -> None:
        self.chain, self.count = chain, chain.agent.update_count
        self.tensors = {name: t.clone() for name, t in chain.tensors().items()}
        self.generators = [generator.get_state() for generator in chain.generators]

    def moved(self) -> list[torch.Generator]:
        """Return the random streams that were drawn from since."""
        pairs = zip(self.chain.generators, self.generators, strict=True)
        return [generator for generator, saved in pairs if not torch.equal(generator.get_state(), saved)]

    @torch.no_grad()
    def restore(self) -> None:
        """Put tensors (zero where there were none), random streams and count back."""
        self.chain.agent.update_count = self.count
        for name, tensor in self.chain.tensors().items():
            if name in self.tensors:
                tensor.copy_(self.tensors[name])
            else:
                tensor.zero_()
        for generator, saved in zip(self.chain.generators, self.generators, strict=True):
            generator.set_state(saved)


def chain_of(
    agent: Agent,
    update: Update,
    replay: Any,
    sums: state.RunningSums,
    guard: LearnerGuard | None,
    precision: Callable[[], AbstractContextManager[Any]],
) -> Chain:
    """Return the chain of a run's updates; see `Chain`."""
    sources = (*agent.generators.values(), replay.generator)
    generators = dict.fromkeys(generator for source in sources for generator in generators_of(source))
    number = torch.zeros(1, dtype=torch.int64, device=next(agent.parameters()).device)
    return Chain(agent, update, replay, tuple(generators), sums, guard, precision, number)
