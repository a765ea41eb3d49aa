"""Small data sets on disk, in both layouts, whose numbers say where they come from."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

DATA = Path(os.environ.get("RLSUITE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def shared(name: str) -> Path:
    """Return a file of other people's data; skip the test, by name, where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here (set RLSUITE_TEST_DATA)")
    return path


def write_flat(path: Path, **columns) -> Path:
    """Write a legacy D4RL file; `infos__goal` becomes infos/goal."""
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name.replace("__", "/")] = values
    return path


def flat_columns(rows: int, *, terminals=(), timeouts=(), width: int = 3, action: int = 2) -> dict:
    """Return columns whose observation i is [i, i, ...] + 1 and whose reward i is i."""
    marks = {"terminals": terminals, "timeouts": timeouts}
    flags = {name: np.isin(np.arange(rows), at) for name, at in marks.items()}
    steps = np.arange(rows, dtype=np.float32)
    return {
        "observations": np.repeat(steps[:, None] + 1, width, 1),
        "actions": np.repeat(steps[:, None] / rows, action, 1),
        "rewards": steps,
        **flags,
    }


def box(width: int, dtype="float64", low=-10.0, high=10.0) -> dict:
    return {"type": "Box", "dtype": dtype, "shape": [width], "low": [low] * width, "high": [high] * width}


def episodes_of(lengths, *, keys=(), width: int = 3, action: int = 2, seed: int = 0) -> list[dict]:
    """Return episodes of random numbers; with `keys` the observation is a dictionary of them."""
    rng = np.random.default_rng(seed)
    found = []
    for number, steps in enumerate(lengths):
        observation = (
            {key: rng.normal(size=(steps + 1, width)) for key in keys}
            if keys
            else rng.normal(size=(steps + 1, width))
        )
        ends = np.arange(steps) == steps - 1
        found.append(
            {
                "observations": observation,
                "actions": rng.uniform(-1, 1, (steps, action)).astype(np.float32),
                "rewards": rng.normal(size=steps),
                "terminations": ends & (number % 2 == 0),
                "truncations": ends & (number % 2 == 1),
            }
        )
    return found


def metadata_of(episodes: list[dict], dataset_id: str = "tests/toy-v0", **more) -> dict:
    first = episodes[0]["observations"]
    if isinstance(first, dict):
        space = {"type": "Dict", "subspaces": {key: box(part.shape[1]) for key, part in first.items()}}
    else:
        space = box(first.shape[1])
    action = box(episodes[0]["actions"].shape[1], "float32", -1.0, 1.0)
    return {
        "total_episodes": len(episodes),
        "total_steps": sum(len(episode["rewards"]) for episode in episodes),
        "data_format": "hdf5",
        "dataset_id": dataset_id,
        "minari_version": "0.5.4",
        "observation_space": json.dumps(space),
        "action_space": json.dumps(action),
        **more,
    }


def write_minari(root: Path, episodes: list[dict], **more) -> Path:
    """Write a Minari data set by hand; return its folder."""
    metadata = metadata_of(episodes, **more)
    folder = root / metadata["dataset_id"]
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number, episode in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            for name, values in episode.items():
                if isinstance(values, dict):
                    for key, part in values.items():
                        group[f"{name}/{key}"] = part
                else:
                    group[name] = values
    return folder
