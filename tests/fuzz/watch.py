"""A watch on what a reader does: no writing outside its folder, no unpickling, no process, no connection."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Everything that changes names or contents, with the arguments that are paths.
WRITES = {
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "shutil.rmtree": (0,),
}
FORBIDDEN = {"pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.fork", "socket.connect"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Escape(BaseException):
    """A reader did what no reader may; no `except` of the readers catches it."""


_inside: Path | None = None  # the only folder that may be written to, while a target reads


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _inside is None:
        return
    if event in FORBIDDEN:
        raise Escape(f"{event}{arguments!r:.200}")
    paths: list[Any] = []
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        paths = [arguments[0]]
    elif event in WRITES:
        paths = [arguments[place] for place in WRITES[event]]
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike):
            real = os.path.realpath(os.fsdecode(path))
            if not Path(real).is_relative_to(_inside) and real != os.devnull:
                raise Escape(f"{event} of {real}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def confined(folder: Path) -> Iterator[None]:
    """Watch this process until the end of the context."""
    global _inside
    _inside = folder.resolve()
    try:
        yield
    finally:
        _inside = None
