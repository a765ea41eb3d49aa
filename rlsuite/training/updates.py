"""Carry out a run's updates as they are, compiled, or replayed as CUDA graphs."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch import Tensor

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent, StagedAgent
from rlsuite.agents.compiled import CompiledUpdate, compiled, kernel_folder, obstacle
from rlsuite.errors import ConfigError
from rlsuite.runs.config import LearnConfig, updates_of
from rlsuite.training.graphs import GraphedUpdates, chain_of
from rlsuite.training.guard import LearnerGuard
from rlsuite.training.state import RunningSums

logger = logging.getLogger(__name__)

Update = Callable[[Any], dict[str, Tensor]]

REPAID = 20_000  # updates of two layers of 256: building takes 20 to 40 s, and each is then 2 to 3 ms shorter
Mode = Literal["off", "on"]
EAGER: Mode = "off"
COMPILED: Mode = "on"


def compile_mode(
    agent_class: type[Agent], agent_config: Any, config: LearnConfig, device: str
) -> tuple[Mode, str]:
    """Return whether a run that begins now compiles its updates, "on" or "off", and why, in words.

    Args:
        agent_class: the algorithm.
        agent_config: an instance of its `Config`.
        config: of the run; its `compile` decides, and where that is "auto" the length of the run.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: compiled updates are asked for and cannot be had.
    """
    if config.compile == "off":
        return EAGER, "as asked"
    reason = obstacle(agent_class, agent_config, device)
    if ranks.size() > 1:
        reason = "several processes train together, and exchange gradients within updates"
    if config.compile == "on":
        if reason:
            raise ConfigError(f"--compile on: updates cannot be compiled: {reason}; leave it out or take off")
        return COMPILED, "as asked"
    if reason:
        return EAGER, reason
    if device == "cuda":
        return EAGER, "on CUDA they are replayed as graphs; --compile on compiles them first"
    if (updates := updates_of(config)) < REPAID:
        return EAGER, f"{updates:,} updates would not repay compiling them ({REPAID:,} do; --compile on)"
    return COMPILED, f"{updates:,} updates repay it"


class Updates:
    """Carries out the updates of one agent, eagerly wherever somebody looks into them.

    Args:
        agent: of the run.
        mode: "on" compiles, "off" does not.
        graphs: on CUDA, replay updates as graphs, after a check that these do the same.
    """

    def __init__(self, agent: Agent, mode: Mode, *, graphs: bool) -> None:
        self.agent = agent
        on_cuda = next(agent.parameters()).device.type == "cuda"
        # Messages between processes are not captured, stages change what an update does, and so do optimisers
        # whose refreshes the host decides on.
        plain = not isinstance(agent, StagedAgent) and not agent.followers
        self.captures = graphs and on_cuda and ranks.size() == 1 and plain
        self._fast: Update = compiled(agent) if mode == COMPILED else self._eager
        self._graphs: GraphedUpdates | None = None
        self.tell: Callable[[str], object] = logger.info

    def _eager(self, batch: Any) -> dict[str, Tensor]:
        return self.agent.update(batch)

    def graphs(
        self,
        replay: Any,
        sums: RunningSums,
        guard: LearnerGuard | None,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> GraphedUpdates:
        """Return the graphs of these updates and what surrounds them; see `Chain` for the arguments."""
        known = None if self._graphs is None else self._graphs.chain
        if known is None or known.guard is not guard or known.replay is not replay:
            self._graphs = GraphedUpdates(chain_of(self.agent, self._fast, replay, sums, guard, precision))
        assert self._graphs is not None
        return self._graphs

    @property
    def mode(self) -> str:
        """How updates run that nobody watches, in words; on CUDA known after the first ones."""
        code = "compiled" if isinstance(self._fast, CompiledUpdate) else "eager"
        if not self.captures:
            return code
        if self._graphs is None:
            return f"{code}, not yet captured"
        return f"{code}: {self._graphs.refusal}" if self._graphs.refusal else f"graph of {code} code"

    def __call__(self, batch: Any, *, watched: bool = False) -> dict[str, Tensor]:
        """Take one gradient step on `batch`; return metrics.

        Args:
            batch: replayed transitions.
            watched: hooks and gradients of this update are wanted: it runs eagerly.
        """
        if watched:
            return self.agent.update(batch)
        if not isinstance(self._fast, CompiledUpdate) or self._fast.knows(batch):
            return self._fast(batch)
        begun = time.perf_counter()
        metrics = self._fast(batch)
        seconds = time.perf_counter() - begun
        self.tell(f"an update was compiled in {seconds:.0f} s; its kernels are kept in {kernel_folder()}")
        return metrics
