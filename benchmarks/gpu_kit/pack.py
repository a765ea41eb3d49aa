"""Packs what a GPU machine without network lacks into two loads: pack.py FOLDER, from a checkout's root.

FOLDER/one has the wheels and as much of Warp as fits beside them, FOLDER/two the rest of Warp and kernels
built ahead. Each with the tree must stay below `--limit`. Takes pip, a registry, and ten minutes of one core,
most of them for compressing Warp's library once; what is there already is kept.
"""

import argparse
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MIB = 1 << 20
SPARE = MIB  # of a load, left free
GLIBC = (34, 31, 28, 27, 24, 17)  # manylinux_2_N that the machine's system takes
PYTHON = "3.12"
LIBRARY = "warp/bin/warp.so"
NOT_NEEDED = ("warp/bin/", "warp/examples/", "warp/tests/")
KERNELS = ("HalfCheetah", "Ant", "Humanoid", "Walker2d")  # tasks whose kernels are built ahead
FILTERS = [  # for machine code, with a window over the whole library
    {"id": lzma.FILTER_X86},
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 320 * MIB},
]


def pinned(names: Sequence[str]) -> list[str]:
    """Return the lines of constraints.txt for these packages; one that it does not name is an error."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    versions = {normal(line.partition("==")[0]): line.partition(" ")[0] for line in lines if "==" in line}
    return [versions[normal(name)] for name in names]


def normal(name: str) -> str:
    """Return a package's name as registries compare it."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


def listed(path: Path) -> list[str]:
    """Return the names in a list of packages."""
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def download(packages: Sequence[str], folder: Path) -> None:
    """Fetch wheels for the machine's Python, without what they depend on."""
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in GLIBC]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}"]
    words += ["--implementation=cp", *platforms, "--dest", str(folder), *packages]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)


def unpacked_warp(folder: Path) -> Path:
    """Download and unpack Warp's wheel; return the folder."""
    place = folder / "warp"
    if not (place / LIBRARY).exists():
        download(pinned(["warp-lang"]), folder)
        with zipfile.ZipFile(next(folder.glob("warp_lang-*.whl"))) as wheel:
            wheel.extractall(place)
    return place


def compress(source: Path, target: Path) -> None:
    """Write a file as .xz, unless it is there."""
    if target.exists():
        return
    part = target.with_suffix(".part")
    with source.open("rb") as file, lzma.open(part, "wb", filters=FILTERS) as out:
        shutil.copyfileobj(file, out, 16 * MIB)
    part.rename(target)


def packed_python(warp: Path, target: Path) -> None:
    """Write Warp without its libraries, but with its dist-info: its version is asked for."""
    with tarfile.open(target, "w:xz") as archive:
        for path in sorted(warp.rglob("*")):
            name = str(path.relative_to(warp))
            if path.is_file() and not name.startswith(NOT_NEEDED):
                archive.add(path, name)


def kernels(folder: Path, target: Path, seconds: float) -> None:
    """Build kernels of the usual tasks and pack them; a machine that lacks them compiles them."""
    if seconds <= 0:
        return
    words = [
        str(HERE / "kernels.py"),
        str(folder / "kernels"),
        *KERNELS,
        "--deterministic",
        f"--seconds={seconds}",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WARP_CACHE_PATH": str(ROOT / ".warp_cache")}
    code = subprocess.run([sys.executable, *words], env=environment, check=False).returncode
    if code or not (folder / "kernels").is_dir():
        print(f"no kernels are carried: building them ended with {code}", file=sys.stderr)
        return
    with tarfile.open(target, "w:xz") as archive:
        for path in sorted((folder / "kernels").rglob("*")):
            if path.suffix in (".cubin", ".meta"):  # and not the sources
                archive.add(path, str(path.relative_to(folder / "kernels")))


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tree_size() -> int:
    """Return the bytes of the checkout's files that git does not ignore."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    paths = [ROOT / name for name in listing.split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


def split(whole: Path, loads: Sequence[Path], room: Sequence[int]) -> None:
    """Cut a file into parts of at most these sizes, `NAME.0`, `NAME.1`, ... in one load each.

    Raises:
        SystemExit: it does not fit.
    """
    left = whole.stat().st_size
    if left > sum(room):
        raise SystemExit(
            f"{whole.name} has {left / MIB:.1f} MiB, and the loads have {sum(room) / MIB:.1f} to spare"
        )
    with whole.open("rb") as file:
        for number, (load, size) in enumerate(zip(loads, room, strict=True)):
            (load / f"{whole.name}.{number}").write_bytes(file.read(size))


def main() -> None:
    """Fill both loads and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the two loads; git should ignore it")
    parser.add_argument("--limit", type=float, default=64.0, help="MiB of a load together with the tree")
    parser.add_argument(
        "--kernel-seconds", type=float, default=300.0, help="for building kernels; 0 carries none"
    )
    line = parser.parse_args()
    one, two, scratch = line.folder / "one", line.folder / "two", line.folder / "scratch"
    for folder in (one, two, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    (line.folder / ".gitignore").write_text("*\n")
    for old in (*one.glob("*.xz.*"), *two.glob("*.xz.*")):
        old.unlink()
    if not any(one.glob("*.whl")):
        download(pinned(listed(HERE / "carried.txt")), one)
    warp = unpacked_warp(scratch)
    packed_python(warp, one / "warp-python.tar.xz")
    if not (two / "kernels.tar.xz").exists():
        kernels(scratch, two / "kernels.tar.xz", line.kernel_seconds)
    compress(warp / LIBRARY, scratch / "warp.so.xz")
    tree, limit = tree_size(), round(line.limit * MIB)
    split(
        scratch / "warp.so.xz",
        (one, two),
        [max(0, limit - SPARE - tree - size_of(load)) for load in (one, two)],
    )
    for load in (one, two):
        print(f"{load}: {size_of(load) / MIB:.1f} MiB, {(size_of(load) + tree) / MIB:.1f} MiB with the tree")
    shutil.rmtree(scratch / "kernels", ignore_errors=True)


if __name__ == "__main__":
    main()
