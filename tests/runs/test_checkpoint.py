"""The checkpoint store when nothing goes wrong; what goes wrong is in tests/faults."""

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rlsuite.errors import DataError
from rlsuite.runs import checkpoint as module
from rlsuite.runs import manifest as manifests
from rlsuite.runs.checkpoint import CheckpointStore, SavedChunk, check_like, config_digest
from rlsuite.runs.files import FileLayer


def save(store: CheckpointStore, step: int, **changes: Any) -> Path:
    return store.save(
        step,
        **{
            "tensors": {"agent": {"w": torch.full((2,), float(step))}},
            "documents": {},
            "config_digest": "d",
            **changes,
        },
    )


def chunk(name: str, version: int, calls: list[str] | None = None) -> SavedChunk:
    def rows() -> dict[str, torch.Tensor]:
        if calls is not None:
            calls.append(name)
        return {"x": torch.arange(4) + version}

    return SavedChunk(name=name, version=version, rows=rows)


def test_no_checkpoint_is_none_and_creates_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "ckpt")
    assert store.load(config_digest=None) is None
    assert store.best(config_digest=None) is None
    assert store.steps() == []
    assert list(tmp_path.iterdir()) == []


AWKWARD = {
    "scalar": torch.tensor(3, dtype=torch.int64),
    "bool": torch.tensor([True, False]),
    "float64": torch.tensor([1e300, -0.0], dtype=torch.float64),
    "bfloat16": torch.randn(3).bfloat16(),
    "uint8": torch.arange(5, dtype=torch.uint8),
    "empty": torch.zeros(0, 3),
    "not_finite": torch.tensor([float("nan"), float("inf")]),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "strided": torch.arange(10.0)[::3],
    "expanded": torch.ones(1, 3).expand(4, 3),
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
}
AWKWARD["shared"] = AWKWARD["transposed"]
AWKWARD["overlapping"] = AWKWARD["float64"][1:]


def test_tensors_of_every_kind_come_back_bit_for_bit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, tensors={"agent": AWKWARD, "nothing": {}})
    loaded = CheckpointStore(tmp_path).load(config_digest="d")
    assert loaded is not None
    assert loaded.tensors["nothing"] == {}
    assert loaded.tensors["agent"].keys() == AWKWARD.keys()
    for name, tensor in AWKWARD.items():
        found = loaded.tensors["agent"][name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (found, tensor) if t.numel()]
        assert not raw or torch.equal(*raw), name


def test_documents_come_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "b": {"c": "é"}, "big": 2**200}
    save(CheckpointStore(tmp_path), 1, documents={"counters": value, "list": [1]})
    loaded = CheckpointStore(tmp_path).load(config_digest=None)
    assert loaded is not None and loaded.documents == {"counters": value, "list": [1]}


def test_the_folder_is_as_documented_and_every_file_is_signed(tmp_path: Path) -> None:
    path = save(
        CheckpointStore(tmp_path), 200_000, documents={"rng": {}}, chunks=[chunk("chunk-0000", 1)], score=2
    )
    assert path == tmp_path / "step-000000200000"
    names = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert names == {"manifest.json", "agent.safetensors", "rng.json", "replay/chunk-0000.safetensors"}
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["format"], manifest["step"], manifest["config_digest"], manifest["score"]) == (
        2,
        200_000,
        "d",
        2,
    )
    assert set(manifest["files"]) == names - {"manifest.json"}
    for name, entry in manifest["files"].items():
        data = (path / name).read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_unchanged_chunks_are_links_and_their_rows_are_not_asked_for(tmp_path: Path) -> None:
    store, calls = CheckpointStore(tmp_path), []
    first = save(store, 1, chunks=[chunk("a", 1, calls), chunk("b", 1, calls)])
    second = save(store, 2, chunks=[chunk("a", 1, calls), chunk("b", 2, calls), chunk("c", 1, calls)])
    assert calls == ["a", "b", "b", "c"]
    assert (first / "replay/a.safetensors").samefile(second / "replay/a.safetensors")
    assert not (first / "replay/b.safetensors").samefile(second / "replay/b.safetensors")
    loaded = store.load(config_digest="d")
    assert loaded is not None
    assert [(name, rows["x"][0].item()) for name, rows in loaded.chunks()] == [("a", 1), ("b", 2), ("c", 1)]


def test_linked_chunks_outlive_the_checkpoint_they_were_written_in(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=1)
    for step in range(1, 5):
        path = save(store, step, chunks=[chunk("a", 1)])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = CheckpointStore(tmp_path).load(config_digest="d")
    assert loaded is not None and [name for name, _ in loaded.chunks()] == ["a"]


def test_a_new_process_links_only_after_it_verified(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path), 1, chunks=[chunk("a", 1)])
    calls: list[str] = []
    save(CheckpointStore(tmp_path), 2, chunks=[chunk("a", 1, calls)])
    assert calls == ["a"]
    resumed = CheckpointStore(tmp_path)
    resumed.load(config_digest="d")
    save(resumed, 3, chunks=[chunk("a", 1, calls)])
    assert calls == ["a"]


def test_where_links_are_not_supported_chunks_are_written(tmp_path: Path) -> None:
    class NoLinks(FileLayer):
        def link(self, source: Path, target: Path) -> None:
            raise PermissionError(1, "Operation not permitted")

    store, calls = CheckpointStore(tmp_path, fs=NoLinks()), []
    for step in (1, 2):
        save(store, step, chunks=[chunk("a", 1, calls)])
    assert calls == ["a", "a"]
    loaded = store.load(config_digest="d")
    assert loaded is not None and loaded.step == 2


def test_only_one_chunk_is_in_memory_at_a_time(tmp_path: Path) -> None:
    import weakref

    alive: list[weakref.ref[torch.Tensor]] = []

    def rows() -> dict[str, torch.Tensor]:
        assert not any(ref() is not None for ref in alive)
        tensor = torch.zeros(1000)
        alive.append(weakref.ref(tensor))
        return {"x": tensor}

    save(
        CheckpointStore(tmp_path),
        1,
        chunks=[SavedChunk(name=f"c{i}", version=0, rows=rows) for i in range(5)],
    )
    assert len(alive) == 5


def test_newest_best_and_pinned_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    scores = {10: 1.0, 20: 9.0, 30: None, 40: float("nan"), 50: 3.0, 60: 2.0, 70: 4.0}
    for step, score in scores.items():
        path = save(store, step, score=score)
        if step == 30:
            (path / "PIN").touch()
    assert store.steps() == [20, 30, 60, 70]
    best = CheckpointStore(tmp_path).best(config_digest="d")
    assert best is not None and best.step == 20
    save(store, 80, score=9.0)
    assert store.steps() == [30, 70, 80]  # of equal scores the newer is kept
    best = store.best(config_digest="d")
    assert best is not None and best.step == 80


def test_best_without_scores_is_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    save(store, 2)
    best = store.best(config_digest="d")
    assert best is not None and best.step == 2


def test_a_step_can_be_asked_for(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=5)
    for step in (1, 2, 3):
        save(store, step)
    loaded = store.load(config_digest="d", step=2)
    assert loaded is not None and loaded.tensors["agent"]["w"].tolist() == [2.0, 2.0]
    with pytest.raises(DataError, match="no checkpoint of step 7; there are 1, 2, 3"):
        store.load(config_digest="d", step=7)


def test_a_step_saved_twice_gets_a_new_folder_and_the_later_one_is_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=20)
    for i in range(12):
        path = save(store, 5, documents={"i": i})
    assert path.name == "step-000000000005-11"
    assert store.steps() == [5]
    for loaded in (store.load(config_digest="d"), store.load(config_digest="d", step=5)):
        assert loaded is not None and loaded.documents["i"] == 11


def test_a_link_in_the_place_of_a_checkpoint_is_neither_loaded_nor_replaced(tmp_path: Path) -> None:
    elsewhere = save(CheckpointStore(tmp_path / "other"), 5)
    store = CheckpointStore(tmp_path / "ckpt")
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "step-000000000005").symlink_to(elsewhere)
    assert store.load(config_digest=None) is None
    assert save(store, 5).name == "step-000000000005-1"


def test_digest_of_a_configuration_sees_values_and_not_their_order() -> None:
    base = {"a": 1, "b": {"c": (1, 2), "d": None}}
    assert config_digest(base) == config_digest({"b": {"c": [1, 2]}, "a": 1})
    assert config_digest(base) != config_digest({**base, "a": 2})
    assert config_digest({"a": 1}) != config_digest({"a": 1.0})


def test_another_configuration_is_refused_and_both_are_named(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path), 1, config_digest="aaaa")
    for read in (CheckpointStore(tmp_path).load, CheckpointStore(tmp_path).best):
        with pytest.raises(DataError, match=r"configuration aaaa, this one is bbbb"):
            read(config_digest="bbbb")
        loaded = read(config_digest=None)
        assert loaded is not None and loaded.step == 1


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/abs", "a\0b", "-rf", ".hidden", "x" * 200, "é"]
)
def test_unsafe_names_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    store = CheckpointStore(tmp_path / "ckpt")
    for changes in (
        {"tensors": {name: {}}},
        {"documents": {name: 1}},
        {"chunks": [SavedChunk(name=name, version=0, rows=dict)]},
    ):
        with pytest.raises(ValueError, match="cannot name a file of a checkpoint"):
            save(store, 1, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"documents": {"x": float("nan")}},
        {"documents": {"x": {1, 2}}},
        {"documents": {"x": torch.zeros(1)}},
        {"documents": {"manifest": {}}},
        {"step": -1},
        {"step": 10**12},
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    changes = {"step": 1, **changes}
    with pytest.raises(ValueError, match=r"document|manifest|step"):
        save(CheckpointStore(tmp_path / "ckpt"), changes.pop("step"), **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_rows_leaves_no_stage(tmp_path: Path) -> None:
    def rows() -> dict[str, torch.Tensor]:
        raise KeyboardInterrupt

    store = CheckpointStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        save(store, 1, chunks=[SavedChunk(name="a", version=0, rows=rows)])
    assert list(tmp_path.iterdir()) == []


def test_an_old_checkpoint_that_cannot_be_removed_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(FileLayer):
        def remove(self, path: Path) -> None:
            if path.name.startswith("step-"):
                raise OSError(16, "Device or resource busy")
            super().remove(path)

    store = CheckpointStore(tmp_path, keep_last=1, fs=Stuck())
    save(store, 1)
    save(store, 2)
    assert store.steps() == [1, 2]
    assert "could not be removed" in caplog.text


def test_keep_last_must_keep_something(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last = 0"):
        CheckpointStore(tmp_path, keep_last=0)


def test_an_older_format_is_migrated_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(CheckpointStore(tmp_path), 7, documents={"names": ["first"]})
    monkeypatch.setattr(manifests, "FORMAT", 4)

    def append(word: str):
        return lambda old: dataclasses.replace(old, documents={"names": [*old.documents["names"], word]})

    monkeypatch.setattr(module, "MIGRATIONS", {2: append("second")})
    with pytest.raises(DataError, match=r"has format 2, this release reads format 4"):
        CheckpointStore(tmp_path).load(config_digest="d")
    monkeypatch.setattr(module, "MIGRATIONS", {2: append("second"), 3: append("third")})
    loaded = CheckpointStore(tmp_path).load(config_digest="d")
    assert loaded is not None and loaded.documents["names"] == ["first", "second", "third"]


def test_check_like_names_both_sides() -> None:
    net = {"w": torch.zeros(2, 3), "b": torch.zeros(2)}
    check_like("agent", net, net)
    with pytest.raises(DataError, match=r"missing \['b'\], unknown \['c'\]"):
        check_like("agent", {"w": net["w"], "c": net["b"]}, net)
    with pytest.raises(
        DataError, match=r"w is \(2, 4\) torch.float32, this run needs \(2, 3\) torch.float32"
    ):
        check_like("agent", {**net, "w": torch.zeros(2, 4)}, net)
    with pytest.raises(DataError, match=r"b is \(2,\) torch.float64, this run needs \(2,\) torch.float32"):
        check_like("agent", {**net, "b": net["b"].double()}, net)


def test_loading_warns_of_nothing_when_all_is_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(CheckpointStore(tmp_path), 1, chunks=[chunk("a", 1)])
    with caplog.at_level(logging.DEBUG, "rlsuite"):
        CheckpointStore(tmp_path).load(config_digest="d")
    assert caplog.records == []


def test_changing_loaded_tensors_does_not_change_the_file(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path), 1, chunks=[chunk("a", 1)])
    before = {p: p.read_bytes() for p in path.rglob("*.safetensors")}
    loaded = CheckpointStore(tmp_path).load(config_digest="d")
    assert loaded is not None
    loaded.tensors["agent"]["w"].add_(1)
    for _, rows in loaded.chunks():
        rows["x"].add_(1)
    os.sync()
    assert {p: p.read_bytes() for p in path.rglob("*.safetensors")} == before
