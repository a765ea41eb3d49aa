"""Checkpoints that survive: one new folder per save, complete or absent, every byte under a digest.

```
ckpt/step-000000200000/
  manifest.json        written last: format, step, config digest, score, versions, files with size and SHA-256
  agent.safetensors    one file per part
  counters.json        one file per document
  replay/chunk-0003.safetensors    one file per chunk of rows; an unchanged chunk is a hard link
```

Only safetensors and JSON are written or read: neither format can hold code. An empty file `PIN` inside a
checkpoint keeps it from being pruned. One process writes (the lock of the run folder), any number read.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from rlsuite.errors import DataError
from rlsuite.runs import manifest as manifests
from rlsuite.runs.canonical import config_digest as config_digest
from rlsuite.runs.files import DISK, FileLayer
from rlsuite.runs.manifest import FileRecord, Manifest
from rlsuite.runs.tensorfile import check_like as check_like
from rlsuite.runs.tensorfile import tensor_bytes

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
PIN_FILE = "PIN"
REPLAY_FOLDER = "replay"
STAGE_PREFIX = ".stage-"

SPARE_BYTES = 1 << 20  # room asked for beyond the payload: manifest, folder entries, block rounding

_STEP_FOLDER = re.compile(r"step-(\d{12})(?:-(\d{1,6}))?")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class CheckpointWriteError(DataError):
    """A checkpoint could not be written; older ones are intact and no stage folder is left.

    Attributes:
        needed: bytes the checkpoint needs, as far as known when it failed.
        free: bytes free on its file system at that moment.
    """

    def __init__(self, message: str, *, needed: int, free: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedChunk:
    """A part of the replay that is written only when it changed.

    Attributes:
        name: file stem, the same in every checkpoint ("chunk-0003").
        version: anything that differs whenever the rows differ, e.g. the rows written so far.
        rows: returns the rows; called only when they must be written, and freed before the next chunk.
        nbytes: size of the rows where known, for the free-space check.
    """

    name: str
    version: int
    rows: Callable[[], Mapping[str, Tensor]]
    nbytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A verified checkpoint: parts and documents in memory, chunks read when iterated over."""

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    documents: dict[str, Any]
    manifest: Manifest

    def chunks(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield name and rows of every replay chunk in the order of its name, one in memory at a time.

        Raises:
            DataError: a chunk changed on the disk since this checkpoint was loaded.
        """
        for name, record in sorted(self.manifest.files.items()):
            if name.startswith(f"{REPLAY_FOLDER}/"):
                yield Path(name).stem, _read_tensors(self.path / name, record)


def _from_format_1(old: Loaded) -> Loaded:
    """Format 2 says what wrote a checkpoint: nobody knows of an older one."""
    return dataclasses.replace(old, manifest=dataclasses.replace(old.manifest, written_by={}, format=2))


MIGRATIONS: dict[int, Callable[[Loaded], Loaded]] = {1: _from_format_1}
"""What turns a checkpoint of format n into one of format n + 1."""


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, *, keep_last: int = 2, fs: FileLayer = DISK) -> None:
        """Use `folder` (made at the first save); keep the `keep_last` newest, the best and the pinned."""
        if keep_last < 1:
            raise ValueError(f"keep_last = {keep_last}: at least the newest checkpoint is kept")
        self.folder = folder
        self.keep_last = keep_last
        self._fs = fs
        # Chunks that this process wrote or verified, so that a link never spreads unseen damage.
        self._linkable: dict[tuple[str, int], tuple[Path, FileRecord]] = {}
        self._broken: set[Path] = set()

    def save(
        self,
        step: int,
        *,
        tensors: Mapping[str, Mapping[str, Tensor]],
        documents: Mapping[str, Any],
        chunks: Iterable[SavedChunk] = (),
        config_digest: str,
        score: float | None = None,
        written_by: Mapping[str, str] | None = None,
    ) -> Path:
        """Write a checkpoint, then prune; return its folder.

        Args:
            step: env steps (gradient steps offline) done.
            tensors: state by part; each becomes `<part>.safetensors`. Any device, views are fine.
            documents: JSON values by name; each becomes `<name>.json`. No NaN or infinity.
            chunks: the replay. Chunks whose version is that of the last checkpoint are hard links.
            config_digest: `config_digest` of the run's configuration.
            score: higher is better; the best checkpoint is never pruned. Not finite counts as None.
            written_by: versions and device, for whoever goes on from it.

        Raises:
            CheckpointWriteError: the file system refused; what is left of the attempt is nothing, or a
                complete checkpoint if only the last step, waiting for the disk, failed.
            ValueError: an unusable name or step, or a document that JSON cannot hold.
        """
        if not 0 <= step < 10**12:
            raise ValueError(f"step = {step}: must be in [0, 1e12)")
        chunks = tuple(chunks)
        texts = {f"{_safe(name)}.json": _document(name, value) for name, value in documents.items()}
        parts = {f"{_safe(name)}.safetensors": part for name, part in tensors.items()}
        if MANIFEST_FILE in texts:
            raise ValueError(f'"{MANIFEST_FILE}" is the name of the manifest, not of a document')
        for chunk in chunks:
            _safe(chunk.name)
        needed = sum(map(len, texts.values())) + SPARE_BYTES
        needed += sum(t.numel() * t.element_size() for part in parts.values() for t in part.values())
        needed += sum(chunk.nbytes for chunk in chunks if (chunk.name, chunk.version) not in self._linkable)

        stage = self.folder / f"{STAGE_PREFIX}{step:012d}-{os.getpid()}"
        try:
            self._fs.make_folder(self.folder)
            self.remove_stages()
            self._check_space(needed)
            self._fs.make_folder(stage)
            files: dict[str, FileRecord] = {}
            for name, text in texts.items():
                files[name] = self._write(stage / name, text)
            for name, part in parts.items():
                files[name] = self._write(stage / name, tensor_bytes(part))
            if chunks:
                self._fs.make_folder(stage / REPLAY_FOLDER)
                for chunk in chunks:
                    name = f"{REPLAY_FOLDER}/{chunk.name}.safetensors"
                    files[name] = self._write_chunk(stage / name, chunk)
                self._fs.sync_folder(stage / REPLAY_FOLDER)
            score = score if score is not None and math.isfinite(score) else None
            manifest = Manifest(
                step=step,
                config_digest=config_digest,
                score=score,
                files=files,
                written_by=dict(written_by or {}),
            )
            self._fs.write(stage / MANIFEST_FILE, manifest.to_bytes())
            self._fs.sync_folder(stage)
            target = self._unused_path(step)
            self._fs.rename(stage, target)
            self._fs.sync_folder(self.folder)
        except OSError as error:
            raise self._write_error(step, needed, error) from error
        finally:
            # Also after an interrupt or an error in `rows`; what cannot be removed is ignored by readers.
            with contextlib.suppress(OSError):
                self._fs.remove(stage)
        self._linkable = _chunk_keys(target, manifest)
        self._prune(newest=target)
        return target

    def load(self, *, config_digest: str | None, step: int | None = None) -> Loaded | None:
        """Return the newest checkpoint that verifies (of `step` if given); None when there is none at all.

        A checkpoint that does not verify is passed over with one warning that says what is wrong.

        Raises:
            DataError: there are checkpoints but none verifies; the step does not exist; the configuration
                (unless `config_digest` is None) or the format is another one.
        """
        folders = self._folders()
        if not folders:
            return None
        if step is not None:
            steps = [_parse(path)[0] for path in folders]
            folders = [path for path, at in zip(folders, steps, strict=True) if at == step]
            if not folders:
                known = ", ".join(map(str, steps))
                raise DataError(f"{self.folder} has no checkpoint of step {step}; there are {known}")
        return self._first_good(reversed(folders), config_digest)

    def best(self, *, config_digest: str | None) -> Loaded | None:
        """Return the checkpoint of the highest score, the newest where none has one; else as `load`."""
        scored = [(score, path) for path in self._folders() if (score := self._score(path)) is not None]
        if not scored:
            return self.load(config_digest=config_digest)
        order = [
            path for _, path in sorted(scored, key=lambda pair: (pair[0], _parse(pair[1])), reverse=True)
        ]
        return self._first_good(order, config_digest)

    def keep_only(self, path: Path) -> None:
        """Remove every checkpoint but `path`; what cannot be removed costs disk space alone."""
        for other in self._folders():
            if other != path:
                with contextlib.suppress(OSError):
                    self._fs.remove(other)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, verified or not, ascending."""
        return sorted({_parse(path)[0] for path in self._folders()})

    def owes_evaluation(self) -> bool:
        """Whether the newest checkpoint is of a signal that ended an evaluation; resuming makes it."""
        try:
            counters = json.loads((self._folders()[-1] / "counters.json").read_bytes())
            return bool(counters["clock"]["owes_evaluation"])
        except (IndexError, OSError, ValueError, KeyError, TypeError):
            return False  # what is broken is said by who loads it

    def remove_stages(self) -> None:
        """Remove what interrupted saves left. For the writer of the run only: a stage may be alive.

        Raises:
            OSError: the file system refused.
        """
        if self.folder.is_dir():
            for path in self.folder.glob(f"{STAGE_PREFIX}*"):
                self._fs.remove(path)

    def _first_good(self, order: Iterable[Path], digest: str | None) -> Loaded:
        problems: list[str] = []
        for path in order:
            try:
                manifest = manifests.read(path / MANIFEST_FILE)
                self._check_owner(path, manifest, digest)
                loaded = _read(path, manifest)
            except manifests.Broken as error:
                problems.append(f"{path.name}: {error}")
                self._broken.add(path)
                continue
            if problems:
                logger.warning("going back to checkpoint %s; unusable: %s", path.name, "; ".join(problems))
            self._linkable = _chunk_keys(path, manifest)
            for number in range(manifest.format, manifests.FORMAT):
                loaded = MIGRATIONS[number](loaded)
            return loaded
        raise DataError(f"no usable checkpoint in {self.folder}: {'; '.join(problems)}")

    def _check_owner(self, path: Path, manifest: Manifest, digest: str | None) -> None:
        if manifest.step != _parse(path)[0]:
            raise manifests.Broken(f"its manifest is of step {manifest.step}")
        if any(number not in MIGRATIONS for number in range(manifest.format, manifests.FORMAT)):
            raise DataError(
                f"{path} has format {manifest.format}, this release reads format {manifests.FORMAT} "
                "and knows no way from the one to the other: use the release that wrote it"
            )
        if digest is not None and digest != manifest.config_digest:
            raise DataError(
                f"{path} belongs to a run with configuration {manifest.config_digest}, this one is {digest}: "
                "resume it with the configuration it was started with"
            )

    def _folders(self) -> list[Path]:
        """Return all checkpoint folders, oldest first; links are not followed."""
        if not self.folder.is_dir():
            return []
        named = (p for p in self.folder.iterdir() if _STEP_FOLDER.fullmatch(p.name))
        return sorted((p for p in named if p.is_dir() and not p.is_symlink()), key=_parse)

    def _unused_path(self, step: int) -> Path:
        path = self.folder / f"step-{step:012d}"
        count = 0
        while path.exists() or path.is_symlink():
            count += 1
            path = self.folder / f"step-{step:012d}-{count}"
        return path

    def _write(self, path: Path, data: bytes) -> FileRecord:
        self._fs.write(path, data)
        return FileRecord(size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def _write_chunk(self, path: Path, chunk: SavedChunk) -> FileRecord:
        known = self._linkable.get((chunk.name, chunk.version))
        if known is not None:
            source, record = known
            with contextlib.suppress(OSError):  # no links here, or the source is gone: write it again
                self._fs.link(source, path)
                return record
        record = self._write(path, tensor_bytes(chunk.rows()))
        return dataclasses.replace(record, version=chunk.version)

    def _check_space(self, needed: int) -> None:
        free = self._fs.free_bytes(self.folder)
        if free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def _write_error(self, step: int, needed: int, error: OSError) -> CheckpointWriteError:
        try:
            free = self._fs.free_bytes(self.folder)
        except OSError:  # the folder itself is what failed
            free = 0
        return CheckpointWriteError(
            f"checkpoint of step {step} not written to {self.folder}: {error.strerror or error}; "
            f"it needs about {needed:,} bytes, {free:,} are free",
            needed=needed,
            free=free,
        )

    def _score(self, path: Path) -> float | None:
        try:
            return manifests.read(path / MANIFEST_FILE).score
        except (manifests.Broken, DataError):
            return None

    def _prune(self, newest: Path) -> None:
        """Remove what need not be kept. A failure here costs disk space, never the run."""
        try:
            # Folders known to be broken neither count as kept nor are kept.
            good = [path for path in self._folders() if path not in self._broken or path == newest]
            keep = set(good[-self.keep_last :])
            scored = [(score, path) for path in good if (score := self._score(path)) is not None]
            if scored:
                best = max(score for score, _ in scored)
                keep.add([path for score, path in scored if score == best][-1])
            for path in self._folders():
                if path not in keep and not (path / PIN_FILE).exists():
                    self._fs.remove(path)
        except OSError as error:
            logger.warning("an old checkpoint could not be removed: %s", error)


def _parse(path: Path) -> tuple[int, int]:
    """Return step and repetition of a checkpoint folder: `step-000000000300-1` is (300, 1)."""
    match = _STEP_FOLDER.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _safe(name: str) -> str:
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(
            f'"{name}" cannot name a file of a checkpoint: letters, digits, "_", "-" and "." only'
        )
    return name


def _document(name: str, value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, indent=1).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f'document "{name}" is not JSON: {error}') from error


def _chunk_keys(path: Path, manifest: Manifest) -> dict[tuple[str, int], tuple[Path, FileRecord]]:
    return {
        (Path(name).stem, record.version): (path / name, record)
        for name, record in manifest.files.items()
        if record.version is not None
    }


def _read(path: Path, manifest: Manifest) -> Loaded:
    """Read parts and documents and verify the chunks, all against the manifest."""
    tensors: dict[str, dict[str, Tensor]] = {}
    documents: dict[str, Any] = {}
    for name, record in manifest.files.items():
        if name.startswith(f"{REPLAY_FOLDER}/"):
            manifests.verify(path / name, record)
        elif name.endswith(".json"):
            documents[name.removesuffix(".json")] = manifests.parse_json(
                name, manifests.read_verified(path / name, record)
            )
        else:
            data = manifests.read_verified(path / name, record)
            tensors[name.removesuffix(".safetensors")] = _parse_tensors(name, data)
    return Loaded(path=path, step=manifest.step, tensors=tensors, documents=documents, manifest=manifest)


def _read_tensors(path: Path, record: FileRecord) -> dict[str, Tensor]:
    try:
        return _parse_tensors(path.name, manifests.read_verified(path, record))
    except manifests.Broken as error:
        raise DataError(f"{path.parent}: {error}") from error


def _parse_tensors(name: str, data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise manifests.Broken(f"{name} is not a safetensors file ({error})") from error
