"""Every command that README and docs show is one that the command line takes; no link is dead.

`docs/run_commands.py` runs them for real, in small.
"""

import argparse
import importlib
import re
import runpy
import shlex
import subprocess
import sys
import tomllib

import pytest
import resets
import tyro
from shown_commands import PAGES, ROOT, anchors, links, rlsuite_words, shown_commands

from rlsuite import extensions, registry
from rlsuite.cli import data
from rlsuite.cli.bench import benchmark_of, split_extra
from rlsuite.command import arguments
from rlsuite.command.train import parse_train
from rlsuite.errors import ConfigError
from rlsuite.launch.plan import resolve

SHOWN = shown_commands()
RLSUITE = [shown for shown in SHOWN if rlsuite_words(shown.text) is not None]
OTHERS = [shown for shown in SHOWN if rlsuite_words(shown.text) is None]
BRANCH_FLAGS = ("--agent.lr-actor", "--agent.tau")
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
        return parse_train(rest[0], rest[1:])[0]
    if command == "list":
        assert rest[0] in importlib.import_module("rlsuite.cli.list").KINDS
        return rest
    if command == "data":
        line = arguments.parse(data.ACTIONS[rest[0]], rest[1:], prog="rlsuite data")
        if rest[0] == "make":
            importlib.import_module("rlsuite.offline.names").recipe(line.name)
        return line
    if command in ("bench", "choose", "sweep"):
        rest, extra = split_extra(rest)
        _, cls = benchmark_of(rest.pop(0) if command == "bench" else command)
        return arguments.parse(cls, rest, prog="rlsuite bench"), extra
    module = importlib.import_module(f"rlsuite.cli.{command}")
    if command == "branch":
        rest, changes = module.split_changes(rest)
        assert all(word in BRANCH_FLAGS for word in changes if word.startswith("--"))
    return arguments.parse(getattr(module, f"{command.capitalize()}Args"), rest, prog=f"rlsuite {command}")


@pytest.mark.parametrize("shown", RLSUITE, ids=lambda shown: f"{shown.page}:{shown.number}")
def test_the_command_line_takes_it(shown, templates, monkeypatch):
    monkeypatch.setattr("rlsuite.offline.load.environment_of", lambda name: "gym:Maze")  # no data are here
    words = rlsuite_words(shown.text)
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
    assert sum(shown.text.startswith("torchrun ") for shown in RLSUITE) == 2


@pytest.mark.parametrize("shown", OTHERS, ids=lambda shown: f"{shown.page}:{shown.number}")
def test_what_else_is_shown_exists(shown, monkeypatch):
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
        line, extra = of_script(words[1:], monkeypatch)
        if words[1] == "benchmarks/resets.py":  # what it does not know goes to `rlsuite train`
            experiment = resets.EXPERIMENTS[line.experiment]
            for arm in experiment.arms:
                resolve("sac", resets.words_of(experiment, arm, line, extra))
        else:
            assert not extra


class Parsed(Exception):
    """Carries out of a script what its parser made of its words."""


def of_script(words, monkeypatch):
    """Return the line and the unknown words that a script's own parser gives, before it does anything."""

    def stopping(parse):
        def stop(*args, **fields):
            raise Parsed(*parse(*args, **fields))

        return stop

    with monkeypatch.context() as patch, pytest.raises(Parsed) as caught:
        known = argparse.ArgumentParser.parse_known_args
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stopping(known))
        patch.setattr(tyro, "cli", stopping(tyro.cli))
        patch.setattr(sys, "argv", words)
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    return caught.value.args


def test_wrong_words_of_scripts_are_found(monkeypatch):
    with pytest.raises(SystemExit):
        of_script(["benchmarks/resets.py", "grama", "--seeds", "many", "--out", "x"], monkeypatch)
    with pytest.raises(SystemExit):
        of_script(["benchmarks/resets.py", "gramma", "--out", "x"], monkeypatch)
    for script in ("benchmarks/stock.py", "benchmarks/soak.py"):  # of tyro, and of argparse
        assert of_script([script, "--out", "x", "--no-such-flag"], monkeypatch)[1] == ["--no-such-flag"]
    with pytest.raises(ConfigError):
        of_script(["benchmarks/stock.py", "--out"], monkeypatch)


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
    for page in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"```\{toctree\}(.*?)```", page.read_text(), flags=re.DOTALL):
            names = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    pages = set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "index.md"}
    assert pages == listed


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "MyDDPG" not in (tmp_path / "api.html").read_text()
    assert "SACConfig" in (tmp_path / "api" / "agents.sac.html").read_text()
    for agent in registry.agent_names():
        page = {"d_eta_n": "return_distributions"}.get(agent, agent)
        assert (tmp_path / f"{page}.html").is_file()
