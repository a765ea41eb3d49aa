"""Stand-in state and file layers that fail, for the fault tests of checkpoints; no agent is needed."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlsuite.runs.canonical import canonical
from rlsuite.runs.checkpoint import CheckpointStore, Loaded, SavedChunk, config_digest
from rlsuite.runs.files import FileLayer

DIGEST = config_digest({"env": "HalfCheetah"})
OPERATIONS = ("make_folder", "write", "link", "rename", "sync_folder", "remove")
CHUNK_ROWS = 8


def state_at(step: int) -> dict[str, Any]:
    """Keyword arguments of `save`: all values depend on `step`, so that a mix of two saves shows."""
    full = step // 100  # chunks that no longer change
    return {
        "tensors": {
            "agent": {"actor.weight": torch.full((4, 3), float(step)), "count": torch.tensor(step)},
            "optim": {"actor.step": torch.tensor(float(step))},
        },
        "documents": {"counters": {"step": step}, "rng": {"state": str(step)}},
        "chunks": [
            SavedChunk(
                name=f"chunk-{i:04d}",
                version=step if i == full else i,
                rows=rows_of(i, step if i == full else i),
            )
            for i in range(full + 1)
        ],
        "config_digest": DIGEST,
    }


def rows_of(chunk: int, version: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"reward": torch.arange(CHUNK_ROWS) + 1000 * chunk + version}


def assert_is_state_of(loaded: Loaded | None, step: int) -> None:
    """Assert that every byte of `loaded` is that of `state_at(step)`."""
    expected = state_at(step)
    assert loaded is not None and loaded.step == step
    assert loaded.documents == expected["documents"]
    assert loaded.tensors.keys() == expected["tensors"].keys()
    for part, tensors in expected["tensors"].items():
        assert loaded.tensors[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(loaded.tensors[part][name], tensor)
    chunks = dict(loaded.chunks())
    assert sorted(chunks) == [chunk.name for chunk in expected["chunks"]]
    for chunk in expected["chunks"]:
        assert torch.equal(chunks[chunk.name]["reward"], chunk.rows()["reward"])


def stages(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith("step-")]


class CountingLayer(FileLayer):
    """Calls `at_operation` when the operation with number `fail_at` (from 0) is about to happen."""

    def __init__(self, fail_at: int, at_operation: Callable[["CountingLayer", str, Any], None]) -> None:
        self.fail_at = fail_at
        self.count = 0
        self.names: list[str] = []
        self.at_operation = at_operation


def _counted(name: str) -> Callable[..., Any]:
    def operation(self: CountingLayer, *arguments: Any) -> Any:
        number, self.count = self.count, self.count + 1
        self.names.append(name)
        if number == self.fail_at:
            self.at_operation(self, name, arguments)
        return getattr(FileLayer, name)(self, *arguments)

    return operation


for _name in OPERATIONS:
    setattr(CountingLayer, _name, _counted(_name))


def half_write(name: str, arguments: Any) -> None:
    """What a disk full or a kill in the middle of a write leaves: the first half of the file."""
    if name == "write":
        path, data = arguments
        path.write_bytes(data[: len(data) // 2])


def die(layer: CountingLayer, name: str, arguments: Any) -> None:
    """End the process as SIGKILL would: no handler, no clean-up."""
    half_write(name, arguments)
    os._exit(9)


def operations_of_a_save(folder: Path) -> list[str]:
    """Return the names of the file operations of the second save into `folder`, in order."""
    layer = CountingLayer(-1, die)
    store = CheckpointStore(folder, fs=layer)
    store.save(100, **state_at(100))
    first = layer.count
    store.save(200, **state_at(200))
    return layer.names[first:]


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of checkpoint `path` and sign it again, as an attacker would."""

    body = json.loads((path / "manifest.json").read_text())
    del body["sha256"]
    change(body)
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    (path / "manifest.json").write_text(json.dumps(body))


def replace_file(path: Path, data: bytes) -> None:
    """Give `path` new content under a new inode: other hard links keep the old."""
    path.unlink()
    path.write_bytes(data)


def sign_again(path: Path, name: str) -> None:
    """Make the manifest of checkpoint `path` true for the present content of its file `name`."""
    data = (path / name).read_bytes()

    def change(body: dict[str, Any]) -> None:
        body["files"][name]["size"] = len(data)
        body["files"][name]["sha256"] = hashlib.sha256(data).hexdigest()

    edit_manifest(path, change)
