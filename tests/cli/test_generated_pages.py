"""Pages made from the dataclasses: every flag of every command, every field of agents and plug-ins."""

import dataclasses
import importlib
import re
import sys
from pathlib import Path

import pytest

from rlsuite import registry
from rlsuite.cli.completion import _lines
from rlsuite.cli.main import commands
from rlsuite.command import arguments, helptext

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generated():
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("generated")
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def pages(generated):
    """The filled pages by name."""
    paths = [path for path in DOCS.glob("*.md") if generated.MARK.search(path.read_text())]
    return {path.stem: generated.filled(path.read_text()) for path in paths}


def test_every_part_is_on_a_page(generated, pages):
    assert len(pages) == len(generated.PARTS) == 4
    assert not any("<!-- generated" in text for text in pages.values())


def test_every_flag_of_every_command_is_on_the_page(pages):
    sections = {}
    for part in pages["reference_cli"].split("\n## rlsuite ")[1:]:
        sections[part.partition("\n")[0]] = part
    assert {name.split()[0] for name in sections} == set(commands())
    for command in set(commands()) - {"list", "train", "sweep"}:
        for line, cls in _lines(command, importlib.import_module(f"rlsuite.cli.{command}")):
            for flag in arguments.flags(cls):
                assert flag in sections[line]
    sweep = importlib.import_module("rlsuite.bench.sweep").SweepArgs
    assert all(flag in sections["sweep"] for flag in arguments.flags(sweep))
    train = importlib.import_module("rlsuite.command.train")
    assert all(flag in sections["train AGENT"] for flag in arguments.flags(train.TrainArgs))
    assert all(flag in sections["train AGENT --dataset"] for flag in arguments.flags(train.OfflineArgs))


@pytest.mark.parametrize("kind", ["agent", "plugin"])
def test_every_field_is_in_its_table_with_its_default(kind, pages):
    page = pages["hyperparameters" if kind == "agent" else "hyperparameters_plugins"]
    names = getattr(registry, f"{kind}_names")()
    for name in names:
        config = getattr(registry, f"{kind}_class")(name).Config
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        prefix = "agent" if kind == "agent" else name
        rows = [line for line in section.splitlines() if line.startswith(f"| `--{prefix}.")]
        assert len(rows) == len(list(helptext.flags_of(config)))
        for field in dataclasses.fields(config):
            row = next(
                (row for row in rows if row.startswith(f"| `--{prefix}.{field.name.replace('_', '-')}")), ""
            )
            if isinstance(field.default, float):
                assert f"| `{field.default}` |" in row


def test_every_agent_and_plugin_is_in_the_api(generated, pages):
    listed = set(re.findall(r"^- \[([\w.]+)\]\(api/([\w.]+)\.md\): .+", pages["api"], flags=re.MULTILINE))
    assert all(shown == page for shown, page in listed)
    names = {page for _, page in listed}
    for kind in ("agent", "plugin"):
        for name in getattr(registry, f"{kind}_names")():
            module = getattr(registry, f"{kind}_class")(name).__module__.removeprefix("rlsuite.")
            assert module in names
    for name in names:
        importlib.import_module(f"rlsuite.{name}")


def test_nothing_is_without_an_explanation(generated):
    assert generated.undocumented() == []


def test_ranges_are_shown_where_a_field_may_be_none(pages):
    a2pr = pages["hyperparameters"].partition("\n## a2pr\n")[2]
    row = next(line for line in a2pr.splitlines() if "--agent.hidden-critic" in line)
    assert "`--agent.hidden-critic [INT ...]\\|none`" in row and "At least 1, at most 65536" in row
