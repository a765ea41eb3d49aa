"""Files of a run in a repository on the Hub: a fixed set of names, each with size and SHA-256.

```
rlsuite.json         the list: written last, fetched first
README.md curve.png  the model card and its picture
config.toml meta.json metrics.jsonl
ckpt/step-NNN/       one checkpoint: manifest.json, agent.safetensors; with --resumable all of it
```

Nothing but these names is ever written or fetched: safetensors, JSON, TOML, Markdown and one picture. None of
these formats can hold code, and none of these names leads out of its folder.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlsuite.errors import ConfigError, DataError
from rlsuite.runs import manifest as manifests
from rlsuite.runs.canonical import canonical
from rlsuite.runs.checkpoint import MANIFEST_FILE, Loaded
from rlsuite.runs.manifest import Broken, FileRecord
from rlsuite.runs.runfolder import (
    BUNDLE_FILE,
    CHECKPOINT_FOLDER,
    CONFIG_FILE,
    META_FILE,
    METRICS_FILE,
)

FORMAT = 1
CARD_FILE = "README.md"
CURVE_FILE = "curve.png"
AGENT_FILE = "agent.safetensors"

MAX_LIST_BYTES = 16 << 20  # as of a checkpoint's manifest
MAX_FILES = 10_000
MAX_BYTES = 100 << 30  # of all files together; a million rows of pictures have about 60 GiB

_TOP = (CONFIG_FILE, META_FILE, METRICS_FILE, CARD_FILE, CURVE_FILE)
_SAVED = re.compile(
    rf"{CHECKPOINT_FOLDER}/step-\d{{12}}(-\d{{1,6}})?/"
    r"(replay/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.(safetensors|json)"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The content of `rlsuite.json`.

    Attributes:
        agent, env, step: which policy this is; `step` in env steps.
        resumable: the whole checkpoint is there, and not the policy alone.
        files: size and digest by name.
    """

    agent: str
    env: str
    step: int
    resumable: bool
    files: Mapping[str, FileRecord]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())

    def to_bytes(self) -> bytes:
        """Return the JSON text, with a digest of itself."""
        body: dict[str, Any] = {
            "format": FORMAT,
            "agent": self.agent,
            "env": self.env,
            "step": self.step,
            "resumable": self.resumable,
            "files": {name: {"size": r.size, "sha256": r.sha256} for name, r in sorted(self.files.items())},
        }
        body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
        return json.dumps(body, indent=1).encode()


def may_hold(name: str) -> bool:
    """Return whether a bundle may have a file of this name."""
    return name in _TOP or _SAVED.fullmatch(name) is not None


def parse(data: bytes, where: str) -> Bundle:
    """Read a list of files that somebody else wrote.

    Args:
        data: the text of `rlsuite.json`.
        where: it comes from, for errors.

    Raises:
        DataError: it is none, is damaged, is of a newer release, or names a file that no bundle holds.
    """
    try:
        body = manifests.parse_json(BUNDLE_FILE, data)
    except Broken as error:
        raise DataError(f"{where}: {error}") from error
    if not isinstance(body, dict):
        raise DataError(f"{where}: {BUNDLE_FILE} is not a JSON object")
    digest = body.pop("sha256", None)
    if digest != hashlib.sha256(canonical(body)).hexdigest():
        raise DataError(f"{where}: {BUNDLE_FILE} does not match its own digest: push the run again")
    if not _is_count(body.get("format")) or body["format"] > FORMAT:
        raise DataError(
            f"{where} has format {body.get('format')!r}, this release reads up to format {FORMAT}: use a "
            "newer release of rlsuite"
        )
    files, texts = body.get("files"), (body.get("agent"), body.get("env"))
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: {BUNDLE_FILE} lacks its files, agent or environment")
    if not _is_count(body.get("step")) or not isinstance(body.get("resumable"), bool):
        raise DataError(f"{where}: {BUNDLE_FILE} lacks its step, or whether it is resumable")
    if len(files) > MAX_FILES:
        raise DataError(f"{where} lists {len(files):,} files, at most {MAX_FILES:,} are allowed")
    bundle = Bundle(
        agent=body["agent"],
        env=body["env"],
        step=body["step"],
        resumable=body["resumable"],
        files={_checked(name, where): _record(name, entry, where) for name, entry in files.items()},
    )
    if CONFIG_FILE not in bundle.files:
        raise DataError(f"{where} holds no {CONFIG_FILE}: it is no run")
    if bundle.size > MAX_BYTES:
        raise DataError(f"{where} lists {bundle.size:,} bytes, at most {MAX_BYTES:,} are allowed")
    return bundle


def verify(folder: Path, bundle: Bundle) -> None:
    """Check every file that a bundle lists.

    Raises:
        DataError: one is missing, is no plain file, or has another size or digest.
    """
    for name, record in bundle.files.items():
        try:
            manifests.verify(folder / name, record)
        except Broken as error:
            raise DataError(f"{name}: {error}") from error


def check_resumable(run: Path) -> None:
    """Raise ConfigError where a run was pulled without what going on needs; other runs pass."""
    if (run / BUNDLE_FILE).is_file() and not parse((run / BUNDLE_FILE).read_bytes(), str(run)).resumable:
        raise ConfigError(
            f"{run} was pushed as a policy alone, without optimisers and replay, and cannot be resumed: "
            "play it with rlsuite eval, or ask for a push with --resumable"
        )


def copy_checkpoint(loaded: Loaded, folder: Path, *, resumable: bool) -> None:
    """Copy a verified checkpoint below `folder`: all of it, or the policy and its own manifest."""
    target = folder / CHECKPOINT_FOLDER / loaded.path.name
    if resumable:
        shutil.copytree(loaded.path, target)
        return
    target.mkdir(parents=True)
    shutil.copyfile(loaded.path / AGENT_FILE, target / AGENT_FILE)
    slim = replace(loaded.manifest, files={AGENT_FILE: loaded.manifest.files[AGENT_FILE]})
    (target / MANIFEST_FILE).write_bytes(slim.to_bytes())


def close(folder: Path, *, agent: str, env: str, step: int, resumable: bool) -> Bundle:
    """Write the list of everything in `folder`, which is then a bundle; return the list."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and may_hold(name):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = FileRecord(size=path.stat().st_size, sha256=digest)
    bundle = Bundle(agent=agent, env=env, step=step, resumable=resumable, files=files)
    (folder / BUNDLE_FILE).write_bytes(bundle.to_bytes())
    return bundle


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checked(name: str, where: str) -> str:
    if not may_hold(name):
        raise DataError(
            f"{where} lists the file {name[:120]!r}, which no run has (pickles and paths that lead elsewhere "
            "are never fetched): nothing was downloaded"
        )
    return name


def _record(name: str, entry: object, where: str) -> FileRecord:
    if isinstance(entry, dict):
        size, sha256 = entry.get("size"), entry.get("sha256")
        if (
            isinstance(size, int)
            and _is_count(size)
            and isinstance(sha256, str)
            and _SHA256.fullmatch(sha256)
        ):
            return FileRecord(size=size, sha256=sha256)
    raise DataError(f"{where}: {name} has no size and SHA-256")
