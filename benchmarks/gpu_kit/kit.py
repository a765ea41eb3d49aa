"""Takes every figure that a GPU machine without network owes us: kit.py one|two|curves|rest --out FOLDER.

`one` needs the first load of the pack, `two` the second; `curves` trains on HalfCheetah, `rest` on Humanoid.
Every step has a time limit of its own, writes its CSV as it goes, and stops no other: kit.csv says how each
ended.
`--dry` does the same on a CPU in small, without what the machine lacks, to see that all of it runs.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SITE, CACHE, RUNS = Path("/tmp/site"), Path("/tmp/warp_cache"), Path("/tmp/runs")
LIBRARY = "warp.so.xz"
GPU_TESTS = (
    "tests/training/test_graphs.py",
    "tests/returns/test_vectorised.py",
    "tests/faults/test_row_20_plugins_on_strangers_networks.py",
)
FULL_CARD = "tests/faults/test_row_19_memory_that_does_not_suffice.py"
WARP_TESTS = "tests/envs/test_warp_gpu.py"
POLL = 0.5  # seconds between looks at a step
GRACE = 25  # seconds from SIGTERM, at which training saves and ends, to SIGKILL
TAIL = 3  # lines of a step's output that are printed
COLUMNS = ("run", "env_step", "updates", "seconds", "train_return", "eval_return")

UNPACK_WARP = """
import lzma, pathlib, shutil, sys, tarfile
site, cache, *parts, kernels = map(pathlib.Path, sys.argv[1:])
place = site / "warp/bin/warp.so"
place.parent.mkdir(parents=True, exist_ok=True)
decompressor = lzma.LZMADecompressor()
with place.open("wb") as out:
    for part in parts:
        out.write(decompressor.decompress(part.read_bytes()))
assert decompressor.eof, "a part of warp.so.xz is missing"
sys.path.insert(0, str(site))
from importlib.metadata import version
if kernels.exists():
    with tarfile.open(kernels) as archive:
        archive.extractall(cache / version("warp-lang"), filter="data")
"""
SAY_WARP = """
import warp
warp.init()
print(warp.__version__, warp.get_devices(), "conditional graphs:", warp.is_conditional_graph_supported())
"""
SAY_VERSIONS = """
import gymnasium, json, mujoco, sys, tensordict, torch, torchrl
print(json.dumps({"python": sys.version.split()[0], **{m.__name__: m.__version__ for m in
    (torch, tensordict, torchrl, gymnasium, mujoco)}, "cuda": torch.version.cuda,
    "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}))
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One command with a limit; `watch` is called while it runs and once afterwards."""

    name: str
    seconds: float
    command: Sequence[str]
    watch: Callable[[], object] = field(default=lambda: None)


@dataclass(slots=True)
class Kit:
    """Where things lie, and what was done."""

    pack: Path
    out: Path
    dry: bool
    ends: float  # of `time.monotonic`, after which no step is begun
    environment: Mapping[str, str]
    done: list[dict[str, Any]] = field(default_factory=list)

    @property
    def device(self) -> str:
        """Name of the device for the benchmarks."""
        return "cpu" if self.dry else "cuda"

    def run(self, step: Step) -> None:
        """Run a step under its limit, or what is left of the whole; note how it ended."""
        begun = time.monotonic()
        limit = min(step.seconds, self.ends - begun)
        code: int | str = "no time left"
        log = self.out / "kit.log"
        with log.open("ab") as output:
            output.write(f"\n== {step.name}: {' '.join(step.command)[:300]}\n".encode())
            output.flush()
            start = output.tell()
            if limit > 1:
                code = self._watched(step, output, begun + limit)
        self.done.append({"step": step.name, "code": code, "seconds": round(time.monotonic() - begun, 1)})
        with (self.out / "kit.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.done[0]))
            writer.writeheader()
            writer.writerows(self.done)
        with log.open("rb") as output:
            output.seek(start)
            lines = output.read().decode("utf-8", "replace").splitlines()
        print(f"{step.name}: {code}, {self.done[-1]['seconds']} s", *lines[-TAIL:], sep="\n   ", flush=True)

    def _watched(self, step: Step, output: Any, ends: float) -> int | str:
        try:
            process = subprocess.Popen(
                step.command,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=dict(self.environment),
                start_new_session=True,
            )
        except OSError as error:
            return str(error)
        late: float | None = None
        try:
            while process.poll() is None:
                _quietly(step.watch)
                now = time.monotonic()
                if late is None and now > ends:
                    late = now
                    os.killpg(process.pid, signal.SIGTERM)
                elif late is not None and now > late + (1 if self.dry else GRACE):
                    os.killpg(process.pid, signal.SIGKILL)
                time.sleep(POLL)
        finally:
            if process.poll() is None:  # the kit itself is to end: a session of its own would outlive it
                os.killpg(process.pid, signal.SIGKILL)
        _quietly(step.watch)
        return process.returncode if late is None else "limit"


def _quietly(work: Callable[[], object]) -> None:
    """What only looks at a step must not end the kit."""
    try:
        work()
    except (OSError, ValueError) as error:
        print(f"   {error}")


def python(*words: str) -> list[str]:
    """Return a command line of this Python."""
    return [sys.executable, *words]


def gpu_tests(kit: Kit, name: str, *words: str) -> list[str]:
    """Return a command that runs the GPU tests of these files; others would need more packages."""
    junit = f"--junitxml={kit.out / name}.xml"
    return python("-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "gpu", junit, *words)


def one(kit: Kit) -> Iterator[Step]:
    """First load: everything that needs no Warp."""
    if not kit.dry:
        wheels = [str(path) for path in sorted((kit.pack / "one").glob("*.whl"))]
        words = [
            "-q",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--no-cache-dir",
            "--upgrade",
            "--target",
            str(SITE),
        ]
        yield Step("install", 90, python("-m", "pip", "install", *words, *wheels))
        unpack = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='data')"
        yield Step(
            "warp_python", 30, python("-c", unpack, str(kit.pack / "one" / "warp-python.tar.xz"), str(SITE))
        )
        keep = ["cp", str(kit.pack / "one" / f"{LIBRARY}.0"), "/tmp/"]
        yield Step("keep_part", 10, keep)
    yield Step("versions", 40, python("-c", SAY_VERSIONS))
    least = ["--seconds", "0.02"] if kit.dry else []
    ceilings = [
        "benchmarks/gpu_kit/ceilings.py",
        "--device",
        kit.device,
        "--out",
        str(kit.out / "machine.csv"),
    ]
    yield Step("machine", 40, python(*ceilings, *least))
    yield Step("tests_update", 120, gpu_tests(kit, "tests_update", *GPU_TESTS))
    updates = ["benchmarks/updates.py", "--device", kit.device, "--out"]
    small = ["--batches", "16", "--rows", "1024", "--envs", "8", "--seconds", "0.05", "--updates", "2"]
    small += ["--precisions", "float32"]
    first = ["--agents", "sac", "--precisions", "float32", "tf32", "bf16"]
    first = first[:2] if kit.dry else first
    half = small if kit.dry else ["--seconds", "0.5"]
    yield Step("updates", 220, python(*updates, str(kit.out / "updates.csv"), *half))
    yield Step("precision", 60, python(*updates, str(kit.out / "precision.csv"), *first, *half))
    seeds = ["--agents", "sac", "--seeds", "1", "8", "--n-steps", "1", "--precisions", "float32"]
    more = small if kit.dry else ["--batches", "256", "2048"]
    yield Step("seeds", 60, python(*updates, str(kit.out / "seeds.csv"), *seeds, *more))
    yield Step("tests_full_card", 60, gpu_tests(kit, "tests_full_card", FULL_CARD))


def two(kit: Kit) -> Iterator[Step]:
    """Second load: Warp, the engine's tests and its speed."""
    if not kit.dry:
        parts = [f"/tmp/{LIBRARY}.0", str(kit.pack / "two" / f"{LIBRARY}.1")]
        kernels = str(kit.pack / "two" / "kernels.tar.xz")
        yield Step("unpack", 60, python("-c", UNPACK_WARP, str(SITE), str(CACHE), *parts, kernels))
    yield Step("warp", 40, python("-c", SAY_WARP))
    yield Step("tests_warp", 150, gpu_tests(kit, "tests_warp", WARP_TESTS, "-k", "not million"))
    device = ["benchmarks/device.py", "--device", kit.device, "--out"]
    little = ["--tasks", "HalfCheetah", "--seconds", "0.05", "--rounds", "1", "--worlds"]
    engine = [*little, "4", "8"] if kit.dry else ["--seconds", "1.5", "--rounds", "3"]
    yield Step("engine", 220, python(*device, str(kit.out / "engine.csv"), *engine))
    rooms = ["--njmax", "24", "32", "48", "96", "--nconmax", "16", "24", "96"]
    sizes = [
        "--tasks",
        "HalfCheetah",
        "Humanoid",
        "--worlds",
        "4096",
        "--seconds",
        "0.7",
        "--rounds",
        "1",
        *rooms,
    ]
    if kit.dry:
        sizes = [*little, "4", "--njmax", "24", "96", "--nconmax", "24"]
    yield Step("sizes", 120, python(*device, str(kit.out / "sizes.csv"), *sizes))
    yield Step("tests_million", 60, gpu_tests(kit, "tests_million", WARP_TESTS, "-k", "million"))
    if not kit.dry:
        yield Step(
            "keep_kernels", 60, ["tar", "-C", str(CACHE), "-cJf", str(kit.out / "kernels.tar.xz"), "."]
        )


def train(kit: Kit, name: str, seconds: float, agent: str, task: str, *words: str) -> Step:
    """Return a step that trains with the preset `massive` and keeps the curve as CSV while it does."""
    folder = RUNS / f"{name}{'_dry' if kit.dry else ''}_{int(time.time())}"
    line = [
        "-m",
        "rlsuite",
        "train",
        agent,
        "--env",
        task,
        "--preset",
        "massive",
        "--out",
        str(folder),
        *words,
    ]
    if kit.dry:
        line += [
            "--device",
            "cpu",
            "--num-envs",
            "4",
            "--steps",
            "400",
            "--warmup-steps",
            "100",
            "--batch-size",
            "16",
        ]
        line += [
            "--updates-per-step",
            "0.05",
            "--replay-size",
            "400",
            "--log-every",
            "40",
            "--eval-every",
            "400",
        ]
        line += ["--eval-episodes", "1", "--no-mixed-precision", "--threads", "1", "--checkpoint-every", "0"]

    def keep() -> None:
        for suffix in ("metrics.jsonl", "meta.json"):
            if (folder / suffix).exists():
                (kit.out / f"{name}.{suffix}").write_bytes((folder / suffix).read_bytes())
        write_curves(kit.out)

    return Step(name, seconds, python(*line), keep)


def write_curves(out: Path) -> None:
    """Write curves.csv: a row for every line of metrics with a return, of all runs kept so far."""
    rows = []
    for path in sorted(out.glob("*.metrics.jsonl")):
        for text in path.read_text("utf-8").splitlines():
            if not text.endswith("}"):
                continue  # a line that is being written
            record = json.loads(text)
            returns = [record.get(f"{kind}/return_mean", "") for kind in ("train", "eval")]
            if any(value != "" for value in returns):
                numbers = (record["step"], record["updates"], record["seconds"])
                rows.append(dict(zip(COLUMNS, (path.name.split(".")[0], *numbers, *returns), strict=True)))
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def curves(kit: Kit) -> Iterator[Step]:
    """Curves on HalfCheetah: the preset, and four times as many envs with fewer, larger updates."""
    rare = ["--eval-every", "20_480_000", "--checkpoint-every", "0"]
    more = ["--num-envs", "4096", "--updates-per-step", "0.0009765625", "--batch-size", "8192"]
    more += ["--replay-size", "4_096_000", "--matmul", "float32"]
    yield train(kit, "massive", 285, "sac", "HalfCheetah", *rare)
    yield train(kit, "large", 265, "sac", "HalfCheetah", *rare, *more)


def rest(kit: Kit) -> Iterator[Step]:
    """A wall-clock curve on Humanoid, for as long as there is time."""
    yield train(
        kit, "humanoid", 570, "sac", "HalfCheetah" if kit.dry else "Humanoid", "--checkpoint-every", "0"
    )


CALLS: dict[str, Callable[[Kit], Iterator[Step]]] = {"one": one, "two": two, "curves": curves, "rest": rest}


def listed(path: Path) -> set[str]:
    """Return the names in a list of packages, as registries compare them."""
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    return {line.lower().replace("_", "-") for line in lines if line and not line.startswith("#")}


def blocked() -> list[str]:
    """Return the top-level modules that are installed here and will not be on the GPU machine."""
    there = listed(HERE / "machine.txt") | listed(HERE / "carried.txt") | {"rlsuite", "warp-lang"}
    owners = importlib.metadata.packages_distributions()
    return sorted(
        module
        for module, distributions in owners.items()
        if module.isidentifier() and not there & {name.lower().replace("_", "-") for name in distributions}
    )


def environment(*, dry: bool) -> dict[str, str]:
    """Return the variables of all steps."""
    variables = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if dry:
        variables["RLSUITE_BLOCKED"] = ",".join(blocked())
        variables["WARP_CACHE_PATH"] = variables.get("WARP_CACHE_PATH", str(ROOT / ".warp_cache"))
        variables["PYTHONPATH"] = f"{HERE / 'filter'}:{ROOT}"
    else:
        variables["WARP_CACHE_PATH"] = str(CACHE)
        variables["PYTHONPATH"] = f"{SITE}:{ROOT}"
    return variables


def main() -> None:
    """Run the steps of the calls named; the exit code says only whether the kit itself ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="+", choices=list(CALLS))
    parser.add_argument("--pack", type=Path, default=Path(".pack"), help="folder of both loads")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "runs/gpu_kit")))
    parser.add_argument("--seconds", type=float, default=580.0, help="of each call in all")
    parser.add_argument(
        "--dry", action="store_true", help="on the CPU, small, without the packages the machine lacks"
    )
    line = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    line.out.mkdir(parents=True, exist_ok=True)
    out = line.out.resolve()
    kit = Kit(line.pack.resolve(), out, line.dry, 0.0, environment(dry=line.dry))
    for name in line.calls:
        kit.ends = time.monotonic() + line.seconds
        for step in CALLS[name](kit):
            kit.run(step)
    failed = [row["step"] for row in kit.done if row["code"] != 0]
    print(f"{len(kit.done)} steps, not ended well: {', '.join(failed) or 'none'}; results in {out}")


if __name__ == "__main__":
    main()
