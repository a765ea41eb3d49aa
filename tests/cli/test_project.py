"""The Makefile, the checks and the pinned versions hang together."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"^[A-Za-z0-9._-]+")


def steps_of(target: str) -> str:
    """Return what `make TARGET` would run on a fresh machine."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    words = ["make", "--dry-run", "VENV=.venv-that-does-not-exist", target]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout


@pytest.mark.parametrize(
    ("target", "wanted"), [("demo", "--editable .\n"), ("test", "--editable '.[dev]'\n")]
)
def test_one_target_does_all_the_setup(target, wanted):
    steps = steps_of(target)
    order = ["-m venv", "constraint constraints.txt torch\n", wanted]
    positions = [steps.index(step) for step in order]
    assert positions == sorted(positions)


def test_demo_and_test_run_what_the_readme_says():
    assert "/rlsuite train dsac_t --env HalfCheetah --preset demo --out runs/demo-" in steps_of("demo")
    # All of it: what the first line leaves out is the second's.
    assert "python -m pytest -n logical --maxprocesses 8 --dist loadfile --ignore tests/launch\n" in steps_of(
        "test"
    )
    assert "python -m pytest tests/launch\n" in steps_of("test")
    checks = (ROOT / ".ci" / "run").read_text()
    assert checks.rstrip().endswith("make test")
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


def pins() -> dict[str, str]:
    lines = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    return {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in ("dev", "bench", "dmc", "docs", "hub", "video"):
        wanted += [word for word in extras[extra] if not word.startswith("rlsuite")]
    names = {NAME.match(word).group().lower().replace("_", "-") for word in wanted}
    assert names <= set(pins())


def test_pins_are_plain_versions():
    assert pins()["torch"] == "2.13.0"  # no local build: the same file for every machine
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), name


def test_pins_are_within_the_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [word for words in project["optional-dependencies"].values() for word in words]
    checked = 0
    for wanted in map(Requirement, [*project["dependencies"], *extras]):
        pinned = pins().get(canonicalize_name(wanted.name))
        if pinned is not None:
            assert wanted.specifier.contains(pinned), f"{wanted}, and {pinned} is pinned"
            checked += 1
    assert checked > 30


def test_lowest_versions_are_those_of_the_bounds():
    words = [sys.executable, ROOT / ".ci" / "bounds.py"]
    lowest = subprocess.run([*words, "lowest", "hub,export"], capture_output=True, text=True, check=True)
    assert {"torch==2.11", "gymnasium==1.2", "onnx==1.17"} <= set(lowest.stdout.split())
    assert all("==" in line for line in lowest.stdout.split())
    newest = subprocess.run([*words, "newest", "hub"], capture_output=True, text=True, check=True)
    assert "torchrl>=0.14.1,<0.15" in newest.stdout.split()
    assert subprocess.run([*words, "lowest", "no"], capture_output=True).returncode != 0


def test_what_ci_calls_exists():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    called = set(re.findall(r"run: make ([a-z-]+)", workflow.replace("${{ matrix.which }}", "lowest")))
    assert called == {"commands", "docs", "test-lowest", "test-rliable"} and called <= targets
    assert "test-newest" in targets and "run: .ci/run" in workflow


def test_version_and_extras_are_the_same_wherever_they_are_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, flags=re.MULTILINE).group(1) == project["version"]
    installed = re.search(r"'\.\[(.*)\]'", (ROOT / "Dockerfile").read_text()).group(1)
    assert set(installed.split(",")) <= set(project["optional-dependencies"])
    copied = re.search(r"^COPY (.*) \./$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).group(1)
    sent = (ROOT / ".dockerignore").read_text()
    assert all(f"!{name}\n" in sent for name in (*copied.split(), "rlsuite"))


def test_the_tag_that_publishes_is_the_version():
    workflow = (ROOT / ".github" / "workflows" / "publish.yml").read_text()
    pattern = re.search(r"sed -n '(.*)' rlsuite/version.py", workflow).group(1)
    printed = subprocess.run(
        ["sed", "-n", pattern, ROOT / "rlsuite" / "version.py"], capture_output=True, text=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert printed.stdout.strip() == project["version"]
