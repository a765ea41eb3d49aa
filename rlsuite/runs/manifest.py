"""The manifest of a checkpoint: what it must hold, and the checks before any of it is believed."""

import hashlib
import hmac
import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlsuite.errors import DataError
from rlsuite.runs.canonical import canonical
from rlsuite.strict import is_number

FORMAT = 2  # 1 did not say what wrote it

MAX_MANIFEST_BYTES = 16 << 20  # a million-row replay has a few hundred files of about 150 bytes each
READ_BYTES = 1 << 20
MAX_WORD = 200  # letters of a version or a device name

_FILE_NAME = re.compile(r"(?:replay/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.(?:safetensors|json)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Broken(Exception):
    """A checkpoint that does not verify; the text says what is wrong. Never leaves the checkpoint store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """Size in bytes and SHA-256 of one file; `version` for chunks of the replay only."""

    size: int
    sha256: str
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`.

    `files` maps names relative to the checkpoint folder; `written_by` says versions and device.
    """

    step: int
    config_digest: str
    score: float | None
    files: Mapping[str, FileRecord]
    written_by: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """Return the JSON text, with a digest of itself so that a flipped bit in it is noticed too."""
        body: dict[str, Any] = {
            "format": self.format,
            "step": self.step,
            "config_digest": self.config_digest,
            "score": self.score,
            "written_by": dict(self.written_by),
            "files": {
                name: {"size": r.size, "sha256": r.sha256}
                | ({} if r.version is None else {"version": r.version})
                for name, r in sorted(self.files.items())
            },
        }
        body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
        return json.dumps(body, indent=1).encode()


def parse_json(name: str, data: bytes) -> Any:
    """Return the JSON value in `data`, or raise Broken."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Broken(f"{name} is not JSON ({error})") from error


def read(path: Path) -> Manifest:
    """Return the manifest at `path` with every field checked.

    Raises:
        Broken: it does not verify.
        DataError: it verifies and was written by a newer release.
    """
    size = _regular_size(path)
    if size > MAX_MANIFEST_BYTES:
        raise Broken(f"{path.name} has {size} bytes, more than the {MAX_MANIFEST_BYTES} allowed")
    try:
        body = parse_json(path.name, path.read_bytes())
    except OSError as error:
        raise Broken(f"{path.name} cannot be read ({error.strerror})") from error
    if not isinstance(body, dict):
        raise Broken(f"{path.name} is not a JSON object")
    claimed = body.pop("sha256", None)
    try:
        computed = hashlib.sha256(canonical(body)).hexdigest()
    except RecursionError as error:  # what the reader of JSON still takes may be too deep for its writer
        raise Broken(f"{path.name} is nested too deeply") from error
    if not isinstance(claimed, str) or claimed != computed:
        raise Broken(f"{path.name} does not match its own digest")
    number = _count(path, "format", body.get("format"))
    if number > FORMAT:
        raise DataError(
            f"{path} has format {number}, this release reads up to format {FORMAT}: "
            "use a newer release of rlsuite"
        )
    if body.get("score") is not None and not is_number(body["score"]):
        raise Broken(f"{path.name}: score is {body['score']!r}, not a finite number")
    if not isinstance(body.get("config_digest"), str):
        raise Broken(f"{path.name}: config_digest is {body.get('config_digest')!r}, not a text")
    writer = body.get("written_by", {} if number == 1 else None)
    if not isinstance(writer, dict) or not all(map(_is_word, (*writer, *writer.values()))):
        raise Broken(f"{path.name}: written_by is {writer!r:.200}, not names with versions")
    files = body.get("files")
    if not isinstance(files, dict):
        raise Broken(f"{path.name} lists no files")
    return Manifest(
        format=number,
        step=_count(path, "step", body.get("step")),
        config_digest=body["config_digest"],
        score=body.get("score"),
        written_by=writer,
        files={_file_name(path, name): _record(path, name, entry) for name, entry in files.items()},
    )


def _is_word(value: object) -> bool:
    """Return whether a value may be shown on a terminal: a short text without control characters."""
    return isinstance(value, str) and len(value) <= MAX_WORD and value.isprintable()


def verify(path: Path, record: FileRecord) -> None:
    """Raise Broken unless the file at `path` has the size and the digest of `record`."""
    _check_size(path, record)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise Broken(f"{path.name} cannot be read ({error.strerror})") from error
    _check_digest(path, digest.hexdigest(), record)


def read_verified(path: Path, record: FileRecord) -> bytes:
    """Return the content of `path`, the very bytes whose digest was checked, or raise Broken."""
    _check_size(path, record)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Broken(f"{path.name} cannot be read ({error.strerror})") from error
    _check_digest(path, hashlib.sha256(data).hexdigest(), record)
    return data


def _check_size(path: Path, record: FileRecord) -> None:
    if (size := _regular_size(path)) != record.size:
        raise Broken(f"{path.name} has {size} bytes, the manifest says {record.size}")


def _check_digest(path: Path, digest: str, record: FileRecord) -> None:
    if not hmac.compare_digest(digest, record.sha256):
        raise Broken(f"{path.name} has digest {digest[:12]}..., the manifest says {record.sha256[:12]}...")


def _regular_size(path: Path) -> int:
    """Return the size of a regular file; links and devices are refused, in the last two path parts too."""
    try:
        # The checkpoint folder itself was checked by whoever listed it; `replay/` was not.
        if path.parent.is_symlink():
            raise Broken(f"{path.parent.name} is a link")
        status = path.stat(follow_symlinks=False)
    except OSError as error:
        raise Broken(f"{path.name} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise Broken(f"{path.name} is a link or not a plain file")
    return status.st_size


def _count(path: Path, field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Broken(f"{path.name}: {field} is {value!r}, not a whole number")
    return value


def _file_name(path: Path, name: str) -> str:
    if not _FILE_NAME.fullmatch(name) or name == path.name:
        raise Broken(f"{path.name} names the file {name!r}, which is not allowed")
    return name


def _record(path: Path, name: str, entry: object) -> FileRecord:
    if not isinstance(entry, dict):
        raise Broken(f"{path.name}: {name} has no size and digest")
    sha256 = entry.get("sha256")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise Broken(f"{path.name}: {name} has no SHA-256")
    version = entry.get("version")
    return FileRecord(
        size=_count(path, f"size of {name}", entry.get("size")),
        sha256=sha256,
        version=None if version is None else _count(path, f"version of {name}", version),
    )
