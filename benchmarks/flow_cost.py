"""Measures what an update of FQL and floq costs in CPU time, eager and compiled, on cube-double's sizes."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from races import median_cpu_ms, write_measured
from workload import random_batch

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.compiled import compiled
from rlsuite.bounds import AtLeastOne, Widths, check_bounds
from rlsuite.command.arguments import parse
from rlsuite.registry import agent_class
from rlsuite.replay.batch import Batch

SPACES = Spaces(observation=37, action=5, half_range=(1.0,) * 5)  # of OGBench's cube-double
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "FQL": ("fql", {}),
    "floq, one step at 0, R 4": ("floq", {"field_steps": 1, "copies": 4, "at_zero": True}),
    "floq, K 4, R 4": ("floq", {"field_steps": 4, "copies": 4}),
    "floq, K 8, R 8": ("floq", {}),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowCostArgs:
    """Measures CPU milliseconds an update of FQL and floq, in turns: one of each, again and again."""

    hidden: Widths = (256, 256)
    """Widths of the hidden layers of all networks."""
    field: Widths | None = None
    """Those of the field; none: the same."""
    turns: AtLeastOne = 7
    """Turns, whose median is the result."""
    updates: AtLeastOne = 10
    """Updates of each in a turn."""
    eager: bool = True
    """Eager updates."""
    compile: bool = True
    """Compiled updates; building them takes minutes."""
    largest: bool = True
    """With K 8 and R 8, which take the longest."""
    out: Path | None = None
    """CSV file."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One agent's update: CPU milliseconds, the median of turns, and how often FQL's in the same mode."""

    agent: str
    hidden: str
    mode: str
    cpu_ms: float
    times_fql: float


def update_of(name: str, fields: dict[str, Any], mode: str) -> Callable[[Batch], Any]:
    """Return an agent's update."""
    cls = agent_class(name)
    agent = cls(SPACES, cls.Config(**fields), make_generators(0))
    return agent.update if mode == "eager" else compiled(agent)


def measure(line: FlowCostArgs) -> list[Row]:
    """Return a row for every agent and mode."""
    batch, width, rows = random_batch(spaces=SPACES), {"hidden": line.hidden}, []
    modes = [mode for mode, wanted in (("eager", line.eager), ("compiled", line.compile)) if wanted]
    cases = {title: case for title, case in CASES.items() if line.largest or case[1] or case[0] == "fql"}
    for mode in modes:
        updates = {}
        for title, (name, fields) in cases.items():
            field = {"hidden_field": line.field} if name == "floq" else {}
            updates[title] = update_of(name, {**fields, **width, **field}, mode)
        works = {title: partial(update, batch) for title, update in updates.items()}
        medians = median_cpu_ms(works, line.turns, line.updates)
        sizes = " x ".join(map(str, line.hidden))
        rows += [Row(title, sizes, mode, ms, ms / medians["FQL"]) for title, ms in medians.items()]
    return rows


def main(argv: Sequence[str]) -> None:
    """Measure and print; write where asked."""
    line = parse(FlowCostArgs, argv, prog="flow_cost.py")
    torch.set_num_threads(1)
    rows = measure(line)
    for row in rows:
        print(f"{row.agent:26} {row.hidden:12} {row.mode:9} {row.cpu_ms:8.2f} ms {row.times_fql:6.2f} x FQL")
    if line.out is not None:
        write_measured(line.out, rows, threads=1)


if __name__ == "__main__":
    main(sys.argv[1:])
