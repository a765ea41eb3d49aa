"""The machine and the versions that a run, or a checkpoint of it, was made with."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("rlsuite", "torch", "torchrl", "tensordict", "mujoco", "gymnasium", "numpy")
GIT_SECONDS = 5  # a commit hash is not worth a longer wait


def facts(device: str = "cpu") -> dict[str, Any]:
    """Return versions, hardware, command and commit; never environment variables or keys."""
    machine: dict[str, Any] = {
        "versions": versions(),
        "platform": platform.platform(),
        "device_name": device_name(device),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": shlex.join(["rlsuite", *sys.argv[1:]]),
        "started": utc_now(),
    }
    commit = _git_commit()
    return machine if commit is None else {**machine, "commit": commit}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    versions_by_name = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions_by_name[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions_by_name[package] = "not installed"
    return versions_by_name


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the processor."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _git_commit() -> str | None:
    """Return the commit of the working folder, None where there is none or no git."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def utc_now() -> str:
    """Return the time now, in ISO format."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@lru_cache(maxsize=8)
def _maker(device: str) -> tuple[tuple[str, str], ...]:
    return (*versions().items(), ("device", device_name(device)))


def maker(device: torch.device) -> dict[str, str]:
    """Return what decides whether two machines compute the same bits: versions, GPU or processor."""
    return dict(_maker(str(device)))


def difference(written_by: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Return what differs between the machine of a checkpoint and this one, as text; "" for nothing."""
    if not written_by:
        return "it does not say what wrote it"
    names = [name for name in {**written_by, **here} if written_by.get(name) != here.get(name)]
    return ", ".join(
        f"{name} {written_by.get(name, 'unknown')}, here {here.get(name, 'none')}" for name in names
    )
