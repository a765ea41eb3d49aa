"""Help and lists answer at once, because they import no torch."""

import os
import resource
import subprocess
import sys
import time

import pytest

LIMIT_SECONDS = 1.0  # wall time of a whole process, start of Python included
LIMIT_CPU_SECONDS = 0.6  # importing torch alone takes more than twice that

LIGHT = [
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["resume", "--help"],
    ["eval", "--help"],
    ["list", "agents"],
    ["list", "envs"],
    ["list", "presets"],
    ["list", "datasets"],
    ["data", "--help"],
]


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_answers_within_a_second(words):
    """Wall time counts on a machine that is not busy; processor time, which load does not change, always."""
    wall, cpu = [], []
    for _ in range(3):
        start, used = time.perf_counter(), cpu_seconds_of_children()
        result = subprocess.run([sys.executable, "-m", "rlsuite", *words], capture_output=True, text=True)
        wall.append(time.perf_counter() - start)
        cpu.append(cpu_seconds_of_children() - used)
        assert result.returncode == 0, result.stderr
        assert result.stdout
    assert min(cpu) < LIMIT_CPU_SECONDS
    if os.getloadavg()[0] < (os.cpu_count() or 1):
        assert min(wall) < LIMIT_SECONDS


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
        ["data", "make", "pointmaze/umaz"],
        ["data", "make", "../pointmaze"],
        ["data", "check", "hopper-medum-v2"],
    ],
    ids=" ".join,
)
def test_wrong_names_are_refused_before_torch(words):
    assert heavy_imports(*words) == "HEAVY []"


def test_the_check_would_see_torch():
    assert "torch" in heavy_imports("train", "sac", "--help")


@pytest.mark.parametrize(("set_by_user", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_give_their_core_away_unless_told_otherwise(set_by_user, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if set_by_user is not None:
        environment["OMP_WAIT_POLICY"] = set_by_user
    code = CHECK.format(words=["--version"], heavy=HEAVY) + "import os; print(os.environ['OMP_WAIT_POLICY'])"
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.splitlines()[-1] == expected
