"""How much memory may still be allocated on the host; imports nothing of ours."""

import os
import resource
from pathlib import Path


def host_free_bytes() -> int:
    """Bytes that this process may still allocate: what the system has, within the process's own limit."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        mapped = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, StopIteration):  # not Linux: pages in use by caches count as taken
        mapped = 0
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return free if limit == resource.RLIM_INFINITY else max(0, min(free, limit - mapped))
