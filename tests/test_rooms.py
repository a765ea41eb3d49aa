"""What import-linter cannot say: who may import an agent, a plug-in, a private module of another folder."""

import ast
import itertools
import re
import tomllib
from pathlib import Path

import rlsuite
from rlsuite import registry

PACKAGE = Path(rlsuite.__file__).parent
ROOT = PACKAGE.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
AGENTS = {f"rlsuite.agents.{name}" for name in registry._agent_files()}


def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module of the package by its dotted name."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text("utf-8"))
    return trees


TREES = modules()


def imported(tree: ast.Module) -> dict[str, set[str]]:
    """Return the names that a module takes, by the module of ours that it takes them from."""
    taken: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rlsuite"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                module = whole if whole in TREES else node.module
                taken.setdefault(module, set()).add(alias.name)
    return taken


def agent_of(module: str) -> str | None:
    """Return the agent that a module belongs to."""
    return next((agent for agent in AGENTS if f"{module}.".startswith(f"{agent}.")), None)


def bases(tree: ast.Module) -> set[str]:
    """Return the names of all classes that a module derives from."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {base.id for node in classes for base in node.bases if isinstance(base, ast.Name)}


def test_files_of_agents_and_plugins_are_told_from_what_they_share():
    assert {"dsac_t", "ldcq", "sac", "td3"} <= set(registry._agent_files())
    assert not {"base", "losses", "policies"} & set(registry._agent_files())
    assert set(registry.plugin_names()) >= {"grama", "least", "redo"}
    assert not {"base", "neurons", "wrappers"} & set(registry.plugin_names())


def test_a_concrete_agent_is_imported_by_those_that_derive_from_it_alone():
    wrong = []
    for name, tree in TREES.items():
        for module, names in imported(tree).items():
            agent = agent_of(module)
            if agent is None or agent == agent_of(name):
                continue
            parents = bases(tree) if agent_of(name) else set()
            if not parents & names:
                wrong.append(f"{name} imports {module}")
    assert not wrong


def test_no_file_imports_a_private_module_of_another_folder():
    wrong = []
    for name, tree in TREES.items():
        for module in imported(tree):
            folder, _, last = module.rpartition(".")
            if last.startswith("_") and not last.startswith("__") and folder != name.rpartition(".")[0]:
                wrong.append(f"{name} imports {module}")
    assert not wrong


def test_the_contract_of_plugins_names_all_of_them():
    (contract,) = [c for c in CONTRACTS if c["name"].startswith("plug-ins need torch alone")]
    names = {name.rpartition(".")[2] for name in contract["source_modules"]}
    assert names == set(registry.modules_in(PACKAGE / "plugins")) - {"wrappers"}


def test_no_contract_makes_an_exception():
    assert not [contract["name"] for contract in CONTRACTS if "ignore_imports" in contract]


def test_the_design_names_every_room_and_no_other():
    page = (ROOT / "docs" / "design.md").read_text()
    block = re.search(r"```\nrlsuite/\n(.*?)```", page, re.S)[1].partition("benchmarks/")[0]
    shown = set(re.findall(r"^  (\w+(?:/|\.py))", block, re.M))
    folders = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    files = {path.name for path in PACKAGE.glob("[!_]*.py")}
    assert shown == folders | files


def test_the_design_shows_the_order_of_the_contract():
    page = (ROOT / "docs" / "design.md").read_text()
    place = {
        name: page.index(f"\n  {name}")
        for contract in CONTRACTS
        for layer in contract.get("layers", ())
        for name in layer.replace(" ", "").split("|")
    }
    layers = [layer.replace(" ", "").split("|") for layer in CONTRACTS[0]["layers"]]
    for upper, lower in itertools.pairwise(layers):
        assert max(place[name] for name in upper) < min(place[name] for name in lower), (upper, lower)


def test_no_variable_has_a_name_that_says_nothing():
    vague = {"found", "own", "one", "kind", "words", "numbers"}
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            name = node.id if stored else node.arg if isinstance(node, ast.arg) else None
            assert name not in vague, f"{module}, line {node.lineno}: name what `{name}` is"


def test_a_file_of_more_than_400_lines_has_its_reason_on_the_design_page():
    page = (ROOT / "docs" / "design.md").read_text()
    reasons = set(re.findall(r"^\| `([\w/]+\.py)` \| \w", page, re.M))
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    sizes = {name: len(path.read_text("utf-8").splitlines()) for name, path in files.items()}
    assert {name for name, size in sizes.items() if size > 400} == reasons
