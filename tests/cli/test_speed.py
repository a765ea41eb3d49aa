"""Help and lists answer at once, because they import no torch."""

import subprocess
import sys
import time

import pytest

LIMIT_SECONDS = 1.0  # wall time of a whole process, start of Python included

LIGHT = [
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["resume", "--help"],
    ["eval", "--help"],
    ["list", "agents"],
    ["list", "envs"],
    ["list", "presets"],
]


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_answers_within_a_second(words):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-m", "rlsuite", *words], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0, result.stderr
        assert result.stdout
        if seconds[-1] < LIMIT_SECONDS:
            return
    pytest.fail(f"best of three took {min(seconds):.2f} s")


CHECK = """
import sys
from rlsuite.cli import main
sys.argv[1:] = {words!r}
try:
    main.main()
except SystemExit:
    pass
heavy = sorted({{name.partition(".")[0] for name in sys.modules}} & {heavy!r})
print("HEAVY", heavy)
"""
HEAVY = {"torch", "torchrl", "tensordict", "mujoco", "gymnasium", "numpy", "dm_control"}


def heavy_imports(*words: str) -> str:
    code = CHECK.format(words=list(words), heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1]


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_imports_nothing_heavy(words):
    assert heavy_imports(*words) == "HEAVY []"


@pytest.mark.parametrize(
    "words",
    [
        ["train", "dsac_x", "--env", "HalfCheetah"],
        ["train", "dsac_t", "--env", "HalfCheeta"],
        ["train", "dsac_t", "--env", "HalfCheetah", "--preset", "demmo"],
        ["resume", "no/such/run"],
    ],
    ids=" ".join,
)
def test_wrong_names_are_refused_before_torch(words):
    assert heavy_imports(*words) == "HEAVY []"


def test_the_check_would_see_torch():
    assert "torch" in heavy_imports("train", "sac", "--help")
