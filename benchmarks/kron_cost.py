"""Measures what an update of SAC costs with Adam and with Kron, in CPU seconds of one thread.

Kron refreshes its factors at every one of its first 500 steps and at every 34th after 4,007; both are
measured, the second by beginning there. Batches are random numbers of HalfCheetah's sizes.
"""

import csv
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from workload import SPACES, random_batch

from rlsuite.agents.base import make_generators
from rlsuite.agents.kron import Kron
from rlsuite.agents.sac import SAC, SACConfig
from rlsuite.bounds import AtLeastOne, check_bounds
from rlsuite.command.arguments import parse

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp 2 x 256": {"hidden": (256, 256)},
    "multiskip 512, 4 blocks": {"network": "multiskip", "hidden": (512,) * 5},
}
LATE = 5_000  # steps after which every 34th refreshes
PERIOD = 34


@dataclass(frozen=True, kw_only=True)
class KronCostArgs:
    """Times SAC's updates with Adam, with Kron as it begins, and with Kron as it goes on."""

    batch_size: AtLeastOne = 256
    """Transitions of an update."""
    repeats: AtLeastOne = 1
    """Times each is measured; the table has the least."""
    out: Path = Path("benchmarks/results/kron_cost.csv")
    """The table."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


def milliseconds(
    optimizer: Literal["adam", "kron"], late: bool, fields: dict[str, Any], args: KronCostArgs
) -> float:
    """Return the CPU time of an update, the least of `repeats` means over as many updates as refresh once."""
    agent = SAC(SPACES, SACConfig(optimizer=optimizer, **fields), make_generators(0))
    batch, count = random_batch(args.batch_size), PERIOD if late else 5
    agent.update(batch)
    for each in agent.followers:
        assert isinstance(each, Kron)
        each.count.fill_(LATE if late else 1)
        each.followed.copy_(each.count)
    means = []
    for _ in range(args.repeats):
        begun = time.process_time()
        for _ in range(count):
            agent.update(batch)
        means.append((time.process_time() - begun) / count)
    return 1_000 * min(means)


def main(argv: list[str]) -> None:
    """Write the table."""
    args = parse(KronCostArgs, argv, prog="benchmarks/kron_cost.py", description=str(KronCostArgs.__doc__))
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("networks", "optimizer", "refreshes", "cpu_ms", "times_adam"))
        for name, fields in NETWORKS.items():
            adam = milliseconds("adam", True, fields, args)
            rows = [("adam", "none", adam)]
            rows.append(("kron", "1 in 34", milliseconds("kron", True, fields, args)))
            rows.append(("kron", "all", milliseconds("kron", False, fields, args)))
            for optimizer, share, cost in rows:
                table.writerow((name, optimizer, share, round(cost, 2), round(cost / adam, 2)))
                print(name, optimizer, share, round(cost, 2), round(cost / adam, 2), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
