"""The folder of a run: its configuration, where and how it ran, and the lock of its only writer.

```
runs/<name>/  config.toml  meta.json  metrics.jsonl  ckpt/step-NNN/  best/step-NNN/  run.lock (while it runs)
```
"""

import datetime
import errno
import json
import logging
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import tomli_w
from filelock import lock_descriptor

from rlsuite.errors import ConfigError
from rlsuite.runs import machine
from rlsuite.runs.canonical import without_none
from rlsuite.runs.files import write_atomic

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.toml"
META_FILE = "meta.json"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = "run.lock"
CHECKPOINT_FOLDER = "ckpt"
BEST_FOLDER = "best"  # the agent of the best evaluation
STOPPED_FILE = "stopped.json"  # a callback ended the run: at which step, and why
BUNDLE_FILE = "rlsuite.json"  # in a run that was pulled from the Hub: the list of what came

MAX_NAME_BYTES = 255  # NAME_MAX of Linux and macOS file systems
MAX_PATH_BYTES = 3_840  # PATH_MAX of Linux (4,096) less room for the longest name inside a run folder
MAX_RUN_NAME = 120  # characters of a generated run name before its time stamp
MAX_TEXT_BYTES = 1 << 20  # of config.toml and meta.json, which have a few kilobytes

_LEFT_BY_A_START = re.compile(r"run\.lock|meta\.json|\.(?:meta\.json|config\.toml)\.\d+\.part")


class RunFolder:
    """A run folder, locked against a second writer from `create` or `__enter__` until `close`.

    Reading a run (evaluation, reports) needs no lock: use `open` without `with`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], meta: Mapping[str, Any]) -> "RunFolder":
        """Make a new run folder, locked, with `config.toml` and `meta.json`.

        Args:
            path: the folder; it must not exist yet or be empty. Its parents are created.
            config: the resolved configuration, tables nested; entries that are None are left out.
            meta: what the caller knows (seed, device, engine, ...), added to what `machine.facts` finds.

        Raises:
            ConfigError: unusable path, a folder that is not empty, or one that another process holds.
        """
        check_path(path)
        text = tomli_w.dumps(without_none(config))
        _refuse_full(path)
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            run._acquire()
            _refuse_full(path)  # again: another process may have filled it before we held the lock
            facts = {**machine.facts(str(meta.get("device", "cpu"))), **meta}
            write_atomic(path / META_FILE, (json.dumps(facts, indent=2) + "\n").encode())
            write_atomic(path / CONFIG_FILE, text.encode())
        except OSError as error:
            run.close()
            raise ConfigError(
                f"cannot write the run folder {path}: {error.strerror}; choose another --out"
            ) from error
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Return the existing run folder `path`, not locked yet.

        Raises:
            ConfigError: there is no run folder at `path`.
        """
        check_path(path)
        if not path.is_dir():
            raise ConfigError(
                f'there is no run folder "{path}"; runs are kept under runs/ unless --out said so'
            )
        if not (path / CONFIG_FILE).is_file():
            raise ConfigError(f'"{path}" is not a run folder: it has no {CONFIG_FILE}')
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """The folder for a `CheckpointStore`; it may not exist yet."""
        return self.path / CHECKPOINT_FOLDER

    @property
    def metrics(self) -> Path:
        """The file of metrics, one JSON object a line; it may not exist yet."""
        return self.path / METRICS_FILE

    def config(self) -> dict[str, Any]:
        """Return the configuration the run was started with.

        Raises:
            ConfigError: the file is missing or is not TOML.
        """
        try:
            return tomllib.loads(_text(self.path / CONFIG_FILE))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"cannot read {self.path / CONFIG_FILE}: {error}") from error

    def replace_config(self, config: Mapping[str, Any]) -> None:
        """Write another configuration, so that the next resume reads it, too; only under the lock.

        Raises:
            ConfigError: the file system refused; the old configuration is intact.
        """
        try:
            write_atomic(self.path / CONFIG_FILE, tomli_w.dumps(without_none(config)).encode())
        except OSError as error:
            raise ConfigError(f"cannot rewrite {self.path / CONFIG_FILE}: {error.strerror}") from error

    def meta(self) -> dict[str, Any]:
        """Return what `meta.json` says about the machine and the versions the run was started with.

        Raises:
            ConfigError: the file is missing or is not a JSON object.
        """
        try:
            content = json.loads(_text(self.path / META_FILE))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"cannot read {self.path / META_FILE}: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"{self.path / META_FILE} holds {type(content).__name__}, not an object")
        return content

    def amend_meta(self, facts: Mapping[str, Any]) -> None:
        """Add what became known while the run went to `meta.json`; a disk that refuses costs a warning."""
        try:
            content = json.dumps(self.meta() | dict(facts), indent=2) + "\n"
            write_atomic(self.path / META_FILE, content.encode())
        except (ConfigError, OSError) as error:
            logger.warning("meta.json lacks %s: %s", ", ".join(facts), error)

    def mark_stopped(self, step: int, why: str) -> None:
        """Write that a callback ended the run at `step`; without a reason, take such a mark away."""
        path = self.path / STOPPED_FILE
        if not why:
            path.unlink(missing_ok=True)
            return
        write_atomic(path, (json.dumps({"step": step, "by": why}) + "\n").encode())

    def stopped_at(self) -> int | None:
        """Return the step at which a callback ended the run; None where none has."""
        try:
            step = json.loads(_text(self.path / STOPPED_FILE))["step"]
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            return None
        return step if type(step) is int else None

    def in_use(self) -> bool:
        """Whether a process that may still live writes to this folder, as its lock says."""
        try:
            descriptor = os.open(self.path / LOCK_FILE, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return False
        try:
            return not _is_dead(_read_holder(descriptor), kernel_says_free=False)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give the lock back; closing twice is fine."""
        if self._lock is not None:
            (self.path / LOCK_FILE).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        if self._lock is None:
            self._acquire()
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _acquire(self) -> None:
        """Take the lock: the kernel's for truth (it dies with its holder), the text for people."""
        path = self.path / LOCK_FILE
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            except OSError as error:
                raise ConfigError(
                    f"cannot lock {self.path}, which a run writes to: {error.strerror}"
                ) from error
            try:
                free = _flock(descriptor)
                holder = _read_holder(descriptor)
                if free is False or not _is_dead(holder, kernel_says_free=free is True):
                    raise ConfigError(_in_use(self.path, holder))
                # The last holder may have unlinked the file between our open and our lock.
                if not _same_file(descriptor, path):
                    os.close(descriptor)
                    continue
                if holder:
                    logger.warning(
                        "taking over the lock of %s from process %s, which is gone",
                        self.path,
                        holder.get("pid"),
                    )
                mine = {"pid": os.getpid(), "host": socket.gethostname(), "started": machine.utc_now()}
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(mine).encode(), 0)
            except BaseException:
                os.close(descriptor)
                raise
            self._lock = descriptor
            return


def _flock(descriptor: int) -> bool | None:
    """True: locked. False: somebody else holds it. None: this file system has no such locks."""
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise


def _text(path: Path) -> str:
    """Return the text of a small file; ValueError for a larger one than any run writes."""
    with path.open("rb") as file:
        data = file.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise ValueError(f"more than the {MAX_TEXT_BYTES:,} bytes allowed")
    return data.decode("utf-8")


def _read_holder(descriptor: int) -> dict[str, Any]:
    """Return what the lock says about its holder; empty when it was never written or is torn."""
    try:
        holder = json.loads(os.pread(descriptor, 4_096, 0))
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_dead(holder: Mapping[str, Any], *, kernel_says_free: bool) -> bool:
    if not holder:
        return True
    if holder.get("host") != socket.gethostname():
        return False  # a shared file system may not carry locks between machines: let the user decide
    if kernel_says_free:
        return True
    try:
        return not psutil.pid_exists(int(holder["pid"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _in_use(path: Path, holder: Mapping[str, Any]) -> str:
    pid, host, started = (holder.get(key, "unknown") for key in ("pid", "host", "started"))
    return (
        f"{path} is in use by process {pid} on host {host} since {started}; wait for it, choose another "
        f"--out, or, if that process is gone, delete {path / LOCK_FILE}"
    )


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def check_path(path: Path) -> None:
    """Raise ConfigError for a path that cannot become or be a run folder; touches nothing."""
    text = os.fspath(path)
    if "\0" in text:
        raise ConfigError(f"the path {text!r} has a NUL character in it; choose another --out")
    absolute = Path(os.path.abspath(text))  # noqa: PTH100  # resolve() would already follow links
    for part in absolute.parts:
        if len(os.fsencode(part)) > MAX_NAME_BYTES:
            raise ConfigError(f'"{part[:40]}..." is longer than the {MAX_NAME_BYTES} bytes a name may have')
    if len(os.fsencode(absolute)) > MAX_PATH_BYTES:
        raise ConfigError(
            f"the path {text[:40]}... is longer than {MAX_PATH_BYTES} bytes; choose a shorter --out"
        )
    if absolute.is_symlink() and not _exists(absolute):
        raise ConfigError(f'"{path}" is a link to something that does not exist; choose another --out')
    existing = next(parent for parent in (absolute, *absolute.parents) if _exists(parent))
    if not existing.is_dir():
        raise ConfigError(f'"{existing}" is a file, so no run folder can be made there; choose another --out')
    if existing != absolute and not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f'"{existing}" cannot be written to; choose another --out')


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # below a folder that we may not look into
        return False


def _refuse_full(path: Path) -> None:
    """Raise ConfigError when `path` holds more than a start leaves that was killed before it was a run."""
    if path.is_dir() and not all(_LEFT_BY_A_START.fullmatch(entry.name) for entry in path.iterdir()):
        raise ConfigError(
            f'"{path}" is not empty: continue that run with `rlsuite resume {path}`, or choose another --out'
        )


def default_run_path(agent: str, env: str, seed: int, root: Path = Path("runs")) -> Path:
    """Return `runs/<agent>-<env>-s<seed>-<UTC time>`: letters, digits, dots, dashes and underscores only."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{agent}-{env}").lstrip(".-")[:MAX_RUN_NAME]
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    path = root / f"{name or 'run'}-s{seed}-{stamp}"
    count = 1
    while path.exists():
        count += 1
        path = path.with_name(f"{name or 'run'}-s{seed}-{stamp}-{count}")
    return path
