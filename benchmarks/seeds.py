"""What several seeds cost: in one process along an axis, one after the other, or in processes of their own.

One unit of work is one env step, and the update it earns, of one seed. All contenders are worker processes of
this file that stay alive, so that the rounds of a race find them warm.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from races import Contender, Row, race, write_csv

from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.training.assembly import build
from rlsuite.training.online import train_steps

WARMUP = 1_000  # env steps before the first update


class Worker:
    """A process that trains `seeds` seeds together with `threads` threads, and says when it is done."""

    def __init__(self, agent: str, env: str, seeds: int, threads: int, device: str) -> None:
        words = ["--worker", agent, env, str(seeds), str(threads), device]
        # A thread that spins while it waits takes a core from the other processes of the race.
        waiting = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        variables = {**os.environ, **waiting, "RL_LOGGING_LEVEL": "WARNING"}  # TorchRL logs to stdout
        self.seeds = seeds
        self.process = subprocess.Popen(
            [sys.executable, __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
            text=True,
        )
        self.wait()

    def start(self, units: int) -> None:
        """Ask for `units` seed steps, rounded up to a step of every seed."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{-(-units // self.seeds)}\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Wait until what was asked for is done."""
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "done":
            raise RuntimeError(f"a worker with {self.seeds} seeds died; its error is above")


def serve(agent: str, env: str, seeds: int, threads: int, device: str) -> None:
    """Train as many env steps as each line of the standard input says."""
    torch.set_num_threads(threads)
    kind = agent_class(agent)
    config = TrainConfig(
        env=env,
        seeds=seeds,
        threads=threads,
        device="cuda" if device == "cuda" else "cpu",
        warmup_steps=WARMUP,
        replay_size=100_000,
        eval_episodes=1,
    )
    run = build(kind, kind.Config(), config)
    train_steps(run, WARMUP + 100)
    print("done", flush=True)
    for line in sys.stdin:
        train_steps(run, int(line))
        if device == "cuda":
            torch.cuda.synchronize()
        print("done", flush=True)


def together(name: str, workers: Sequence[Worker]) -> Contender:
    """Return the contender whose work is shared out equally among workers that run at the same time."""

    def work(count: int) -> None:
        for worker in workers:
            worker.start(-(-count // len(workers)))
        for worker in workers:
            worker.wait()

    return Contender(name, work)


def main() -> None:
    """Race one seed, all seeds in one process, and processes with their share; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="dsac_t")
    parser.add_argument("--env", default="HalfCheetah")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="CSV file")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    line = parser.parse_args()
    if line.worker:
        agent, env, seeds, threads, device = line.worker
        serve(agent, env, int(seeds), int(threads), device)
        return
    seeds, threads = line.seeds, line.threads

    def worker(own: int, cores: int) -> Worker:
        return Worker(line.agent, line.env, own, cores, line.device)

    contenders = [
        together("one seed after the other", [worker(1, threads)]),
        together(f"{seeds} seeds in one process", [worker(seeds, threads)]),
        together(f"{threads} processes, one thread each", [worker(1, 1) for _ in range(threads)]),
        together(
            f"{threads} processes, {seeds // threads} seeds each",
            [worker(seeds // threads, 1) for _ in range(threads)],
        ),
    ]
    rows: list[Row] = []
    title = f"{seeds} seeds of {line.agent} on {line.env}, {line.device}"
    for row in race(title, "seed steps/s", contenders, seconds=line.seconds, rounds=line.rounds):
        rows.append(row)
        print(f"{row.contender:34} {row.per_second:9,.1f} {row.unit} x{row.ratio:.2f}", flush=True)
    if line.out:
        write_csv(line.out, rows, threads)


if __name__ == "__main__":
    main()
