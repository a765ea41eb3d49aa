"""The kit for a GPU machine: it needs nothing that is not there, and no step stops another."""

import csv
import lzma
import os
import re
import subprocess
import sys
import tarfile
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from gpu_kit import kit, pack

ROOT = Path(__file__).parents[2]
GPU_FILES = {*kit.GPU_TESTS, kit.FULL_CARD, kit.WARP_TESTS}


def filtered(*words):
    """Run Python without the packages that the machine lacks."""
    environment = kit.environment(dry=True)
    environment["PYTHONPATH"] += f":{ROOT / 'benchmarks'}"
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_filter_hides_what_the_machine_lacks():
    assert {"stable_baselines3", "dm_control", "optuna", "minari"} <= set(kit.blocked())
    assert not {"torch", "mujoco", "warp", "pytest", "rlsuite"} & set(kit.blocked())
    said = filtered(
        "-c",
        "import importlib.util as u; print(u.find_spec('optuna'), bool(u.find_spec('torch')))",
    )
    assert said.split() == ["None", "True"]


def test_all_gpu_tests_are_run_and_can_be_collected_there():
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^@?\s*pytest\.mark\.gpu", path.read_text(), re.MULTILINE)
    }
    assert marked == GPU_FILES
    collected = filtered("-m", "pytest", "--collect-only", "-q", "-m", "gpu", *sorted(GPU_FILES))
    for file in GPU_FILES:
        assert file in collected
    assert "benchmarks/device.sh" in (ROOT / "Makefile").read_text()
    assert set(re.findall(r"tests/\S+\.py", (ROOT / "benchmarks" / "device.sh").read_text())) >= GPU_FILES


def test_the_benchmarks_import_there():
    filtered(
        "-c", "import updates, device, rlsuite.cli.main, rlsuite.training.online, rlsuite.envs.engines.warp"
    )


def a_kit(folder, seconds=60.0):
    return kit.Kit(folder, folder, True, time.monotonic() + seconds, dict(os.environ))


def test_a_step_that_fails_or_hangs_stops_no_other(tmp_path):
    this = a_kit(tmp_path)
    looked = []
    steps = [
        kit.Step("fails", 20, kit.python("-c", "raise SystemExit(3)")),
        kit.Step("hangs", 1.5, kit.python("-c", "import time; print('begun', flush=True); time.sleep(60)")),
        kit.Step("absent", 5, ["/no/such/program"]),
        kit.Step("works", 20, kit.python("-c", "print('all is well')"), lambda: looked.append(1)),
    ]
    for step in steps:
        this.run(step)
    rows = list(csv.DictReader((tmp_path / "kit.csv").open()))
    assert [row["code"] for row in rows[:2]] == ["3", "limit"]
    assert "No such file" in rows[2]["code"] and rows[3]["code"] == "0"
    assert looked and "all is well" in (tmp_path / "kit.log").read_text()


def test_no_step_begins_after_the_end(tmp_path):
    this = a_kit(tmp_path, seconds=0.0)
    this.run(kit.Step("late", 20, kit.python("-c", "print(1)")))
    assert this.done[0]["code"] == "no time left"


def test_curves_are_kept_while_a_line_is_being_written(tmp_path):
    lines = '{"step": 5, "updates": 1, "seconds": 2.0, "train/return_mean": 7.5}\n{"step": 6, "upd'
    (tmp_path / "p0.metrics.jsonl").write_text(lines)
    kit.write_curves(tmp_path)
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [(row["run"], row["env_step"], row["train_return"], row["eval_return"]) for row in rows] == [
        ("p0", "5", "7.5", "")
    ]


def test_a_file_is_split_between_loads_or_refused(tmp_path):
    loads = [tmp_path / "one", tmp_path / "two"]
    for load in loads:
        load.mkdir()
    whole = tmp_path / "library"
    whole.write_bytes(bytes(range(10)))
    pack.split(whole, loads, [4, 8])
    assert [(load / f"library.{k}").read_bytes() for k, load in enumerate(loads)] == [
        bytes(range(4)),
        bytes(range(4, 10)),
    ]
    with pytest.raises(SystemExit, match="MiB"):
        pack.split(whole, loads, [4, 5])


def test_parts_and_kernels_are_put_together_again(tmp_path):
    library, site, cache = os.urandom(3000), tmp_path / "site", tmp_path / "cache"
    for folder in (site, cache):
        folder.mkdir()
    packed = lzma.compress(library)
    parts = [tmp_path / "part.0", tmp_path / "part.1"]
    for part, data in zip(parts, (packed[:1000], packed[1000:]), strict=True):
        part.write_bytes(data)
    (tmp_path / "module.cubin").write_bytes(b"machine code")
    with tarfile.open(tmp_path / "kernels.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "module.cubin", "wp_module/module.cubin")
    words = [str(path) for path in (site, cache, *parts, tmp_path / "kernels.tar.xz")]
    subprocess.run(kit.python("-c", kit.UNPACK_WARP, *words), check=True)
    assert (site / "warp" / "bin" / "warp.so").read_bytes() == library
    assert (cache / version("warp-lang") / "wp_module" / "module.cubin").read_bytes() == b"machine code"
    short = kit.python("-c", kit.UNPACK_WARP, *words[:3], words[4])  # the second part is missing
    assert subprocess.run(short, capture_output=True).returncode


def test_every_carried_package_has_a_pinned_version():
    versions = pack.pinned([*pack.listed(pack.HERE / "carried.txt"), "warp-lang"])
    assert all("==" in version for version in versions)
