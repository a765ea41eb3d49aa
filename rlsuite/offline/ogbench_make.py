"""Recordings made as OGBench's were, on several processes, going on after an interruption.

An episode depends on the seed and its number alone (`ogbench_record`), so the number of processes changes
nothing, and the episodes of an interrupted making are kept. A file has T + 1 rows for T transitions of an
episode; the last action is recorded and leads nowhere.
"""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.envs.base import package_versions
from rlsuite.errors import ConfigError
from rlsuite.offline.data import RECIPE_KEY
from rlsuite.offline.names import Recipe
from rlsuite.offline.ogbench import SUFFIX
from rlsuite.offline.ogbench_record import ArmBehaviour, MazeBehaviour, Plan
from rlsuite.offline.write import refuse_existing, sync_file
from rlsuite.runs.files import DISK, write_atomic
from rlsuite.version import __version__

Tell = Callable[[int], None]

CHUNK_ROWS = 10_000  # about so many in one file on the way: what an interruption may cost


def make(
    plan: Plan, recipe: Recipe, out: Path, *, jobs: int = 1, command: str = "", tell: Tell | None = None
) -> Path:
    """Make `out/NAME.npz` and `out/NAME-val.npz`, going on where an interrupted making of the same stopped.

    Args:
        plan: what to make.
        recipe: of the set.
        out: the folder that OGBench's loader calls `dataset_dir`.
        jobs: processes.
        command: that asked for it; kept in the files.
        tell: called with the transitions so far.

    Returns:
        The file for training.

    Raises:
        ConfigError: the set exists, something else of its name is half made, or `out` cannot be written.
    """
    target = out / f"{plan.name}{SUFFIX}"
    refuse_existing(target)
    stage = out / f".making-{plan.name}"
    facts = json.dumps({**asdict(plan), "versions": _versions()}, indent=1)
    try:
        stage.mkdir(parents=True, exist_ok=True)
        begun = stage / "plan.json"
        if begun.exists() and begun.read_text() != facts:
            raise ConfigError(
                f"{stage} is half of another making of {plan.name} (other size, seed or versions): ask for "
                "that again to finish it, or delete the folder"
            )
        write_atomic(begun, facts.encode())
        made = _record(plan, stage, jobs, tell)
        text = json.dumps(_recipe(plan, recipe, command))
        # Validation first: where the file for training is, both are.
        for path, wanted in (
            (target.with_name(f"{plan.name}-val{SUFFIX}"), range(plan.episodes, plan.all_episodes)),
            (target, range(plan.episodes)),
        ):
            _join(made, wanted, plan, text, stage / path.name)
            DISK.rename(stage / path.name, path)
        DISK.sync_folder(out)
        DISK.remove(stage)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}; choose another --out") from error
    return target


def _chunk(plan: Plan) -> int:
    """Return the episodes of a file on the way."""
    return max(1, CHUNK_ROWS // plan.rows)


def _record(plan: Plan, stage: Path, jobs: int, tell: Tell | None) -> list[Path]:
    """Record every chunk that is not there yet; return the files of all, in order."""
    chunks = [
        range(start, min(start + _chunk(plan), plan.all_episodes))
        for start in range(0, plan.all_episodes, _chunk(plan))
    ]
    files = [stage / f"{chunk.start:06d}{SUFFIX}" for chunk in chunks]
    missing = [(chunk, file) for chunk, file in zip(chunks, files, strict=True) if not file.exists()]
    done = len(files) - len(missing)

    def told() -> None:
        if tell is not None:
            tell(min(done * _chunk(plan), plan.all_episodes) * plan.steps)

    if jobs == 1:
        for chunk, file in missing:
            record_chunk(plan, chunk, file)
            done += 1
            told()
        return files
    with ProcessPoolExecutor(min(jobs, max(1, len(missing))), multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(record_chunk, plan, chunk, file) for chunk, file in missing]
        try:
            for finished in as_completed(waiting):
                finished.result()
                done += 1
                told()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return files


def record_chunk(plan: Plan, wanted: range, file: Path) -> None:
    """Record the episodes of some numbers, and give the file its name when it is complete."""
    behaviour = MazeBehaviour if plan.env.startswith("pointmaze") else ArmBehaviour
    with closing(behaviour(plan)) as acting:
        episodes = [acting.episode(number) for number in wanted]
    keys = episodes[0]
    columns: dict[str, Any] = {key: np.concatenate([episode[key] for episode in episodes]) for key in keys}
    part = file.with_suffix(f".part{SUFFIX}")
    np.savez(part, **columns)
    sync_file(part)
    part.rename(file)


def _join(files: list[Path], wanted: range, plan: Plan, recipe: str, target: Path) -> None:
    """Write the episodes of some numbers into one compressed file."""
    parts: dict[str, list[np.ndarray]] = {}
    for index in range(wanted.start // _chunk(plan), (wanted.stop - 1) // _chunk(plan) + 1):
        first = index * _chunk(plan)
        inside = slice(max(0, wanted.start - first) * plan.rows, (wanted.stop - first) * plan.rows)
        with np.load(files[index], allow_pickle=False) as chunk:
            for key in chunk.files:
                parts.setdefault(key, []).append(chunk[key][inside])
    columns: dict[str, Any] = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    columns[RECIPE_KEY] = np.array(recipe)
    np.savez_compressed(target, **columns)
    sync_file(target)


def _versions() -> dict[str, str]:
    return {"rlsuite": __version__, **package_versions(("ogbench", "mujoco", "gymnasium", "numpy"))}


def _recipe(plan: Plan, recipe: Recipe, command: str) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "dataset": plan.name,
        "env": recipe.env,
        "command": command,
        "seed": plan.seed,
        "versions": _versions(),
        "policy": {"name": recipe.summary, **asdict(plan)},
        "behaviour": {"episodes": plan.episodes, "length_mean": plan.steps},
    }
