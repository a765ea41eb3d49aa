"""An agent's update as one compiled function.

Only the whole update pays: compiled losses alone gain nothing over eager code, while the whole, with
gradients, Adam and targets in one graph, takes two thirds to five sixths of the time. Numbers agree with
eager ones to rounding; a run stays in one mode from its first update to its last.
"""

import copy
import os
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.utils._pytree import tree_leaves

from rlsuite.agents.base import Agent
from rlsuite.blocks.noise import GivenNoise, PlannedNoise, generators_of
from rlsuite.errors import ConfigError

Update = Callable[[Any], dict[str, Tensor]]

SHOWN = 300  # characters of a compiler's message
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
SWITCH = "trace_autograd_ops"  # of torch.compile, for torch.autograd.grad inside it; torch 2.13 has it first


def obstacle(cls: type[Agent], config: Any, device: torch.device | str = "cpu") -> str | None:
    """Return why updates of such an agent cannot be compiled on this machine, in words, or None.

    Args:
        cls: the algorithm.
        config: an instance of its `Config`.
        device: where it will live.
    """
    if not hasattr(dynamo, SWITCH):
        return f"torch {torch.__version__} cannot compile gradients (2.13 can)"
    if cls.update is not Agent.update or cls.learn is Agent.learn:
        return f"{cls.__name__} has an update of its own instead of `learn`"
    if torch.device(device).type == "cpu" and compiler() is None:
        return "there is no C++ compiler (g++ or clang++)"
    return cls.obstacle(config)


def compiler() -> str | None:
    """Return the C++ compiler that torch would call, or None."""
    return shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")


def compiled(agent: Agent) -> "CompiledUpdate":
    """Return `agent.update` as one compiled function, built at its first call; kernels are kept on disk.

    Raises:
        ConfigError: it cannot be compiled here; the message says why.
    """
    device = next(agent.parameters()).device
    if reason := obstacle(type(agent), agent.config, device):
        raise ConfigError(f"updates cannot be compiled: {reason}")
    folder = kernel_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # torch loads what it finds there
    os.environ[CACHE_VARIABLE] = str(folder)
    # Set for the process and not around calls: a call that must compile again would fail without it, and
    # setting it costs 26 us each time.
    setattr(dynamo, SWITCH, True)
    return CompiledUpdate(agent)


def kernel_folder() -> Path:
    """Return the folder of compiled kernels: the user's, unless `TORCHINDUCTOR_CACHE_DIR` names another."""
    named = os.environ.get(CACHE_VARIABLE)
    if named and named != default_cache_dir():  # torch writes its default into the variable, too
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "rlsuite" / "kernels"


class CompiledUpdate:
    """Callable like `agent.update`, with one graph for every phase and every shape of batches.

    Random numbers are drawn before each call, into the same memory, from the streams and in the order of
    the eager update: what it asks for is noted once, on a copy of the agent. Copies of this object step the
    copied agent.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._graphs: dict[Any, tuple[PlannedNoise, Callable[..., dict[str, Tensor]]]] = {}

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Take one gradient step; see `Agent.update`."""
        agent, phase = self.agent, self.agent.phase()
        tensors = agent.read(batch)
        key = _key(tensors, phase)
        if key not in self._graphs:
            graph = torch.compile(_own_code(_step), fullgraph=True, dynamic=False)
            self._graphs[key] = planned(agent, tensors, phase), graph
        plan, graph = self._graphs[key]
        try:
            metrics = graph(agent, tensors, tuple(plan.redraw()), phase)
        except BackendCompilerFailed as error:
            said = next((line for line in str(error).splitlines() if "error: " in line), str(error))
            raise ConfigError(
                f"torch {torch.__version__} could not compile the update of {type(agent).__name__} "
                f"({said.strip()[:SHOWN]}): --compile off trains without"
            ) from error
        agent.end_update()
        return metrics

    def knows(self, batch: Any) -> bool:
        """Return whether the graph for the next update on such a batch is there already."""
        return _key(self.agent.read(batch), self.agent.phase()) in self._graphs

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledUpdate":
        """Return one for the copy of the agent: compiled functions hold on to the tensors they met."""
        return CompiledUpdate(copy.deepcopy(self.agent, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledUpdate, (self.agent,)


def planned(agent: Agent, tensors: Any, phase: dict[str, Any]) -> PlannedNoise:
    """Return what an update with this batch draws, noted on a copy of the agent; nothing is moved."""
    plan = PlannedNoise(agent.generators["learn"])
    before = [generator.get_state() for generator in generators_of(plan.source)]
    copy.deepcopy(agent).step(tensors, plan, **phase)
    for generator, state in zip(generators_of(plan.source), before, strict=True):
        generator.set_state(state)
    return plan


def _key(tensors: Any, phase: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a graph: the phase, and the shapes of the batch."""
    leaves = tree_leaves(tensors)
    return (*phase.items(), *(x.shape if isinstance(x, Tensor) else x for x in leaves))


def _step(agent: Agent, batch: Any, draws: tuple[Tensor, ...], phase: dict[str, Any]) -> dict[str, Tensor]:
    return agent.step(batch, GivenNoise(draws), **phase)


def _own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy with a code object of its own: graphs count against their code object, eight at most."""
    return types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__
    )
