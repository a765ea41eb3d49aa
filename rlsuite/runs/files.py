"""The few file operations that a run's state rests on, in one replaceable layer.

Tests replace `FileLayer` by one that fails, or ends the process, at a chosen operation.
"""

import os
import shutil
from pathlib import Path


class FileLayer:
    """Durable file operations. Every method raises OSError as the system does."""

    def make_folder(self, path: Path) -> None:
        """Create `path` and its missing parents; an existing folder is fine."""
        path.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        """Write a new file and wait until its content is on the disk."""
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> None:
        """Give the file `source` a second name."""
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Move `source` to `target`, replacing a file of that name, in one step."""
        source.replace(target)

    def sync_folder(self, path: Path) -> None:
        """Wait until the names inside `path` are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Delete a file, a link (never what it points to) or a folder with all it holds."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def free_bytes(self, path: Path) -> int:
        """Return the bytes that this user may still write on the file system of `path`."""
        return shutil.disk_usage(path).free


DISK = FileLayer()


def write_atomic(path: Path, data: bytes, *, fs: FileLayer = DISK) -> None:
    """Write `data` under `path` so that a reader, or a crash, sees the old file or the new one.

    Raises:
        OSError: nothing was replaced and the temporary file is gone.
    """
    stage = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        fs.remove(stage)
        fs.write(stage, data)
        fs.rename(stage, path)
    except OSError:
        stage.unlink(missing_ok=True)
        raise
    fs.sync_folder(path.parent)
