"""`--dataset` to rows: locate, download where allowed, read, transform."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.d4rl import DEFAULT_KEYS, read_attributes, read_d4rl
from rlsuite.offline.data import OfflineData, recipe_of
from rlsuite.offline.locate import Located, locate
from rlsuite.offline.minari import MAIN_FILE, env_of, is_minari, read_metadata, read_minari
from rlsuite.offline.names import KnownSet, recipes
from rlsuite.offline.ogbench import SUFFIX, environment_of_file, read_ogbench
from rlsuite.offline.scores import find_d4rl_reference
from rlsuite.offline.transforms import DataOptions, share_beyond, transformed


def load_dataset(
    name: str,
    *,
    keys: Sequence[str] | None = None,
    dictionary_keys: Sequence[str] | None = None,
    options: DataOptions | None = None,
    max_episode_steps: int | None = None,
    download: bool = True,
    env: str | None = None,
) -> OfflineData:
    """Read a data set by file, folder or id.

    Args:
        name: what `--dataset` says.
        keys: parts of the observation: of Minari's dictionaries ("observation", "desired_goal"), or columns
            of D4RL's files ("observations", "infos/goal").
        dictionary_keys: the same for data whose observations are dictionaries; others are read whole.
        options: clipping and reward transform; None reads as it is.
        max_episode_steps: for old D4RL files without `timeouts`.
        download: fetch a known id that is not here.
        env: where the run acts; OGBench's recordings have the rewards of its task, by default of the task
            that the id says.

    Raises:
        ConfigError: no such data set, or a missing package.
        DataError: it cannot be fetched or used.
    """
    located = ready(locate(name), download=download)
    if keys is None and is_minari(_folder_of(located.path)):
        keys = dictionary_keys
    data = read(located, keys=keys, max_episode_steps=max_episode_steps, env=env)
    return data if options is None else transformed(data, options)


def environment_of(name: str) -> str | None:
    """Return the environment of a data set without reading its transitions; None where nothing tells.

    Raises:
        ConfigError: no such data set.
        DataError: what it says of itself is damaged.
    """
    path, known, env = locate(name)
    path = _folder_of(path)
    metadata: dict[str, Any] = {}
    if path.suffix == SUFFIX:
        return env or environment_of_file(path)
    if is_minari(path):
        metadata = read_metadata(path / "data" if (path / "data").is_dir() else path)
    elif path.is_file():
        metadata = read_attributes(path)
    recorded_in = recipe_of(metadata).get("env")
    env = recorded_in if isinstance(recorded_in, str) else env_of(metadata)
    return env if env is not None or known is None else known.env


def _folder_of(path: Path) -> Path:
    """Return the folder of a Minari data set for its main file, any other path as it is."""
    return path.parent if path.name == MAIN_FILE else path


def ready(located: Located, *, download: bool = True) -> Located:
    """Return a data set's place once it is there, fetching it where it is known and missing."""
    if located.known is None:
        return located
    from rlsuite.offline.download import fetch_known, set_aside_if_cut

    set_aside_if_cut(located.path, located.known)
    if not _is_there(located):
        made_here = _made_here(located.known)
        if not download:
            raise ConfigError(
                f"{located.known.name} is not at {located.path}, and downloads are off{made_here}"
            )
        try:
            fetch_known(located.known, located.path)
        except DataError as error:
            raise DataError(f"{error}{made_here}") from error
    return located


def _made_here(known: KnownSet) -> str:
    """Return what an error adds where a set of the same name can be made."""
    recipe = next((recipe for recipe in recipes().values() if recipe.dataset_id == known.name), None)
    return "" if recipe is None else f"; or make recordings of your own: rlsuite data make {recipe.name}"


def _is_there(located: Located) -> bool:
    """Return whether a data set is complete: a folder alone may be all that a broken download left."""
    assert located.known is not None
    return is_minari(located.path) if located.known.layout == "minari" else located.path.exists()


def read(
    located: Located,
    *,
    keys: Sequence[str] | None = None,
    max_episode_steps: int | None = None,
    env: str | None = None,
) -> OfflineData:
    """Read what lies at a place, by its layout, and add what the names know about it."""
    path, known, task_env = located
    path = _folder_of(path)
    if path.is_dir():
        if not is_minari(path):
            raise ConfigError(
                f"{path} is a folder without data/metadata.json: name a data set's folder or file"
            )
        data = read_minari(path, keys=keys)
    elif path.suffix == SUFFIX:
        if keys is not None:
            raise ConfigError(f"{path} has observations without parts: leave out the keys {', '.join(keys)}")
        return read_ogbench(path, env or task_env)
    else:
        limit = max_episode_steps or (known.max_episode_steps if known is not None else None)
        data = read_d4rl(path, keys=DEFAULT_KEYS if keys is None else tuple(keys), max_episode_steps=limit)
    return _described(data, known)


def _described(data: OfflineData, known: KnownSet | None) -> OfflineData:
    """Add name, environment and references from the registry where the file does not bring its own."""
    name = known.name if known is not None else data.name
    recorded_in = data.recipe.get("env")
    env = recorded_in if isinstance(recorded_in, str) else data.env
    if env is None and known is not None:
        env = known.env
    reference = data.reference
    if reference is None:
        reference = find_d4rl_reference(name) if data.layout == "d4rl" else None
    if reference is None and env is not None:
        reference = find_d4rl_reference(env)
    return replace(data, name=name, env=env, reference=reference)


def summary(data: OfflineData) -> dict[str, Any]:
    """Return the facts about a data set that `rlsuite data check` prints."""
    returns, lengths, next_td = data.returns(), data.lengths(), data.rows["next"]
    facts: dict[str, Any] = {
        "name": data.name,
        "source": str(data.source),
        "layout": data.layout,
        "env": data.env,
        "transitions": len(data.rows),
        "episodes": len(data.episodes),
        "terminated": int(next_td["terminated"].sum()),
        "truncated": int(next_td["truncated"].sum()),
        "successors_missing": data.standins,
        "observation": {part.key: part.width for part in data.parts},
        "action": data.rows["action"].shape[-1],
        "action_max": float(data.rows["action"].abs().max()),
        "action_beyond_1": share_beyond(data.rows["action"]),
        "length_mean": float(lengths.double().mean()),
        "return_mean": float(returns.mean()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "checksum": data.replay(batch_size=1).state_dict()["checksum"],
    }
    if data.reference is not None:
        facts["references"] = [data.reference.low, data.reference.high, data.reference.source]
        # Recordings in mazes end where a goal is reached: their returns are not those of an evaluation.
        if data.reference.source == "d4rl" and "maze" not in data.name:
            facts["score_mean"] = float(data.reference.score(returns.mean()))
    if data.recipe:
        facts["behaviour"] = data.recipe.get("behaviour")
    return facts
