"""Measures how fast engine warp steps, by task and number of envs, and the memory of an env."""

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from races import write_measured

from rlsuite.envs.engines.warp_options import WarpOptions
from rlsuite.envs.make import make_env
from rlsuite.envs.mujoco import MujocoEnv
from rlsuite.errors import EnvironmentFailure

TASKS = ("HalfCheetah", "Ant", "Humanoid")
WORLDS = (1024, 4096, 16384)
WARM_UP = 20  # vector steps before the clock starts


@dataclass(frozen=True, slots=True)
class Row:
    """One task with one number of worlds.

    Attributes:
        task: name.
        worlds: stepped together.
        njmax: room for constraint rows of each; 0 is what the engine measures.
        nconmax: room for contacts of each, likewise.
        device: where.
        env_steps_per_second: random actions, environment and masked resets included; median of the rounds.
        engine_steps_per_second: the physics of env steps alone.
        lowest: env steps per second of the slowest round.
        highest: of the fastest.
        first_seconds: until the first step is done, compiling and recording kernels included.
        array_bytes_per_world: of MuJoCo Warp's arrays.
        device_bytes_per_world: what the device has less afterwards, per world; 0 on a CPU.
        nan_resets: worlds that broke down.
    """

    task: str
    worlds: int
    njmax: int
    nconmax: int
    device: str
    env_steps_per_second: float
    engine_steps_per_second: float
    lowest: float
    highest: float
    first_seconds: float
    array_bytes_per_world: int
    device_bytes_per_world: int
    nan_resets: int


def measure(
    task: str, worlds: int, device: torch.device, room: WarpOptions, *, seconds: float, rounds: int
) -> Row:
    """Time one task; raises EnvironmentFailure where contacts had no room."""
    from rlsuite.envs.engines.warp import bytes_per_env

    free = _free_bytes(device)
    start = time.perf_counter()
    env = make_env(task, worlds, engine="warp", device=device, warp=room)
    assert isinstance(env, MujocoEnv)
    g = torch.Generator(device).manual_seed(0)
    ctrl = torch.zeros(env.action_spec.shape, device=device)

    with env.stream():
        carried = env.reset()

        def steps(count: int) -> float:
            nonlocal carried
            begun = time.perf_counter()
            for _ in range(count):
                carried.set("action", torch.rand(ctrl.shape, generator=g, device=device) * 2 - 1)
                carried = env.maybe_reset(env.step_mdp(env.step(carried)))
            _wait(device)
            return time.perf_counter() - begun

        def physics(count: int) -> float:
            begun = time.perf_counter()
            for _ in range(count):
                env.engine.step(ctrl, env.task.substeps)
            _wait(device)
            return time.perf_counter() - begun

        steps(1)
        first = time.perf_counter() - start
        count = max(1, round(WARM_UP * seconds / steps(WARM_UP)))
        speeds = sorted(worlds * count / steps(count) for _ in range(rounds))
        engine = worlds * count / physics(count)
    env.state_dict()  # looks whether all contacts had room
    resets, used = env.nan_resets, free - _free_bytes(device)
    env.close()
    return Row(
        task=task,
        worlds=worlds,
        njmax=room.njmax or 0,
        nconmax=room.nconmax or 0,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        env_steps_per_second=speeds[len(speeds) // 2],
        engine_steps_per_second=engine,
        lowest=speeds[0],
        highest=speeds[-1],
        first_seconds=first,
        array_bytes_per_world=bytes_per_env(env.task.model(), room),
        device_bytes_per_world=used // worlds,
        nan_resets=resets,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def measurements(arguments: argparse.Namespace) -> Iterator[Row]:
    """Measure every task with every number of worlds; what has no room is said and left out."""
    device, shape = torch.device(arguments.device), {"seconds": arguments.seconds, "rounds": arguments.rounds}
    for task, worlds, njmax, nconmax in itertools.product(
        arguments.tasks, arguments.worlds, arguments.njmax, arguments.nconmax
    ):
        try:
            yield measure(task, worlds, device, WarpOptions(njmax=njmax, nconmax=nconmax), **shape)
        except EnvironmentFailure as error:
            print(f"{task:24} {worlds:6} worlds: {error}", flush=True)


def main() -> None:
    """Measure, print, and with --out write the table after every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--worlds", nargs="+", type=int, default=list(WORLDS))
    parser.add_argument("--njmax", nargs="+", type=int, default=[None], help="rows a world, to compare")
    parser.add_argument("--nconmax", nargs="+", type=int, default=[None], help="contacts a world")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    parser.add_argument("--out", type=Path, help="CSV file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for row in measurements(arguments):
        rows.append(row)
        print(
            f"{row.task:24} {row.worlds:6} worlds {row.env_steps_per_second:12,.0f} env steps/s "
            f"[{row.lowest:,.0f}, {row.highest:,.0f}], engine alone {row.engine_steps_per_second:,.0f}, "
            f"{row.array_bytes_per_world:,} bytes a world, first step after {row.first_seconds:.1f} s",
            flush=True,
        )
        if arguments.out:
            write_measured(arguments.out, rows, arguments.threads)


if __name__ == "__main__":
    main()
