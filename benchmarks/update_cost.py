"""Measures what an update of each agent costs in CPU time: eager, compiled, and compiled in bfloat16.

Batches are random numbers of HalfCheetah's sizes, with every column that an agent of recorded data may
ask for. The modes of an agent take turns; a result is the median of its turns. Agents that learn in stages or
from rollouts (ldcq, mbrcsl, ppo) have no such update; FQL and floq are measured by flow_cost.py.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from races import median_cpu_ms, write_measured
from workload import SPACES, random_batch

from rlsuite.agents.base import make_generators
from rlsuite.agents.compiled import compiled
from rlsuite.bounds import AtLeastOne, check_bounds
from rlsuite.command.arguments import parse
from rlsuite.launch.plan import resolve
from rlsuite.registry import agent_traits
from rlsuite.replay.batch import Batch

ENV, DATA = "HalfCheetah-v5", "halfcheetah-medium-v2"
Mode = Literal["eager", "compiled", "bfloat16"]
ONLINE = (
    *("sac", "td3", "dsac_t", "stac", "quantile_dsac"),
    *("simba_sac:narrow", "dsac_flash:narrow", "tqc:small", "crossq:small"),
)
OFFLINE = (
    *("bc", "iql", "iql:xql", "iql:f_dvl", "famo2o", "odice", "recoil"),
    *("awac", "td3_bc", "rebrac", "a2pr", "cql"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateCostArgs:
    """Measures CPU milliseconds of an update of agents, one thread."""

    agents: tuple[str, ...] = (*ONLINE, *OFFLINE)
    """AGENT or AGENT:PRESET each."""
    modes: tuple[Mode, ...] = ("eager", "compiled", "bfloat16")
    """Eager; compiled; compiled under --mixed-precision. Compiling takes about a minute an agent at first."""
    turns: AtLeastOne = 5
    """Turns, whose median is the result."""
    updates: AtLeastOne = 20
    """Updates of a turn."""
    batch_size: AtLeastOne = 256
    """Transitions of an update."""
    out: Path | None = None
    """CSV to write."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    agent: str
    mode: str
    cpu_ms: float
    updates_per_s: float
    """1,000 over `cpu_ms`: updates a second of one core."""


def work_of(agent_name: str, mode: Mode, batch: Batch) -> Callable[[], Any]:
    """Return a call that updates a new agent once."""
    name, _, preset = agent_name.partition(":")
    task = ["--env", ENV] if agent_traits(name)[0] == "online" else ["--dataset", DATA]
    plan = resolve(name, [*task, *(["--preset", preset] if preset else [])])
    agent = plan.agent_class(SPACES, plan.config.agent, make_generators(0))
    update = partial(agent.update if mode == "eager" else compiled(agent), batch)
    if mode != "bfloat16":
        return update

    def mixed() -> Any:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # as the training loop has it
            return update()

    return mixed


def measure(agent_name: str, line: UpdateCostArgs) -> list[Row]:
    """Return an agent's row for every mode."""
    batch = random_batch(line.batch_size)
    works = {str(mode): work_of(agent_name, mode, batch) for mode in line.modes}
    medians = median_cpu_ms(works, line.turns, line.updates)
    return [Row(agent_name, mode, ms, 1e3 / ms) for mode, ms in medians.items()]


def main(argv: Sequence[str]) -> None:
    """Measure and print; write where asked, after every agent."""
    line = parse(UpdateCostArgs, argv, prog="update_cost.py")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in line.agents:
        rows += (new := measure(name, line))
        for row in new:
            print(
                f"{row.agent:20} {row.mode:9} {row.cpu_ms:8.2f} ms {row.updates_per_s:7.1f} a second",
                flush=True,
            )
        if line.out is not None:
            write_measured(line.out, rows, threads=1)


if __name__ == "__main__":
    main(sys.argv[1:])
