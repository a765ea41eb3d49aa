"""Every command that README and docs show is one that the command line takes; no link is dead.

`docs/run_commands.py` runs them for real, in small.
"""

import importlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from shown_commands import PAGES, ROOT, anchors, links, shown_commands

from rlsuite import extensions, registry
from rlsuite.cli import _line, data, train
from rlsuite.cli.bench import split_extra
from rlsuite.errors import ConfigError

SHOWN = shown_commands()
RLSUITE = [shown for shown in SHOWN if shown.text.startswith("rlsuite ")]
OTHERS = [shown for shown in SHOWN if not shown.text.startswith("rlsuite ")]
TEMPLATES = {"agent": ("my_ddpg", "my_ddpg"), "plugin": ("my_patience", "my_patience")} | {
    "task": ("MySlide", "my_slide"),
    "dataset": ("my/swing-v0", "my_swing:swing"),
}


@pytest.fixture
def templates(monkeypatch):
    """The templates are known, as on a machine where docs/extending.md has been followed."""
    folder = ROOT / "examples" / "templates"
    monkeypatch.setattr(sys, "path", [*sys.path, *(str(folder / kind) for kind in TEMPLATES)])
    known = {kind: {name: target} for kind, (name, target) in TEMPLATES.items()}
    monkeypatch.setattr(extensions, "_registered", known)
    yield
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


def parsed(words):
    """Parse the words after `rlsuite` as that command does, without doing anything."""
    command, *rest = words
    if command == "train":
        return train.parse_line(rest[0], rest[1:])[0]
    if command == "list":
        assert rest[0] in importlib.import_module("rlsuite.cli.list").KINDS
        return rest
    if command == "data":
        line = _line.parse(data.LINES[rest[0]], rest[1:], prog="rlsuite data")
        if rest[0] == "make":
            importlib.import_module("rlsuite.offline.names").recipe(line.name)
        return line
    if command in ("bench", "sweep"):
        rest, extra = split_extra(rest)
        name = rest.pop(0) if command == "bench" else "sweep"
        module = importlib.import_module(f"rlsuite.bench.{name}")
        return _line.parse(getattr(module, f"{name.capitalize()}Line"), rest, prog="rlsuite bench"), extra
    module = importlib.import_module(f"rlsuite.cli.{command}")
    return _line.parse(getattr(module, f"{command.capitalize()}Line"), rest, prog=f"rlsuite {command}")


@pytest.mark.parametrize("shown", RLSUITE, ids=lambda shown: f"{shown.page}:{shown.number}")
def test_the_command_line_takes_it(shown, templates, monkeypatch):
    monkeypatch.setattr("rlsuite.offline.load.environment_of", lambda name: "gym:Maze")  # no data are here
    words = shlex.split(shown.text)[1:]
    line = parsed(words)
    assert line
    run = getattr(line, "run", None)
    assert run is None or str(run) in words
    if words[0] == "train":
        assert words[words.index("--env") + 1 if "--env" in words else words.index("--dataset") + 1] in (
            line.train.env,
            getattr(line.train, "dataset", None),
        )


def test_wrong_commands_are_found():
    for wrong in ("train sac --env Hoper", "eval x --episode 3", "train sac --env Hopper --agent.gama 1"):
        with pytest.raises(ConfigError):
            parsed(shlex.split(wrong))
    assert len(RLSUITE) > 60 and len(OTHERS) > 10


@pytest.mark.parametrize("shown", OTHERS, ids=lambda shown: f"{shown.page}:{shown.number}")
def test_what_else_is_shown_exists(shown):
    words = shlex.split(shown.text)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for word in words:
            named = re.search(r"\[(.*)\]", word)
            assert named is None or set(named[1].split(",")) <= set(extras)
            assert "/" not in word or (ROOT / word).exists()
    elif words[1:3] == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
    else:
        script = ROOT / words[1]
        source = script.read_text()
        for one, other in re.findall(r"rlsuite\.bench\.(\w+) import|rlsuite\.bench import (\w+)", source):
            source += (ROOT / "rlsuite" / "bench" / f"{one or other}.py").read_text()
        for flag in (word for word in words[2:] if word.startswith("--")):
            name = flag[2:].partition(".")
            assert re.search(rf"\b{name[2] or name[0]}\b|\b{name[0].replace('-', '_')}\b", source), flag


def test_no_link_is_dead():
    dead = []
    for page, target in links():
        path, _, anchor = target.partition("#")
        if re.match(r"https?://", target):
            if not re.fullmatch(r"https://[a-z0-9.-]+\.[a-z]{2,}(/[\w.~%/@:+=&?,()-]*)?(#[\w-]+)?", target):
                dead.append((page.name, target))  # external links: their form alone
            continue
        file = page if not path else (page.parent / path).resolve()
        if not file.exists() or not file.is_relative_to(ROOT) or (anchor and anchor not in anchors(file)):
            dead.append((page.name, target))
    assert not dead
    assert len(links()) > 40


NOT_YET = "benchmarks/results/device/"  # what `make gpu` writes on a machine with a GPU


def test_files_that_are_named_exist():
    missing = []
    for page in PAGES:
        named = r"`(rlsuite/[\w/]+\.py|(?:benchmarks|tests|docs|examples)/[\w./-]+)`"
        for name in re.findall(named, page.read_text()):
            if not ((ROOT / name).exists() or "NAME" in name or name.startswith(NOT_YET)):
                missing.append((page.name, name))
    assert not missing


def test_every_page_is_in_the_table_of_contents():
    listed = set()
    for page in (ROOT / "docs").rglob("*.md"):
        for block in re.findall(r"```\{toctree\}(.*?)```", page.read_text(), flags=re.DOTALL):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    pages = set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "index.md"}
    assert pages == listed


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MyDDPG" not in (tmp_path / "api" / "agents.html").read_text()
    for agent in registry.agent_names():
        page = {"d_eta_n": "return_distributions"}.get(agent, agent)
        assert (tmp_path / f"{page}.html").is_file()
