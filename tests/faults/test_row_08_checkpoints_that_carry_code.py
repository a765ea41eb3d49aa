"""Row 8: pickles under other names, manifests that point elsewhere, wrong types: refused, not run."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from stand_in import DIGEST, edit_manifest, replace_file, sign_again

from rlsuite.errors import DataError
from rlsuite.runs import manifest as manifests
from rlsuite.runs.checkpoint import CheckpointStore


class Payload:
    """Unpickling this writes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.canary, "executed"))


def only(two: tuple[Path, Path]) -> Path:
    shutil.rmtree(two[0])
    return two[1]


@pytest.fixture
def refused(count) -> Callable[[Path], str]:
    """Load, read everything, and return the error's text."""

    def check(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            loaded = CheckpointStore(path.parent).load(config_digest=DIGEST)
            assert loaded is not None
            list(loaded.chunks())
        assert caught.value.exit_code == 3
        count("hostile checkpoints refused")
        return str(caught.value)

    return check


@pytest.mark.parametrize(
    "name", ["agent.safetensors", "replay/chunk-0001.safetensors", "rng.json", "manifest.json"]
)
@pytest.mark.parametrize("pickled", ["plain", "torch"])
def test_a_pickle_with_a_true_digest_is_refused_and_not_executed(
    two: tuple[Path, Path], refused, tmp_path_factory: pytest.TempPathFactory, name: str, pickled: str
) -> None:
    path, canary = only(two), tmp_path_factory.mktemp("canary") / "canary"
    (path / name).unlink()
    if pickled == "plain":
        (path / name).write_bytes(pickle.dumps(Payload(canary)))
    else:
        torch.save({"weights": Payload(canary)}, path / name)
    if name != "manifest.json":
        sign_again(path, name)
    message = refused(path)
    assert Path(name).name in message
    assert not canary.exists()
    pickle.loads(pickle.dumps(Payload(canary)))  # the payload does work: had it run, we would know
    assert canary.read_text() == "executed"


BAD_NAMES = (
    "../x.json",
    "../../x.safetensors",
    "/etc/x.json",
    "replay/../../x.json",
    "replay/../agent.safetensors",
    "a/b.json",
    "replay/sub/x.safetensors",
    "./agent.safetensors",
    "replay//x.safetensors",
    "agent.pkl",
    "agent.pt",
    "agent.safetensors\n",
    "agent\0.json",
    "..json",
    "",
    "manifest.json",
    "x" * 300 + ".json",
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_or_hold_code_are_refused(
    two: tuple[Path, Path], refused, name: str
) -> None:
    path = only(two)
    for place in (path.parent / "x.json", path.parent / "x.safetensors", path / "x.json"):
        place.write_bytes(b"{}")
    edit_manifest(path, lambda body: body["files"].update({name: body["files"]["rng.json"]}))
    message = refused(path)
    assert "names the file" in message and repr(name)[:40] in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", "200"),
        ("step", -1),
        ("step", 1.5),
        ("step", True),
        ("step", 100),
        ("format", None),
        ("format", "1"),
        ("score", "high"),
        ("score", [1]),
        ("score", True),
        ("config_digest", 5),
        ("files", []),
        ("files", None),
        ("files", {"rng.json": 5}),
        ("files", {"rng.json": {"size": "3", "sha256": "0" * 64}}),
        ("files", {"rng.json": {"size": 3, "sha256": "0" * 63}}),
        ("files", {"rng.json": {"size": 3, "sha256": 7}}),
        ("files", {"rng.json": {"size": 10**30, "sha256": "0" * 64}}),
        ("files", {"rng.json": {"size": 3, "sha256": "0" * 64, "version": "x"}}),
    ],
)
def test_a_manifest_with_wrong_types_is_refused(
    two: tuple[Path, Path], refused, field: str, value: object
) -> None:
    path = only(two)
    edit_manifest(path, lambda body: body.update({field: value}))
    assert path.name in refused(path)


@pytest.mark.parametrize(
    "text", [b"", b"[1]", b"5", b"null", b"{", b"\xff\xfe", b"[" * 200_000, b'{"format": 1}']
)
def test_a_manifest_that_is_no_object_is_refused(two: tuple[Path, Path], refused, text: bytes) -> None:
    path = only(two)
    (path / "manifest.json").write_bytes(text)
    assert "manifest.json" in refused(path)


def test_a_giant_manifest_is_refused_before_it_is_read(two: tuple[Path, Path], refused) -> None:
    path = only(two)
    with (path / "manifest.json").open("r+b") as file:
        file.truncate(manifests.MAX_MANIFEST_BYTES + 1)  # sparse: takes no disk
    assert "more than the" in refused(path)


def test_a_replay_folder_that_is_a_link_is_refused(
    two: tuple[Path, Path], refused, tmp_path_factory: Any
) -> None:
    path = only(two)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "replay"
    (path / "replay").rename(elsewhere)
    (path / "replay").symlink_to(elsewhere)
    assert "replay is a link" in refused(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 4,
        (2**63).to_bytes(8, "little") + b"{}",  # a header longer than any memory
        (60).to_bytes(8, "little")
        + b'{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}     ',  # no data
        (2).to_bytes(8, "little") + b"{}" + b"trailing bytes",
        safetensors_bytes({"x": torch.zeros(4)})[:-4],
    ],
)
def test_safetensors_that_lie_about_their_sizes_are_refused(
    two: tuple[Path, Path], refused, data: bytes
) -> None:
    path = only(two)
    replace_file(path / "agent.safetensors", data)
    sign_again(path, "agent.safetensors")
    assert "agent.safetensors is not a safetensors file" in refused(path)
