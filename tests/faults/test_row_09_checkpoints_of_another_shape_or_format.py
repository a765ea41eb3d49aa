"""Row 9: another environment, network or format: refused, both values named; the first format loads."""

import re
import shutil
from pathlib import Path

import pytest
import whole_runs as runs
from stand_in import DIGEST, assert_is_state_of, edit_manifest, state_at

from rlsuite.errors import DataError
from rlsuite.training import manifest as manifests
from rlsuite.training.checkpoint import CheckpointStore, Loaded
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


def test_the_fixture_of_the_first_format_still_loads(tmp_path: Path) -> None:
    """Written by the first release and never again: a later format must migrate it."""
    shutil.copytree(Path(__file__).parent / "format_1", tmp_path / "ckpt")
    loaded = CheckpointStore(tmp_path / "ckpt").load(config_digest=DIGEST)
    assert isinstance(loaded, Loaded)
    assert_is_state_of(loaded, 100)


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
