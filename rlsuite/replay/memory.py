"""Free memory of the host; imports nothing of ours."""

from pathlib import Path

import psutil

CGROUP_ROOT, CGROUP_OF_SELF = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Of a control group: limit and use, version 2 and version 1.
LIMIT_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def host_free_bytes() -> int:
    """Bytes that this process may still allocate: what the system has, within the limits set to the process.

    Limits are those of its address space (`ulimit -v`) and of its control groups (Docker, Kubernetes, Slurm).
    """
    free = min(psutil.virtual_memory().available, cgroup_free_bytes())
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return int(free)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return int(free)
    return int(max(0, min(free, limit - psutil.Process().memory_info().vms)))


def cgroup_free_bytes(root: Path = CGROUP_ROOT, of_self: Path = CGROUP_OF_SELF) -> float:
    """Bytes left in the tightest control group around this process; infinite where none sets a limit.

    What the kernel may take back, the cache of files, counts as free.

    Args:
        root: where control groups are mounted.
        of_self: the file that names this process's group, a line `ID:CONTROLLERS:PATH` for each hierarchy.
    """
    free = float("inf")
    for line in _lines(of_self):
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        names = [part for part in path.split("/") if part not in ("", ".", "..")]
        # A container may see its own group as the root, whatever the path says: the root is looked at last.
        for depth in range(len(names), -1, -1):
            free = min(free, _left(base.joinpath(*names[:depth])))
    return free


def _left(group: Path) -> float:
    """Bytes left in one control group."""
    for limit_file, used_file in LIMIT_FILES:
        limit, used = _number(group / limit_file), _number(group / used_file)
        if limit is not None and used is not None:
            return max(0, limit - used + _cached(group))
    return float("inf")


def _cached(group: Path) -> int:
    for line in _lines(group / "memory.stat"):
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdecimal():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    """Return the whole number in a file; None where there is none, as for "max"."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", "replace").splitlines()
    except OSError:  # no control groups here
        return []
