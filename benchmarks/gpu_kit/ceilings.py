"""Measures what a device can do at most: copies, products by precision, launches with and without a graph."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from races import write_measured

LAUNCHES = 200  # of the smallest kernel


@dataclass(frozen=True, slots=True)
class Row:
    """One ceiling."""

    what: str
    value: float
    unit: str
    device: str


def seconds_of(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Return the seconds of one call, from as many as fill `least` seconds."""

    def timed(count: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(count):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    timed(3)
    count = max(3, int(3 * least / timed(3)))
    return timed(count) / count


def ceilings(device: torch.device, seconds: float) -> Iterator[Row]:
    """Yield every ceiling of a device."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else "cpu"
    source = torch.ones(2**30 if cuda else 2**22, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = seconds_of(lambda: target.copy_(source), device, seconds)
    yield Row("copy on the device, read and written", 2 * len(source) / took / 1e9, "GB/s", name)
    size = 8192 if cuda else 256
    left = torch.randn(size, size, device=device)
    for precision in ("float32", "tf32", "bfloat16"):
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        matrix = left.bfloat16() if precision == "bfloat16" else left
        took = seconds_of(lambda matrix=matrix: matrix @ matrix, device, seconds)  # type: ignore[misc]
        yield Row(f"product of {size} x {size}, {precision}", 2 * size**3 / took / 1e12, "TFLOP/s", name)
    one = torch.zeros(1, device=device)

    def launches() -> None:
        for _ in range(LAUNCHES):
            one.add_(1)

    yield Row("launch, eager", seconds_of(launches, device, seconds) / LAUNCHES * 1e6, "us", name)
    if cuda:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launches()
        yield Row(
            "launch, in a graph", seconds_of(graph.replay, device, seconds) / LAUNCHES * 1e6, "us", name
        )


def main() -> None:
    """Measure, print, and write the table after every line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one measurement")
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    line = parser.parse_args()
    rows = []
    for row in ceilings(torch.device(line.device), line.seconds):
        rows.append(row)
        print(f"{row.what:45} {row.value:12,.2f} {row.unit}", flush=True)
        write_measured(line.out, rows, torch.get_num_threads())


if __name__ == "__main__":
    main()
