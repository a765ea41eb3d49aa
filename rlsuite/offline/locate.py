"""Find data sets on disk from `--dataset FILE | FOLDER | ID`.

Ids are looked up under MINARI_DATASETS_PATH (by default .minari/datasets in the home folder),
D4RL_DATASET_DIR (.d4rl/datasets) and OGBENCH_DATASET_DIR (.ogbench/data), where those packages look. A name
is checked before any file is touched.
"""

import os
from pathlib import Path
from typing import NamedTuple

from rlsuite.envs.ogbench_names import DEFAULT_TASK, find_recordings
from rlsuite.errors import ConfigError, unknown_name
from rlsuite.offline.names import (
    LIST_HINT,
    KnownSet,
    added_set,
    added_sets,
    check_name,
    known_sets,
    ogbench_set,
    recipes,
)

MINARI_VARIABLE = "MINARI_DATASETS_PATH"
D4RL_VARIABLE = "D4RL_DATASET_DIR"
OGBENCH_VARIABLE = "OGBENCH_DATASET_DIR"
FILE_SUFFIXES = (".hdf5", ".h5", ".npz")
MAX_PATH = 4_000  # characters; systems stop at 4,096
METADATA = Path("data", "metadata.json")


class Located(NamedTuple):
    """A data set's place; `path` need not exist when `known` can be downloaded there.

    `env` is the environment of the task that an id of OGBench's says, whose rewards its recordings get.
    """

    path: Path
    known: KnownSet | None
    env: str | None = None


def minari_root() -> Path:
    """Return the folder of Minari's data sets and of ours."""
    return Path(os.environ.get(MINARI_VARIABLE) or Path.home() / ".minari" / "datasets")


def d4rl_root() -> Path:
    """Return the folder of D4RL's files."""
    return Path(os.environ.get(D4RL_VARIABLE) or Path.home() / ".d4rl" / "datasets")


def ogbench_root() -> Path:
    """Return the folder of OGBench's files."""
    return Path(os.environ.get(OGBENCH_VARIABLE) or Path.home() / ".ogbench" / "data")


def locate(name: str) -> Located:
    """Say where a data set is, or would be.

    A path is what begins with a slash, a dot or a tilde or ends in .hdf5, .h5 or .npz; anything else is an
    id, or, where no id of that name is known, a folder below the working folder.

    Raises:
        ConfigError: no such file, folder or id; a name that could leave the data folder.
    """
    if "\0" in name or not name or len(name) > MAX_PATH:
        raise ConfigError(f"{name[:80]!r} cannot name a data set: empty, too long, or with a NUL in it")
    if name.startswith(("/", ".", "~")) or name.endswith(FILE_SUFFIXES):
        path = Path(name).expanduser()
        if not path.exists():
            raise unknown_name("a data set (there is no such file)", name, _beside(path), f"ls {path.parent}")
        return Located(path, _by_file_name(path))
    check_name(name)
    if (recorded := find_recordings(name)) is not None:
        task = recorded._replace(dataset_type="", task=recorded.task or DEFAULT_TASK)
        file = ogbench_set(recorded)
        return Located(inside(ogbench_root(), file.file_name), file, task.env_id)
    known = known_sets().get(name)
    if name in added_sets():
        added = added_set(name)
        if isinstance(added, Path):
            return Located(added, None)
        known = added
    if known is not None and known.layout in FLAT_ROOTS:
        return Located(inside(FLAT_ROOTS[known.layout](), known.file_name), known)
    path = inside(minari_root(), name)
    if known is not None or (path / METADATA).is_file():
        return Located(path, known)
    if (Path(name) / METADATA).is_file():
        return Located(Path(name), None)
    raise _unknown(name)


def is_here(name: str) -> bool:
    """Return whether a data set can be read without fetching or making it.

    Raises:
        ConfigError: no data set of that name is known, or it names a file that does not exist.
    """
    made = {recipe.dataset_id for recipe in recipes().values() if recipe.behaviour != "ogbench"}
    if name in made:
        return any((root / METADATA).is_file() for root in (inside(minari_root(), name), Path(name)))
    path, known, _ = locate(name)
    if known is None or known.layout in FLAT_ROOTS:
        return path.exists()
    return (path / METADATA).is_file()


FLAT_ROOTS = {"d4rl": d4rl_root, "ogbench": ogbench_root}
"""Folders of the layouts whose sets are single files."""


def inside(root: Path, name: str) -> Path:
    """Return `root/name`; ConfigError where a link leads out of `root`."""
    path = root / name
    resolved, home = path.resolve(), root.resolve()
    if resolved != home and home not in resolved.parents:
        raise ConfigError(f"{path} leads out of {root}, to {resolved}: name the file itself by its path")
    return path


def local_sets(root: Path) -> dict[str, Path]:
    """Return the Minari data sets below a root: folders by id; hidden folders (unfinished) are left out."""
    folders = {}
    for folder, names, _ in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if "data" in names and (Path(folder) / METADATA).is_file():
            folders[Path(folder).relative_to(root).as_posix()] = Path(folder)
            names.clear()
    return folders


def _by_file_name(path: Path) -> KnownSet | None:
    """Return the D4RL set whose file has this name, for its environment and its time limit."""
    files = (known for known in known_sets().values() if known.layout == "d4rl")
    return next((known for known in files if known.file_name == path.name), None)


def _beside(path: Path) -> list[str]:
    folder = path.parent
    return [str(folder / entry.name) for entry in folder.iterdir()] if folder.is_dir() else []


def _unknown(name: str) -> ConfigError:
    made = {recipe.dataset_id: key for key, recipe in recipes().items()}
    recipe = made.get(name) or (name if name in recipes() else None)
    if recipe is not None:
        return ConfigError(
            f"{name} is not in {minari_root()}: make it with rlsuite data make {recipe}, "
            f"or set {MINARI_VARIABLE}"
        )
    local = local_sets(minari_root()) if minari_root().is_dir() else {}
    return unknown_name("a data set", name, [*known_sets(), *added_sets(), *local], LIST_HINT)
