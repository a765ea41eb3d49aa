"""Writing data sets: Minari's layout or D4RL's, staged beside the target and renamed when complete.

A reader, or a crash, sees a complete data set or none. Both writers take episodes one by one and keep one in
memory at most.

Legend: T steps of an episode, O observation, A action.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from rlsuite.errors import ConfigError
from rlsuite.offline.hdf5 import import_h5py
from rlsuite.offline.minari import MAIN_FILE, METADATA_FILE
from rlsuite.runs.files import DISK, FileLayer

MINARI_VERSION = "0.5.3"  # of the layout written here; Minari 0.5.3 and later read it
STAGE_PREFIX = ".stage-"
GOAL_KEY = "desired_goal"
D4RL_CHUNK_ROWS = 16_384  # of the compressed columns
D4RL_GZIP = 4  # zlib's level; D4RL's files are gzip, too

Observations = np.ndarray | Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One episode of T steps, actions in the units of the environment.

    Attributes:
        observations: `[T + 1, O]`, or a dictionary of such.
        actions: `[T, A]`.
        rewards: `[T]`.
        terminations: `[T]` bool.
        truncations: `[T]` bool.
        whole: whether it began at a reset and ended by the environment; False where the recording began or
            stopped inside, so that its return is that of no episode.
    """

    observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    whole: bool = True

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSpaces:
    """Spaces of an environment, as Minari's JSON (`rlsuite.offline.spaces`).

    Attributes:
        observation: a box or a dictionary.
        action: a box.
        env_spec: Gymnasium's own JSON of the environment, None where there is none.
    """

    observation: dict[str, Any]
    action: dict[str, Any]
    env_spec: str | None = None


@dataclass(slots=True)
class Tally:
    """Counts and returns of what was written; the behaviour policy's return is of whole episodes alone."""

    episodes: int = 0
    steps: int = 0
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add(self, episode: Recorded) -> None:
        """Count one episode."""
        self.episodes += 1
        self.steps += len(episode)
        if episode.whole:
            self.returns.append(float(np.sum(episode.rewards, dtype=np.float64)))
            self.lengths.append(len(episode))

    def behaviour(self) -> dict[str, Any]:
        """Return mean and std of the whole episodes' returns, and their mean length."""
        if not self.returns:
            return {"episodes": 0}
        return {
            "episodes": len(self.returns),
            "return_mean": float(np.mean(self.returns)),
            "return_std": float(np.std(self.returns)),
            "return_min": min(self.returns),
            "return_max": max(self.returns),
            "length_mean": float(np.mean(self.lengths)),
        }


class Writer(Protocol):
    """A data set in the making."""

    tally: Tally

    def add(self, episode: Recorded) -> None:
        """Append one episode."""

    def finish(self, metadata: Mapping[str, Any]) -> Path:
        """Put the complete data set in its place, with `metadata`; return where."""


class _Staged:
    """Base of both layouts: a stage folder that is gone afterwards, whatever happens."""

    def __init__(self, target: Path, fs: FileLayer) -> None:
        self._h5py = import_h5py()
        self.tally = Tally()
        self._target, self._fs = target, fs
        refuse_existing(target)
        try:
            fs.make_folder(target.parent)
            self._stage = target.parent / f"{STAGE_PREFIX}{target.name}-{os.getpid()}"
            fs.remove(self._stage)
            fs.make_folder(self._stage)
        except OSError as error:
            raise ConfigError(f"cannot write {target}: {error.strerror}; choose another --out") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self._close()
        with contextlib.suppress(OSError):
            self._fs.remove(self._stage)
        if isinstance(error, OSError):
            raise ConfigError(
                f"cannot write {self._target}: {error.strerror or error}; nothing is left of it"
            ) from error

    def _close(self) -> None:
        raise NotImplementedError

    def _place(self, staged: Path) -> Path:
        """Give the finished file or folder its name."""
        refuse_existing(self._target)
        self._fs.rename(staged, self._target)
        self._fs.sync_folder(self._target.parent)
        return self._target


class MinariWriter(_Staged):
    """Writes `root/dataset_id/data/` as Minari does, with contiguous arrays (they load twice as fast).

    Args:
        root: the folder that MINARI_DATASETS_PATH names.
        dataset_id: for example `rlsuite/pointmaze/umaze-v0`; its form is checked by the caller.
        spaces: of the environment.
        fs: the file layer.

    Raises:
        ConfigError: the data set exists already, or the folder cannot be written.
    """

    def __init__(self, root: Path, dataset_id: str, spaces: RecordedSpaces, *, fs: FileLayer = DISK) -> None:
        super().__init__(root / dataset_id, fs)
        self._root, self._id, self._spaces = root, dataset_id, spaces
        self._folder = self._stage / "data"
        fs.make_folder(self._folder)
        self._file = self._h5py.File(self._folder / MAIN_FILE, "w", track_order=True)

    def add(self, episode: Recorded) -> None:
        """Append one episode."""
        group = self._file.create_group(f"episode_{self.tally.episodes}")
        rewards = np.asarray(episode.rewards)
        group.attrs.update(
            {
                "id": self.tally.episodes,
                "total_steps": len(episode),
                "rewards_sum": np.sum(rewards),
                "rewards_mean": np.mean(rewards),
                "rewards_std": np.std(rewards),
                "rewards_min": np.min(rewards),
                "rewards_max": np.max(rewards),
            }
        )
        if isinstance(episode.observations, Mapping):
            part = group.create_group("observations")
            for name, values in episode.observations.items():
                part.create_dataset(name, data=values)
        else:
            group.create_dataset("observations", data=episode.observations)
        group.create_dataset("actions", data=episode.actions)
        group.create_dataset("rewards", data=rewards)
        group.create_dataset("terminations", data=np.asarray(episode.terminations, np.bool_))
        group.create_dataset("truncations", data=np.asarray(episode.truncations, np.bool_))
        self.tally.add(episode)

    def finish(self, metadata: Mapping[str, Any]) -> Path:
        """Write metadata.json last and give the folder its name; return it."""
        self._close()
        main = self._folder / MAIN_FILE
        sync_file(main)
        spec = {} if self._spaces.env_spec is None else {"env_spec": self._spaces.env_spec}
        document = {
            "total_episodes": self.tally.episodes,
            "total_steps": self.tally.steps,
            "data_format": "hdf5",
            "jpeg_encoding": True,
            "observation_space": json.dumps(self._spaces.observation),
            "action_space": json.dumps(self._spaces.action),
            **spec,
            "dataset_id": self._id,
            "minari_version": MINARI_VERSION,
            "dataset_size": round(main.stat().st_size / 1e6, 1),
            **metadata,
        }
        self._fs.write(self._folder / METADATA_FILE, json.dumps(document, indent=1).encode())
        self._fs.sync_folder(self._folder)
        target = self._place(self._stage)
        self._name_namespaces()
        return target

    def _close(self) -> None:
        self._file.close()

    def _name_namespaces(self) -> None:
        """Write the empty files by which Minari knows that the folders above are namespaces."""
        for parent in Path(self._id).parents:
            path = self._root / parent / "namespace_metadata.json"
            if parent != Path() and not path.exists():
                self._fs.write(path, b"{}")


class D4RLWriter(_Staged):
    """Writes one flat file in the legacy D4RL layout, with `next_observations`, so that no row is lost.

    Of dictionary observations `keys` become `observations`, and `desired_goal` becomes `infos/goal`.

    Args:
        path: the HDF5 file.
        spaces: of the environment; those of actions are kept as an attribute.
        keys: parts of a dictionary observation; by default `observation` alone.
        fs: the file layer.

    Raises:
        ConfigError: the file exists already, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        spaces: RecordedSpaces,
        *,
        keys: tuple[str, ...] = ("observation",),
        fs: FileLayer = DISK,
    ) -> None:
        super().__init__(path, fs)
        self._spaces = spaces
        self._keys = keys
        self._part = self._stage / path.name
        self._file = self._h5py.File(self._part, "w")

    def add(self, episode: Recorded) -> None:
        """Append one episode."""
        seen = episode.observations
        if isinstance(seen, Mapping):
            missing = [key for key in self._keys if key not in seen]
            if missing:
                raise ConfigError(f'the observation has no part "{missing[0]}", only {", ".join(seen)}')
            states = np.concatenate([seen[key] for key in self._keys], -1)
            if GOAL_KEY in seen:
                self._append("infos/goal", seen[GOAL_KEY][:-1])
        else:
            states = seen
        self._append("observations", states[:-1])
        self._append("next_observations", states[1:])
        self._append("actions", episode.actions)
        self._append("rewards", episode.rewards)
        self._append("terminals", np.asarray(episode.terminations, np.bool_))
        truncated = np.asarray(episode.truncations, np.bool_).copy()
        truncated[-1] |= not episode.terminations[-1]  # without a group per episode only a flag can end one
        self._append("timeouts", truncated)
        self.tally.add(episode)

    def finish(self, metadata: Mapping[str, Any]) -> Path:
        """Store `metadata` as attributes (JSON where they are no text) and give the file its name."""
        spaces = {"action_space": self._spaces.action, "env_spec": self._spaces.env_spec}
        for name, value in {**spaces, **metadata}.items():
            if value is None:
                continue
            self._file.attrs[name] = value if isinstance(value, str) else json.dumps(value)
        self._close()
        sync_file(self._part)
        return self._place(self._part)

    def _append(self, name: str, values: np.ndarray) -> None:
        values = values.astype(np.float32) if values.dtype.kind == "f" else values
        if name not in self._file:
            self._file.create_dataset(
                name,
                data=values,
                maxshape=(None, *values.shape[1:]),
                chunks=(D4RL_CHUNK_ROWS, *values.shape[1:]),
                compression="gzip",
                compression_opts=D4RL_GZIP,
            )
            return
        column = self._file[name]
        column.resize(len(column) + len(values), axis=0)
        column[-len(values) :] = values

    def _close(self) -> None:
        self._file.close()


def refuse_existing(target: Path) -> None:
    """Raise ConfigError where something has the name already; data sets are never overwritten."""
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target} exists already: delete it, or choose another name or --out")


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_all(
    writer: Writer, episodes: Iterator[Recorded], tell: Callable[[int], None] | None = None
) -> Tally:
    """Write every episode, telling the steps so far after each; return the tally."""
    for episode in episodes:
        writer.add(episode)
        if tell is not None:
            tell(writer.tally.steps)
    return writer.tally
