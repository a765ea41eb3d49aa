"""Names of agents, plug-ins, tasks and data sets, read from their files without importing any of them.

A file or folder of `rlsuite/agents/` is an agent when a public class in it has a `Config`, and so is one of
`rlsuite/plugins/` a plug-in; environments are listed by `rlsuite.envs.names`, which imports nothing heavy.
Other packages add theirs through entry points, a module named with `--import` through the functions
`register_...` (`rlsuite.extensions`).
Summaries are the first lines of docstrings, read by `ast`, so that listing costs no import of torch.
"""

import ast
import importlib
import importlib.util
import inspect
import re
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from rlsuite import extensions
from rlsuite.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from rlsuite.agents.base import Agent
    from rlsuite.plugins.base import Plugin

_PACKAGE = Path(__file__).parent
_VERSION_SUFFIX = re.compile(r"-v\d+$")


def summary_of(path: Path) -> str:
    """Return the first line of the docstring of a Python file, without running it; "" when it has none."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.splitlines()[0] if docstring else ""


def modules_in(folder: Path) -> dict[str, Path]:
    """Return the public modules and packages of a folder by name, without importing them."""
    paths = {path.stem: path for path in folder.glob("*.py")}
    paths |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    return {name: paths[name] for name in sorted(paths) if not name.startswith("_")}


def register_agent(name: str, target: str) -> None:
    """Make an agent of the user's own known as `name`; for modules loaded by `--import`.

    Args:
        name: what `rlsuite train NAME` calls it.
        target: the module it lives in, `package.module` or `package.module:Class`.

    Raises:
        ConfigError: the name is taken by another target.
    """
    _register("agent", name, target, _agent_targets())


def register_plugin(name: str, target: str) -> None:
    """Make a plug-in known as `--plugins NAME`; see `register_agent`."""
    _register("plugin", name, target, _plugin_targets())


def register_task(name: str, target: str) -> None:
    """Make a task known as `--env NAME`; docs/extending.md says what its module has."""
    ours = {known: "rlsuite" for known, _ in env_names()}
    _register("task", name, target, ours | extensions.targets("task"))


def register_dataset(name: str, target: str) -> None:
    """Make a data set known as `--dataset NAME`: `target` is a `KnownSet`, or a function of its path."""
    ours = {known: "rlsuite" for known, _ in dataset_names()}
    _register("dataset", name, target, ours | extensions.targets("dataset"))


def _register(category: extensions.Category, name: str, target: str, known: dict[str, str]) -> None:
    if known.get(name, target) != target:
        article = "an" if category == "agent" else "a"
        raise ConfigError(
            f'{article} {category} named "{name}" exists already ({known[name]}): choose another name'
        )
    extensions.register(category, name, target)


def agent_names() -> dict[str, str]:
    """Return every agent's name with its one-line summary."""
    summaries = {name: f"from {target}" for name, target in _agent_targets().items()}
    summaries |= {name: summary_of(path) for name, path in _agent_files().items()}
    return dict(sorted(summaries.items()))


def agent_traits(name: str) -> tuple[str, str]:
    """Return what an agent learns from, "online" or "offline", and its actions, "continuous" or "discrete".

    Read from the assignments `needs_data = True` and `discrete = True` (or None: both) in its file; "" of
    agents that other packages added.
    """
    if not is_agent_file(name):
        return "", ""
    path = modules_in(_PACKAGE / "agents")[name]
    paths = path.parent.glob("*.py") if path.name == "__init__.py" else [path]
    assignments = [
        line
        for file in paths
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and _sets_config(node)
        for line in node.body
        if isinstance(line, ast.Assign | ast.AnnAssign)
    ]
    given = {
        target.id: line.value.value
        for line in assignments
        if isinstance(line.value, ast.Constant)
        for target in (line.targets if isinstance(line, ast.Assign) else [line.target])
        if isinstance(target, ast.Name)
    }
    actions = {True: "discrete", None: "continuous or discrete"}
    return (
        "offline" if given.get("needs_data") is True else "online",
        actions.get(given.get("discrete", False), "continuous"),  # type: ignore[arg-type]
    )


def check_agent_name(name: str) -> None:
    """Raise ConfigError with the nearest name unless `name` is an agent."""
    if not is_agent_file(name) and name not in extensions.targets("agent"):
        raise unknown_name("an agent", name, _agent_targets(), "rlsuite list agents")


def agent_class(name: str) -> "type[Agent]":
    """Import the one module of an agent and return its `Agent` subclass; its `Config` has the fields.

    Raises:
        ConfigError: the name is unknown, or its module does not define exactly one agent.
    """
    check_agent_name(name)
    base = importlib.import_module("rlsuite.agents.base").Agent
    if is_agent_file(name):
        module, class_name = importlib.import_module(f"rlsuite.agents.{name}"), ""
    else:
        module = extensions.module_of("agent", name)
        class_name = extensions.targets("agent")[name].partition(":")[2]
    return cast("type[Agent]", _one_subclass(module, class_name, base, "agent", name))


def plugin_names() -> dict[str, str]:
    """Return every plug-in's name with its one-line summary."""
    summaries = {name: f"from {target}" for name, target in _plugin_targets().items()}
    summaries |= {name: summary_of(path) for name, path in _plugin_files().items()}
    return dict(sorted(summaries.items()))


def plugin_class(name: str) -> "type[Plugin]":
    """Import the one module of a plug-in and return its `Plugin` subclass; its `Config` has the fields.

    Raises:
        ConfigError: the name is unknown, or its module does not define exactly one plug-in.
    """
    names = plugin_names()
    if name not in names:
        raise unknown_name("a plug-in", name, names, "rlsuite list plugins")
    base = importlib.import_module("rlsuite.plugins.base").Plugin
    if name in _plugin_files():
        module, class_name = importlib.import_module(f"rlsuite.plugins.{name}"), ""
    else:
        module = extensions.module_of("plugin", name)
        class_name = extensions.targets("plugin")[name].partition(":")[2]
    return cast("type[Plugin]", _one_subclass(module, class_name, base, "plug-in", name))


def env_names() -> list[tuple[str, str]]:
    """Return id and one-line summary of every task of our own, and of the doors to other packages' ids."""
    names: list[tuple[str, str]] = importlib.import_module("rlsuite.envs.names").env_names()
    return names


def dataset_names() -> list[tuple[str, str]]:
    """Return name and one-line summary of every data set that can be fetched or made."""
    names: list[tuple[str, str]] = importlib.import_module("rlsuite.offline.names").dataset_names()
    return names


def check_env_name(env_id: str) -> None:
    """Raise ConfigError with the nearest name if `env_id` is surely no environment.

    Names after `gym:` and `dmc:` are known only to those packages, and which versions of a task exist only to
    `make_env`: both are left to it.
    """
    names = [name for name, _ in env_names()]
    doors = tuple(f"{name.partition(':')[0]}:" for name in names if ":" in name)
    ours = [name for name in names if ":" not in name]
    if not env_id.startswith(doors) and plain_env_name(env_id) not in {plain_env_name(name) for name in ours}:
        if _VERSION_SUFFIX.search(env_id) and env_id in importlib.import_module("gymnasium").registry:
            raise ConfigError(f'"{env_id}" is Gymnasium\'s: name it with its door, --env gym:{env_id}')
        raise unknown_name("an environment", env_id, names, "rlsuite list envs")


def plain_env_name(env_id: str) -> str:
    """Return an environment's name without prefixes and version: `gym:Hopper-v5` is `Hopper`."""
    return _VERSION_SUFFIX.sub("", env_id.rpartition(":")[2])


def plain_dataset_name(dataset: str) -> str:
    """Return a data set's id or path in D4RL's spelling: `D4RL/pen/human-v2` is `d4rl-pen-human-v2`.

    Of a path everything is kept but the suffix: patterns begin with a star to match it. A file of OGBench's
    (.npz) has its id.
    """
    if dataset.endswith(".npz"):
        dataset = f"ogbench/{Path(dataset).stem}"
    plain = dataset.rstrip("/").removesuffix(".h5").removesuffix(".hdf5")
    return plain.replace("/", "-").replace("_", "-").lower()


def is_agent_file(name: str) -> bool:
    """Return whether an agent of ours is called `name`; reads that agent's file alone."""
    return name in modules_in(_PACKAGE / "agents") and _has_config(modules_in(_PACKAGE / "agents")[name])


def _agent_files() -> dict[str, Path]:
    return {name: path for name, path in modules_in(_PACKAGE / "agents").items() if _has_config(path)}


def _plugin_files() -> dict[str, Path]:
    return {name: path for name, path in modules_in(_PACKAGE / "plugins").items() if _has_config(path)}


@lru_cache
def _has_config(path: Path) -> bool:
    """Return whether a public class of a module, or of a package's modules, says what its `Config` is."""
    paths = path.parent.glob("*.py") if path.name == "__init__.py" else [path]
    return any(_sets_config(node) for path in paths for node in ast.parse(path.read_text("utf-8")).body)


def _sets_config(node: ast.stmt) -> bool:
    if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
        return False
    assigned = [line for line in node.body if isinstance(line, ast.Assign | ast.AnnAssign) and line.value]
    targets = [
        t for line in assigned for t in getattr(line, "targets", None) or [getattr(line, "target", None)]
    ]
    return any(isinstance(target, ast.Name) and target.id == "Config" for target in targets)


def _agent_targets() -> dict[str, str]:
    ours = {name: f"rlsuite.agents.{name}" for name in _agent_files()}
    return dict(sorted((extensions.targets("agent") | ours).items()))  # nobody shadows our own names


def _plugin_targets() -> dict[str, str]:
    ours = {name: f"rlsuite.plugins.{name}" for name in _plugin_files()}
    return dict(sorted((extensions.targets("plugin") | ours).items()))


def _one_subclass(module: ModuleType, class_name: str, base: type, category: str, name: str) -> type:
    """Return the class that `class_name` says, else the one public subclass of `base` in `module`."""
    if class_name:
        classes = [getattr(module, class_name, None)]
    else:
        public = [item for key, item in vars(module).items() if not key.startswith("_")]
        classes = [item for item in public if _is_own_subclass(item, base, module.__name__)]
    if len(classes) != 1 or not (inspect.isclass(classes[0]) and issubclass(classes[0], base)):
        raise ConfigError(
            f'{module.__name__} defines {len(classes)} {category}s for the name "{name}": give it exactly '
            f"one subclass of {base.__module__}.{base.__name__}, or name the class as module:Class"
        )
    return cast(type, classes[0])


def _is_own_subclass(item: object, base: type, module_name: str) -> bool:
    return inspect.isclass(item) and issubclass(item, base) and item.__module__.startswith(module_name)
