"""Measures updates per second, eager and as the training loop carries them out.

`update` is `agent.update` on one batch, eager. `loop` is what the loop does for one: sample, update, sums,
guard. `sample` is drawing a batch alone. The table is written anew after every line. Needs neither MuJoCo nor
Warp.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from races import write_measured
from tensordict import TensorDict
from workload import ACTION, OBSERVATION, SPACES

from rlsuite.agents.base import make_generators
from rlsuite.registry import agent_class
from rlsuite.replay.uniform import UniformReplay
from rlsuite.training import learning
from rlsuite.training.assembly import Clock
from rlsuite.training.callbacks import Hooks
from rlsuite.training.guard import LearnerGuard
from rlsuite.training.state import RunningSums
from rlsuite.training.updates import EAGER, Updates

WARM_UP = 16  # calls before the clock starts; a graph is captured and compared within
PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True, slots=True)
class Row:
    """One way of updating one agent.

    Attributes:
        agent: name.
        batch: transitions per update and seed.
        precision: of products: float32, tf32 or bf16 (autocast).
        n_step: rewards summed when sampling; 3 also normalises observations, as the massive presets do.
        seeds: agents trained together.
        what: `update`, `loop` or `sample`.
        mode: how the loop's updates ran, `eager` or `graph`.
        per_second: updates of all seeds together.
        host_per_second: the same, were the device infinitely fast: the host's part alone.
        device: where.
    """

    agent: str
    batch: int
    precision: str
    n_step: int
    seeds: int
    what: str
    mode: str
    per_second: float
    host_per_second: float
    device: str


@dataclass(frozen=True, slots=True)
class Case:
    """What one agent is measured with; see `Row`."""

    agent: str
    batch: int
    precision: str
    n_step: int
    seeds: int


def filled(case: Case, envs: int, rows: int, device: torch.device, source: Any) -> UniformReplay:
    """Return a replay of `rows` random transitions for each seed."""
    total = envs * case.seeds
    replay = UniformReplay(
        rows * case.seeds,
        num_envs=total,
        batch_size=case.batch,
        n_step=case.n_step,
        device=device,
        generator=source,
    )
    g = torch.Generator(device).manual_seed(0)
    no = torch.zeros(total, 1, dtype=torch.bool, device=device)

    def random(width: int) -> torch.Tensor:
        return torch.randn(total, width, generator=g, device=device)

    for _ in range(rows // envs):
        after = {"observation": random(OBSERVATION), "reward": random(1)}
        after |= {"terminated": no, "truncated": no, "done": no, "valid": ~no}
        step = {"observation": random(OBSERVATION), "action": random(ACTION).tanh()}
        replay.extend(TensorDict({**step, "next": TensorDict(after, [total])}, [total]))
    return replay


def a_run(case: Case, device: torch.device, rows: int, envs: int) -> Any:
    """Return what the loop's `update` needs of a run, and nothing else."""
    kind = agent_class(case.agent)
    seeds = list(range(case.seeds))
    streams = make_generators(seeds if case.seeds > 1 else 0, device)
    fields = {"normalize_observations": True} if case.n_step > 1 else {}
    lead = (case.seeds,) if case.seeds > 1 else ()
    agent = kind(SPACES, kind.Config(hidden=(256, 256), **fields), streams, device=device, lead=lead)
    source = make_generators(seeds if case.seeds > 1 else 0, device)["act"]
    return SimpleNamespace(
        agent=agent,
        replay=filled(case, envs, rows, device, source),
        updates=Updates(agent, EAGER, graphs=True),
        clock=Clock(),
        sums=RunningSums(case.seeds),
        plugins={},
        hooks=Hooks(),
        device=device,
        config=SimpleNamespace(mixed_precision=case.precision == "bf16"),
    )


def speed(work: Callable[[], object], seconds: float, device: torch.device) -> tuple[float, float]:
    """Return calls per second, and calls that the host queues per second."""
    for _ in range(WARM_UP):
        work()
    _wait(device)
    begun, count = time.perf_counter(), 4
    for _ in range(count):
        work()
    _wait(device)
    count = max(4, int(count * seconds / (time.perf_counter() - begun)))
    begun = time.perf_counter()
    for _ in range(count):
        work()
    host = time.perf_counter() - begun
    _wait(device)
    return count / (time.perf_counter() - begun), count / host


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(case: Case, line: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """Time one case three ways."""
    device = torch.device(line.device)
    torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")
    run = a_run(case, device, line.rows, line.envs)
    guard = LearnerGuard(folder)
    batch = run.replay.batch()

    def eager() -> object:
        with learning.precision(run):
            return run.agent.update(batch)

    def whole() -> None:
        learning.update(cast(Any, run), guard, line.updates)

    place = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    for what, work, each in (
        ("update", eager, 1),
        ("loop", whole, line.updates),
        ("sample", run.replay.batch, 1),
    ):
        per_second, host = speed(work, line.seconds, device)
        mode = run.updates.mode if what == "loop" else "eager"
        yield Row(
            **{name: getattr(case, name) for name in case.__slots__},
            what=what,
            mode=mode,
            per_second=per_second * each * case.seeds,
            host_per_second=host * each * case.seeds,
            device=place,
        )


def cases(line: argparse.Namespace) -> Iterator[Case]:
    """Yield every combination asked for, the most telling ones first."""
    for agent, n_step, batch, precision, seeds in itertools.product(
        line.agents, line.n_steps, line.batches, line.precisions, line.seeds
    ):
        yield Case(agent, batch, precision, n_step, seeds)


def main() -> None:
    """Measure, print, and with --out write the table after every line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--agents", nargs="+", default=["sac", "td3", "dsac_t"])
    parser.add_argument("--batches", nargs="+", type=int, default=[256, 2048, 8192])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32", "tf32"])
    parser.add_argument("--n-steps", nargs="+", type=int, default=[1, 3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--updates", type=int, default=8, help="that the loop makes at once")
    parser.add_argument("--envs", type=int, default=1024, help="per seed, of the replay")
    parser.add_argument("--rows", type=int, default=102_400, help="of the replay, per seed")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--out", type=Path, help="CSV file")
    line = parser.parse_args()
    torch.set_num_threads(line.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(line):
            for row in measure(case, line, Path(folder)):
                rows.append(row)
                print(
                    f"{row.agent:8} batch {row.batch:5} {row.precision:8} n {row.n_step} seeds {row.seeds} "
                    f"{row.what:7} {row.mode:6} {row.per_second:10,.0f} updates/s, "
                    f"host {row.host_per_second:,.0f}",
                    flush=True,
                )
                if line.out:
                    write_measured(line.out, rows, line.threads)


if __name__ == "__main__":
    main()
