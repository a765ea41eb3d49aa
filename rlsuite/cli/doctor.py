"""Say what this machine has for runs: versions, GPU, pictures, memory, compiler, folders."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rlsuite.command.arguments import parse
from rlsuite.command.helptext import HelpPage

PROG = "rlsuite doctor"
PAGE = HelpPage(examples=(PROG, f"{PROG} --json > doctor.json"))

GIB = 2**30
RENDER_SECONDS = 60  # the first picture loads OpenGL, and a broken driver may hang in it
PICTURE = """
import mujoco, numpy
model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><light/><geom size="1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
from rlsuite.envs.rendering import SceneCamera
print("works" if SceneCamera(model, {}).picture(data).any() else "gives black pictures", flush=True)
import os
os._exit(0)  # drivers that fail while they are torn down are not the question
"""

Fact = tuple[str, str]
"""A name, and what is so."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorArgs:
    """Prints what a report of an error should bring: nothing that is private but the names of folders."""

    json: bool = False
    """Print one JSON object instead of lines."""


def run(argv: Sequence[str]) -> int:
    """Print what this machine has; return 0."""
    args = parse(DoctorArgs, argv, prog=PROG, description=str(DoctorArgs.__doc__), page=PAGE)
    topics = {
        "versions": versions(),
        "machine": machine(),
        "updates": updates(),
        "pictures": pictures(),
        "folders": folders(),
    }
    if args.json:
        print(json.dumps({topic: dict(facts) for topic, facts in topics.items()}, indent=2))
        return 0
    width = max(len(name) for facts in topics.values() for name, _ in facts)
    for topic, facts in topics.items():
        print(topic)
        print("\n".join(f"  {name:<{width}}  {value}" for name, value in facts))
    return 0


def versions() -> list[Fact]:
    """Return the versions of Python, of rlsuite, and of what it or one of its extras names."""
    from packaging.requirements import Requirement

    wanted: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("rlsuite") or []:
        needed = Requirement(line)
        extra = str(needed.marker).partition('extra == "')[2].partition('"')[0] if needed.marker else ""
        if extra not in ("dev", "docs", "fuzz", "audit", "bench"):
            wanted.setdefault(needed.name, []).append(extra)
    facts = [("python", platform.python_version()), ("rlsuite", importlib.metadata.version("rlsuite"))]
    for name, extras in sorted(wanted.items()):
        try:
            facts.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            facts.append((name, f"not installed: pip install 'rlsuite[{extras[0]}]'"))
    return facts


def machine() -> list[Fact]:
    """Return what the system is, its cores, its memory and its GPUs."""
    import psutil
    import torch

    from rlsuite.envs.engines.native import available_cores
    from rlsuite.replay.memory import host_free_bytes
    from rlsuite.runs.machine import device_name

    total = psutil.virtual_memory().total
    facts = [
        ("system", platform.platform()),
        ("processor", device_name("cpu")),
        ("cores", f"{available_cores()} of {os.cpu_count()} may be used"),
        ("memory", f"{host_free_bytes() / GIB:.1f} GiB free within all limits, {total / GIB:.1f} in all"),
    ]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = "this torch is built without CUDA" if built is None else f"torch has CUDA {built}, no device"
        return [*facts, ("gpu", f"none: {reason}")]
    for index in range(torch.cuda.device_count()):
        free, size = torch.cuda.mem_get_info(index)
        text = f"{torch.cuda.get_device_name(index)}, {free / GIB:.1f} of {size / GIB:.1f} GiB free"
        facts.append((f"gpu {index}", text))
    return [*facts, ("cuda", str(torch.version.cuda))]


def updates() -> list[Fact]:
    """Return whether updates can be compiled, and with what."""
    import torch

    from rlsuite.agents.compiled import SWITCH, compiler

    if not hasattr(torch._dynamo.config, SWITCH):
        able = f"no: torch {torch.__version__} cannot compile gradients (2.13 can)"
    elif compiler() is None:
        able = "not on the CPU: there is no C++ compiler (g++ or clang++); runs are eager"
    else:
        able = "yes"
    return [("compiler", compiler() or "none"), ("compiled updates", able)]


def pictures() -> list[Fact]:
    """Return whether MuJoCo can draw without a display, tried in a process of its own."""
    chosen = os.environ.get("MUJOCO_GL", "not set: egl, then osmesa")
    command = [sys.executable, "-c", PICTURE]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=RENDER_SECONDS, check=False)
        lines = (tried.stdout.strip() or tried.stderr.strip() or f"exit code {tried.returncode}").splitlines()
        result = lines[-1]
    except subprocess.TimeoutExpired:
        result = f"did not end within {RENDER_SECONDS} s"
    encoder = "found" if importlib.util.find_spec("imageio_ffmpeg") else "not installed: rlsuite[video]"
    return [("MUJOCO_GL", chosen), ("drawing", result), ("video encoder", encoder)]


def folders() -> list[Fact]:
    """Return where kernels and data sets lie, whether that can be written, and the room on its disk."""
    from rlsuite.agents.compiled import kernel_folder
    from rlsuite.offline.locate import d4rl_root, minari_root, ogbench_root

    places = {
        "working folder": Path.cwd(),
        "kernels": kernel_folder(),
        "minari": minari_root(),
        "d4rl": d4rl_root(),
        "ogbench": ogbench_root(),
    }
    return [(name, _room(path)) for name, path in places.items()]


def _room(path: Path) -> str:
    """Say what can be written to a folder, or where it would be made."""
    there = path
    while not there.exists():
        there = there.parent
    able = os.access(there, os.W_OK | os.X_OK)
    state = ("" if there == path else "not made yet, ") + ("" if able else "CANNOT BE WRITTEN, ")
    return f"{path} ({state}{shutil.disk_usage(there).free / GIB:.1f} GiB free)"
