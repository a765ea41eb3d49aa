"""Row 19: a replay that cannot fit is refused before it is made, in bytes, with what to do about it."""

import re
import resource
from pathlib import Path

import killing
import pytest
import torch
import whole_runs as runs

from rlsuite.errors import ConfigError


def test_a_replay_that_does_not_fit_is_refused_before_it_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"GiB are free: lower --replay-size"):
        runs.train(tmp_path / "run", replay_size=10**12)


GIB = 1 << 30


def test_a_limit_of_the_address_space_is_respected(tmp_path, count):
    """A gibibyte more than the process has: a replay of two is refused in words, and not by the kernel."""

    def limited():
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + GIB, mapped + GIB))
        try:
            runs.train(tmp_path / "run", replay_size=80_000_000)
        except ConfigError as error:
            (tmp_path / "said").write_text(str(error))
            raise SystemExit(error.exit_code) from None

    child = killing.in_a_fork(limited)
    child.join(120)
    assert child.exitcode == 2
    said = (tmp_path / "said").read_text()
    needed, free = (float(number) for number in re.findall(r"([\d.]+) GiB", said))
    assert needed > 1.4 and 0 < free <= 1
    for way_out in ("lower --replay-size to", "a machine with more memory", "on another device"):
        assert way_out in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    count("replays refused with numbers")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="row 19, GPU part: needs a CUDA device to fill")
def test_a_gpu_that_is_full_is_noticed(tmp_path, count):
    free = torch.cuda.mem_get_info()[0]
    hog = torch.empty(free - GIB, dtype=torch.uint8, device="cuda")
    with pytest.raises(ConfigError, match="GiB are free"):
        runs.train(tmp_path / "run", device="cuda", replay_size=80_000_000)
    del hog
    torch.cuda.empty_cache()  # torch would keep the whole card, and Warp has memory of its own
    count("replays refused with numbers")
