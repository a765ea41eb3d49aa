"""Branches and replays of a run: bit for bit the parent's, the parent untouched."""

import json

import numpy as np
import pytest
import torch
import whole_runs as runs

from rlsuite.cli import branch as command
from rlsuite.errors import ConfigError, DataError
from rlsuite.report.pairs import read_pairs
from rlsuite.training.branching import branch, origin, replay

STEPS = 800


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A finished run with checkpoints at 600 and 800; its best evaluation at one of 400 and 800."""
    path = tmp_path_factory.mktemp("parent") / "run"
    runs.train(path, agent="sac", steps=STEPS)
    return path


def content(path):
    """Name and bytes of every file of a run."""
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("at", [600, 700, 150])  # at a checkpoint, after one, before all
def test_a_branch_without_a_change_is_its_parent_to_the_end(tmp_path, parent, at):
    before = content(parent)
    assert origin(parent, at).step == (600 if at >= 600 else 0)
    result = branch(parent, at, tmp_path / "branch", {}, console=False)
    assert result.env_steps == STEPS
    runs.assert_same_run(parent, tmp_path / "branch")
    assert content(parent) == before
    assert [path.name for path in tmp_path.iterdir()] == ["branch"]


def test_a_change_begins_at_its_step(tmp_path, parent):
    branch(parent, 700, tmp_path / "branch", {"agent": {"lr_actor": 1e-2}}, console=False)
    old, new = runs.lines(parent), runs.lines(tmp_path / "branch")
    assert old[:7] == new[:7] and old[7] != new[7]
    assert [line["step"] for line in new] == [line["step"] for line in old]
    assert not all(
        torch.equal(a, b) for a, b in zip(*map(_actor, (parent, tmp_path / "branch")), strict=True)
    )
    facts = json.loads((tmp_path / "branch" / "meta.json").read_text())["branch"]
    assert (facts["at"], facts["checkpoint"]) == (700, 600)
    (pair,) = read_pairs([(parent, tmp_path / "branch")], 700)
    assert list(pair.steps) == [800]
    assert pair.parent[0] == old[7]["eval/return_mean"] and pair.branch[0] == new[7]["eval/return_mean"]
    # It is a run like others: it can be extended.
    resumed = runs.train(tmp_path / "branch", agent="sac", fields={"lr_actor": 1e-2}, steps=900, resume=True)
    assert resumed.env_steps == 900


def _actor(path):
    return [value for key, value in runs.weights(path).items() if key.startswith("actor")]


def test_what_cannot_change_is_refused(tmp_path, parent):
    for changes, said in (
        ({"train": {"seed": 3}}, "seed decides what the run is"),
        ({"agent": {"gamma": 3.0}}, "gamma"),
    ):
        with pytest.raises(ConfigError, match=said):
            branch(parent, 700, tmp_path / "branch", changes)
    assert not any(tmp_path.iterdir())
    for at in (0, 800, 10_000):
        with pytest.raises(ConfigError, match="name one in between"):
            branch(parent, at, tmp_path / "branch", {})
    with pytest.raises(DataError, match=r"actor.*this run needs"):
        branch(parent, 600, tmp_path / "wide", {"agent": {"hidden": (32, 32)}}, console=False)
    assert not any(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        branch(parent, 700, tmp_path / "full", {})


def test_the_line_says_what_changes(parent):
    mine, changes = command.split_changes(
        ["a", "b", "--at", "7", "--agent.lr-actor", "1e-2", "--out=x", "--batch-size", "16"]
    )
    assert mine == ["a", "b", "--at", "7", "--out=x"]
    assert command.changes_of(parent, changes) == {
        "train": {"batch_size": 16},
        "agent": {"lr_actor": 1e-2},
    }
    with pytest.raises(ConfigError, match="lr-actor"):
        command.changes_of(parent, ["--agent.lr-actr", "1e-2"])


@pytest.mark.parametrize(("first", "last"), [(601, 700), (301, 400)])
def test_replayed_updates_have_the_means_that_the_run_has_logged(parent, first, last):
    before = content(parent)
    rows = list(replay(parent, first, last))
    assert content(parent) == before and not list(parent.parent.glob(".replay*"))
    assert [rows[0]["step"], rows[-1]["step"]] == [first - 1 + 4, last]
    line = next(line for line in runs.lines(parent) if line["step"] == last)
    assert len(rows) == 25 and rows[-1]["update"] == line["updates"]
    for name in ("loss/critic", "loss/actor", "q/mean"):
        assert np.mean([row[name] for row in rows]) == pytest.approx(line[name], rel=1e-5)
    assert all(row["weight_norm/actor"] > 0 for row in rows)


def test_the_last_replayed_update_leaves_the_weights_of_the_checkpoint(parent):
    row = list(replay(parent, 800, 800))[-1]
    saved = [v for k, v in runs.weights(parent).items() if k.startswith("actor.") and "|" not in k]
    norm = torch.stack([value.norm() for value in saved]).norm().item()
    assert row["weight_norm/actor"] == pytest.approx(norm, rel=1e-6)


def test_steps_that_are_none_of_the_run(parent):
    for first, last in ((0, 10), (10, 5), (10, 801)):
        with pytest.raises(ConfigError, match="steps"):
            list(replay(parent, first, last))
    with pytest.raises(ConfigError, match="seed index 1"):
        list(replay(parent, 10, 20, seed_index=1))
