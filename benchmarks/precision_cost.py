"""Measures what a compiled update costs in CPU time in float32 and, by --mixed-precision, in bfloat16.

Batches are random numbers of HalfCheetah's sizes. The modes take turns; a result is the median of its turns.
"""

import contextlib
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from races import write_measured

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.compiled import compiled
from rlsuite.bounds import AtLeastOne, check_bounds
from rlsuite.command.arguments import parse
from rlsuite.launch.plan import resolve
from rlsuite.replay.batch import Batch

ENV, OBSERVATION, ACTION = "HalfCheetah-v5", 17, 6
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionCostArgs:
    """Measures CPU milliseconds of a compiled update in float32 and in bfloat16, one thread."""

    agents: tuple[str, ...] = ("sac", "td3", "dsac_t", "stac", "simba_sac:narrow")
    """AGENT or AGENT:PRESET each."""
    turns: AtLeastOne = 7
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
    precision: str
    cpu_ms: float
    times_as_fast: float
    """As in float32."""


def random_batch(rows: int) -> Batch:
    """Return random transitions."""
    g = torch.Generator().manual_seed(0)
    return Batch(
        torch.randn(rows, OBSERVATION, generator=g),
        torch.rand(rows, ACTION, generator=g) * 2 - 1,
        torch.randn(rows, generator=g),
        torch.randn(rows, OBSERVATION, generator=g),
        torch.zeros(rows),
        0.99,
    )


def precise(name: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context of an update in a precision, the training loop's."""
    if name == "float32":
        return contextlib.nullcontext()
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


def update_of(agent_name: str) -> Callable[[Batch], Any]:
    """Return the compiled update of a new agent."""
    name, _, preset = agent_name.partition(":")
    plan = resolve(name, ["--env", ENV, *(["--preset", preset] if preset else [])])
    spaces = Spaces(observation=OBSERVATION, action=ACTION, half_range=(1.0,) * ACTION)
    return compiled(plan.agent_class(spaces, plan.config.agent, make_generators(0)))


def measure(agent_name: str, line: PrecisionCostArgs) -> list[Row]:
    """Return both rows of one agent."""
    batch, updates = random_batch(line.batch_size), {name: update_of(agent_name) for name in PRECISIONS}
    times: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for turn in range(line.turns + 1):
        for name, update in updates.items():
            with precise(name):
                begun = time.process_time()
                for _ in range(line.updates):
                    update(batch)
                if turn:  # the first one builds
                    times[name].append((time.process_time() - begun) / line.updates * 1e3)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return [Row(agent_name, name, ms, medians["float32"] / ms) for name, ms in medians.items()]


def main(argv: Sequence[str]) -> None:
    """Measure and print; write where asked."""
    line = parse(PrecisionCostArgs, argv, prog="precision_cost.py")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in line.agents:
        rows += measure(name, line)
        for row in rows[-2:]:
            print(
                f"{row.agent:20} {row.precision:9} {row.cpu_ms:8.2f} ms {row.times_as_fast:6.2f} x float32",
                flush=True,
            )
        if line.out is not None:
            write_measured(line.out, rows, threads=1)


if __name__ == "__main__":
    main(sys.argv[1:])
