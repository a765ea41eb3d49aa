"""The API's pages, one a module, written to docs/api/ before each build; docs/api.md lists them by room."""

from pathlib import Path
from typing import Any

from rlsuite import registry

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "rlsuite"
FOLDER = DOCS / "api"  # all of it is made here

ROOMS: dict[str, tuple[str, ...]] = {
    "Runs": (
        *("api", "training.callbacks", "training.loaded", "runs.config"),
        *("training.evaluate", "training.export", "hub.transfer"),
    ),
    "Agents": ("agents.**",),
    "Environments": (
        *("envs.make", "envs.base", "envs.tasks.base", "envs.stock", "envs.discrete"),
        *("envs.gymnasium_view", "envs.sb3", "envs.tensors", "envs.split"),
    ),
    "Replay and recorded data": (
        *("replay.uniform", "replay.offline"),
        *("offline.load", "offline.data", "offline.names", "offline.transforms"),
    ),
    "Plug-ins": ("plugins.*",),
    "Return distributions and statistics": (
        *("returns.objectives", "returns.laws", "returns.mdp", "returns.tabular", "returns.vectorised"),
        "report.statistics",
    ),
    "Names, extensions, errors": ("registry", "extensions", "strict", "errors"),
}
"""What other programs may use, by room: modules; `.*` is every module of a folder, `.**` also those below."""


def modules(room: str) -> list[str]:
    """Return the modules of a room, without `rlsuite.`; a folder's in the order of their names."""
    names: list[str] = []
    for pattern in ROOMS[room]:
        folder, star, every = pattern.partition(".*")
        if not star:
            names.append(pattern)
            continue
        files = sorted((PACKAGE / folder).glob("**/*.py" if every else "*.py"))
        parts = [path.relative_to(PACKAGE).with_suffix("").parts for path in files]
        names += [".".join(words) for words in parts if not words[-1].startswith("_")]
    return names


def listed() -> str:
    """Return the rooms with their modules, each with its docstring's first line, and a link."""
    parts = []
    for room in ROOMS:
        names = modules(room)
        rows = [
            f"- [{name}](api/{name}.md): {registry.summary_of(PACKAGE / (name.replace('.', '/') + '.py'))}"
            for name in names
        ]
        pages = "\n".join(f"api/{name}" for name in names)
        parts += [f"## {room}", "\n".join(rows), f"```{{toctree}}\n:hidden:\n\n{pages}\n```"]
    return "\n\n".join(parts)


def write(app: Any = None) -> None:
    """Write the pages that are missing or not as they should be; remove those of modules that are gone."""
    FOLDER.mkdir(exist_ok=True)
    wanted = {f"{name}.md": name for room in ROOMS for name in modules(room)}
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for file, name in wanted.items():
        text = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: rlsuite.{name}\n```\n"
        path = FOLDER / file
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx write the pages before it looks for them."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
