"""Row 9: another environment, network or format: refused, both values named; the first format is migrated."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import whole_runs as runs
from stand_in import DIGEST, assert_is_state_of, edit_manifest, state_at

from rlsuite.errors import DataError
from rlsuite.runs import manifest as manifests
from rlsuite.runs.checkpoint import CheckpointStore, Loaded
from rlsuite.training.evaluate import evaluate_run


def test_a_newer_format_is_refused_and_both_are_named(two: tuple[Path, Path]) -> None:
    newer = manifests.FORMAT + 1
    edit_manifest(two[1], lambda body: body.update(format=newer))
    store = CheckpointStore(two[0].parent)
    with pytest.raises(
        DataError, match=rf"format {newer}, this release reads up to format {manifests.FORMAT}"
    ):
        store.load(config_digest=DIGEST)
    # Nor does pruning stumble over it.
    store.save(300, **state_at(300))
    assert store.steps() == [200, 300]


def test_an_older_format_without_a_way_is_refused_and_both_are_named(two: tuple[Path, Path]) -> None:
    edit_manifest(two[1], lambda body: body.update(format=0))
    with pytest.raises(DataError, match=rf"format 0, this release reads format {manifests.FORMAT}"):
        CheckpointStore(two[0].parent).load(config_digest=DIGEST)


def test_the_fixture_of_the_first_format_is_migrated(tmp_path: Path, count) -> None:
    """Written by an older release and never again."""
    shutil.copytree(Path(__file__).parent / "format_1", tmp_path / "ckpt")
    store = CheckpointStore(tmp_path / "ckpt")
    loaded = store.load(config_digest=DIGEST)
    assert isinstance(loaded, Loaded)
    assert_is_state_of(loaded, 100)
    assert (loaded.manifest.format, loaded.manifest.written_by) == (manifests.FORMAT, {})
    following = store.save(200, **state_at(200), written_by={"torch": "2.13.0"})
    written = manifests.read(following / "manifest.json")
    assert (written.format, written.written_by) == (manifests.FORMAT, {"torch": "2.13.0"})
    count("checkpoints of format 1 migrated")


def test_a_run_of_the_first_format_goes_on_to_the_same_end(tmp_path, caplog, count):
    def as_in_format_1(body):
        body.update(format=1)
        del body["written_by"]

    runs.train(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "old")
    shutil.rmtree(runs.newest(tmp_path / "old"))
    edit_manifest(runs.newest(tmp_path / "old"), as_in_format_1)
    runs.train(tmp_path / "old", resume=True)
    assert "not bit for bit: it does not say what wrote it" in caplog.text
    assert runs.weights(tmp_path / "old").keys() == runs.weights(tmp_path / "whole").keys()
    for name, tensor in runs.weights(tmp_path / "whole").items():
        assert tensor.equal(runs.weights(tmp_path / "old")[name])
    count("checkpoints of format 1 migrated")


@pytest.mark.parametrize("writer", ["a text", {"torch": 2}, None, {"torch": "2\x1b[2J"}, {"a" * 201: "1"}])
def test_a_writer_that_is_none_is_refused(two: tuple[Path, Path], writer) -> None:
    edit_manifest(two[1], lambda body: body.update(written_by=writer))
    assert_is_state_of(CheckpointStore(two[0].parent).load(config_digest=DIGEST), 100)


def test_who_goes_on_with_other_versions_is_told(tmp_path, caplog):
    runs.train(tmp_path)
    shutil.rmtree(runs.newest(tmp_path))
    edit_manifest(runs.newest(tmp_path), lambda body: body["written_by"].update(torch="2.0.1"))
    runs.train(tmp_path, resume=True)
    here = torch.__version__
    said = [line for line in caplog.messages if "not bit for bit" in line]
    assert len(said) == 1 and said[0].endswith(f"torch 2.0.1, here {here}")


def test_a_checkpoint_of_other_networks_is_refused_with_both_shapes(tmp_path):
    path = tmp_path / "run"
    runs.train(path)
    with pytest.raises(DataError, match="config"):
        runs.train(path, fields={"hidden": (24, 24)}, resume=True, steps=1000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("hidden = [\n    24,\n    24,\n]", r"is \(16, .* torch.float32, this run needs \(24,"),
        ('env = "gym:Pendulum-v1"', r"is \(16, \d\) torch.float32, this run needs \(16, \d\)"),
    ],
)
def test_a_configuration_changed_afterwards_is_refused_with_both_shapes(tmp_path, count, change, said):
    path = tmp_path / "run"
    runs.train(path, "sac")
    text = (path / "config.toml").read_text()
    key = change.partition(" =")[0]
    changed = re.sub(rf"^{key} = (?:\[[^]]*\]|.*)$", change, text, flags=re.MULTILINE)
    assert changed != text
    (path / "config.toml").write_text(changed)
    with pytest.raises(DataError, match=said) as caught:
        evaluate_run(path, episodes=1, seed=None, video=None, which="last")
    assert caught.value.exit_code == 3
    count("foreign checkpoints refused")
