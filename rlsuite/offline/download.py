"""Downloads that can be broken off: a partial file beside the target, resumed by range, renamed when right.

Nothing lies under the final name before its size, digest and first bytes are right. What turned out wrong is
kept aside as `NAME.bad-1`, never deleted. Addresses come from the registry only; without a known digest they
must be HTTPS, redirects included. Nothing is unpacked.
"""

import contextlib
import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import lock_descriptor

from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.hdf5 import SIGNATURE
from rlsuite.offline.minari import MAIN_FILE, MAX_METADATA_BYTES, METADATA_FILE, read_metadata
from rlsuite.offline.names import KnownSet
from rlsuite.offline.write import sync_file
from rlsuite.runs.files import DISK

TIMEOUT_SECONDS = 30.0  # without a byte
ATTEMPTS = 3  # per file and call; each goes on where the last one broke off
BLOCK_BYTES = 1 << 20
MAX_BYTES = 20 << 30  # of one file; the largest known set has 0.8 GB
ZIP_SIGNATURE = b"PK\x03\x04"  # of .npz files
SHOWN_BYTES = 16  # of a file that is not what it should be

_RETRIED = (urllib.error.URLError, http.client.HTTPException, OSError)


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Refuses redirects from HTTPS to anything else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"redirected from HTTPS to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_known(known: KnownSet, path: Path) -> None:
    """Download a data set of the registry to its place.

    Raises:
        ConfigError: the folder cannot be written, or another process is downloading the same.
        DataError: no network, a broken connection, or not the file that was expected.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if known.layout == "d4rl":
            fetch(known.url, path, size=known.size, sha256=known.sha256, begins=SIGNATURE)
            return
        if known.layout == "ogbench":
            fetch(known.url, path, begins=ZIP_SIGNATURE)
            return
        stage = path.parent / f".download-{path.name}"
        (stage / "data").mkdir(parents=True, exist_ok=True)
        metadata = stage / "data" / METADATA_FILE
        fetch(f"{known.url}/{METADATA_FILE}", metadata, begins=b"{", limit=MAX_METADATA_BYTES)
        form = read_metadata(stage / "data").get("data_format", "hdf5")
        if form != "hdf5":
            raise DataError(
                f"{known.name} is kept in Minari's {form} format, one file per episode: fetch it with "
                f"`minari download {known.name}` and use it from there"
            )
        fetch(f"{known.url}/{MAIN_FILE}", stage / "data" / MAIN_FILE, begins=SIGNATURE)
        DISK.rename(stage, path)
        DISK.sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    begins: bytes = b"",
    limit: int = MAX_BYTES,
) -> None:
    """Download one file; do nothing where it is already there.

    Args:
        url: its address.
        target: where it shall lie; its folder exists.
        size: bytes it must have.
        sha256: its digest.
        begins: its first bytes.
        limit: most bytes to take.

    Raises:
        ConfigError: another process is downloading it.
        DataError: as in `fetch_known`; the message names the address and what to do without a network.
        OSError: the disk refused.
    """
    if target.exists():
        return
    if sha256 is None and urlsplit(url).scheme != "https":
        raise DataError(f"{url}: without a known digest a download must be HTTPS")
    part = target.with_name(f"{target.name}.part")
    with _alone(part):
        broken: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                if _fetch_rest(url, part, size=size, limit=limit):
                    break
            except urllib.error.HTTPError as error:
                raise _unreachable(url, f"the server answers {error.code} {error.reason}") from error
            except _RETRIED as error:
                if isinstance(error, OSError) and not isinstance(error, _NETWORK):
                    raise  # the disk, not the network
                broken = error
        else:
            have = part.stat().st_size if part.exists() else 0
            if have == 0:
                raise _unreachable(url, _reason(broken)) from broken
            of = f" of {size:,}" if size is not None else ""
            raise DataError(
                f"{url}: broken off after {have:,}{of} bytes ({_reason(broken)}); run the same again to go on"
            ) from broken
        _verify(url, part, target, size=size, sha256=sha256, begins=begins)
        sync_file(part)
        DISK.rename(part, target)
        DISK.sync_folder(target.parent)
        _tag_file(part).unlink(missing_ok=True)


_NETWORK = (urllib.error.URLError, TimeoutError, ConnectionError)


def _fetch_rest(url: str, part: Path, *, size: int | None, limit: int) -> bool:
    """Append what is missing to the partial file; return whether it is complete."""
    have = part.stat().st_size if part.exists() else 0
    if size is not None and have == size:
        return True
    request = urllib.request.Request(url, headers={"User-Agent": "rlsuite", "Accept-Encoding": "identity"})
    tag = _read_tag(part)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if tag:
            request.add_header("If-Range", tag)  # another version of the file is sent whole
    opener = urllib.request.build_opener(_NoDowngrade)
    try:
        answer = opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        part.unlink()  # longer than the file: what we have is of something else
        return False
    with answer:
        if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise _refused(url, "a web page (text/html)", "a data file: is there a login page in between?")
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            part.unlink()
            return False
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length is not None and length.isdecimal() else None
        for what, most in (("the registry's size", size), ("the limit", limit)):
            if total is not None and most is not None and (total > most or (most == size and total != size)):
                raise _refused(url, f"{total:,} bytes", f"{most:,}, {what}")
        _check_space(part, total, start)
        _tag_file(part).write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
        have = _copy(answer, part, start, url, limit if size is None else size)
    return have == total if total is not None else size is None or have == size


def _copy(answer: Any, part: Path, start: int, url: str, limit: int) -> int:
    """Write the body after the first `start` bytes of the partial file; return the bytes it then has."""
    have = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        while block := answer.read(BLOCK_BYTES):
            have += len(block)
            if have > limit:
                raise _refused(url, f"more than {limit:,} bytes", "no more")
            file.write(block)
    return have


def _verify(
    url: str, part: Path, target: Path, *, size: int | None, sha256: str | None, begins: bytes
) -> None:
    """Check a complete partial file; set it aside where it is not what it should be."""
    actual = part.stat().st_size
    wrong = (f"size {actual:,}", f"size {size:,}") if size is not None and actual != size else None
    with part.open("rb") as file:
        head = file.read(max(len(begins), SHOWN_BYTES))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not head.startswith(begins):
        wrong = wrong or (
            f"a file that begins with {head[:SHOWN_BYTES]!r}",
            f"one that begins with {begins!r}",
        )
    if sha256 is not None and digest != sha256:
        wrong = wrong or (f"SHA-256 {digest}", f"SHA-256 {sha256}")
    if wrong is not None:
        kept = set_aside(part, target)
        raise DataError(f"{url}: found {wrong[0]}, expected {wrong[1]}; kept aside as {kept}")


def set_aside_if_cut(path: Path, known: KnownSet) -> None:
    """Move a downloaded file of the wrong size out of the way, so that it is fetched again.

    Only files in D4RL's folder under the registry's name come here: files that a user names are never moved.

    Raises:
        DataError: it had the wrong size; the message says where it is now.
    """
    from rlsuite.offline.locate import d4rl_root

    if known.size is None or path.parent != d4rl_root() or not path.is_file():
        return
    actual = path.stat().st_size
    if actual != known.size:
        kept = set_aside(path, path)
        raise DataError(
            f"{path}: found {actual:,} bytes, expected {known.size:,}; kept aside as {kept}, "
            "run the same again to fetch it"
        )


def set_aside(path: Path, target: Path) -> Path:
    """Rename a bad file to the first free `TARGET.bad-N`; return that name."""
    number = 1
    while (kept := target.with_name(f"{target.name}.bad-{number}")).exists():
        number += 1
    path.rename(kept)
    _tag_file(path).unlink(missing_ok=True)
    return kept


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold the lock of one download; the system frees it when the process ends."""
    lock = part.with_name(f"{part.name}.lock")
    with lock.open("w") as file:
        if not lock_descriptor(file.fileno(), blocking=False):
            raise ConfigError(f"another process is downloading {part.stem}: wait for it")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _check_space(part: Path, total: int | None, start: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise DataError(f"{part.stem} needs {total - start:,} bytes, {free:,} are free in {part.parent}")


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _read_tag(part: Path) -> str:
    try:
        tag = _tag_file(part).read_text().strip()
    except OSError:
        return ""
    return "" if tag.startswith("W/") else tag  # a weak tag does not promise equal bytes


def _refused(url: str, actual: str, expected: str) -> DataError:
    return DataError(f"{url}: found {actual}, expected {expected}")


def _reason(error: Exception | None) -> str:
    return str(getattr(error, "reason", None) or error or "the connection ended early")


def _unreachable(url: str, reason: str) -> DataError:
    return DataError(
        f"{urlsplit(url).hostname} cannot be used ({reason}): fetch {url} by other means, "
        "then name the file: --dataset FILE"
    )
