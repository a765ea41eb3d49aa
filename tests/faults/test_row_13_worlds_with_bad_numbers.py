"""Row 13: a world that returns NaN is reset, counted, never learnt from; too many of them end the run."""

import json

import gymnasium
import pytest
import whole_runs as runs
from safetensors.torch import load_file
from toys import Poisoned

from rlsuite.errors import NumericalError


@pytest.fixture(autouse=True)
def count_from_zero():
    Poisoned.steps = 0


def test_a_world_with_a_bad_number_is_reset_counted_and_never_learnt_from(tmp_path, monkeypatch, count):
    monkeypatch.setitem(gymnasium.registry["ToyPoisoned-v0"].kwargs, "every", 250)
    result = runs.train(tmp_path / "run", env="gym:ToyPoisoned-v0", eval_every=0, steps=800)
    assert result.updates == 150
    last = runs.lines(tmp_path / "run")[-1]
    assert last["env/nan_resets"] == 3
    for tensor in runs.weights(tmp_path / "run").values():
        assert tensor.isfinite().all()
    for chunk in (runs.newest(tmp_path / "run") / "replay").iterdir():
        for tensor in load_file(chunk).values():
            assert tensor.isfinite().all()
    count("bad worlds reset and not learnt from", last["env/nan_resets"])


def test_too_many_bad_worlds_end_the_run_with_a_dump(tmp_path, monkeypatch, count):
    monkeypatch.setitem(gymnasium.registry["ToyPoisoned-v0"].kwargs, "every", 20)
    with pytest.raises(NumericalError, match=r"envs .* dump"):
        runs.train(tmp_path / "run", env="gym:ToyPoisoned-v0", eval_every=0, steps=800)
    report = json.loads((tmp_path / "run" / "dump" / "metrics.json").read_text())
    assert report["nan_resets"] > 10
    before = load_file(tmp_path / "run" / "dump" / "before.safetensors")
    failed, length = before["observation"].shape[:2]
    assert 1 <= failed <= 4 and length == 50
    for world in range(failed):
        there = before["rows"][world]
        assert there > 10 and not before["valid"][world, -1]
        assert before["observation"][world, -there:].isfinite().all()
        assert before["observation"][world, -there:].any(-1).all()  # rows of the run, and no padding
    count("runs ended with a dump")
