"""The learner's guard: silent on healthy updates, one dump and an error on a sick one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensordict import TensorDict

from rlsuite.errors import NumericalError
from rlsuite.training.guard import LearnerGuard

NAN, INF = float("nan"), float("inf")


def batch(fill: float) -> TensorDict:
    rows = torch.full((4, 1), fill)
    return TensorDict({"observation": rows, "next": {"reward": rows * 10}}, [4])


def test_healthy_updates_pass_and_write_nothing(tmp_path: Path) -> None:
    guard = LearnerGuard(tmp_path)
    guard.read()
    for i in range(5):
        guard.check({"loss/critic": torch.tensor(float(i)), "loss/actor": torch.ones(3)}, batch(i), i)
    guard.check({}, batch(0), 5)
    guard.read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_first_bad_batch_is_dumped(tmp_path: Path, bad: float) -> None:
    guard = LearnerGuard(tmp_path)
    asked = []

    def norms() -> dict[str, float]:
        asked.append(1)
        return {"actor": 1.5, "critic": NAN}

    def check(update: int, loss: float, **more: torch.Tensor) -> None:
        guard.check({"loss/critic": torch.tensor(loss), **more}, batch(update), update)

    check(1, 0.5)
    check(2, 0.5, **{"loss/actor": torch.tensor(0.1)})
    guard.read(norms=norms)
    assert asked == []
    check(3, 0.25, **{"loss/actor": torch.tensor(bad)})
    check(4, NAN)
    check(5, NAN, **{"loss/actor": torch.tensor(bad)})  # of the same layout as the first
    check(6, 0.5)
    with pytest.raises(NumericalError, match=r"loss/actor; the dump is in .*dump") as caught:
        guard.read(norms=norms, tensors=lambda: {"agent": {"w": torch.ones(2)}})
    assert caught.value.exit_code == 4
    assert "loss/critic" not in str(caught.value)
    saved = load_file(tmp_path / "dump" / "batch.safetensors")
    assert saved["observation"].eq(3).all() and saved["next.reward"].eq(30).all()
    assert load_file(tmp_path / "dump" / "agent.safetensors")["w"].sum() == 2
    report = json.loads((tmp_path / "dump" / "metrics.json").read_text())
    assert report["metrics"] == {"loss/critic": ["0.25"], "loss/actor": [str(bad)]}
    assert report["part_norms"] == {"actor": 1.5, "critic": None}
    assert report["update"] == 3


def test_an_older_dump_is_not_overwritten(tmp_path: Path) -> None:
    for place in ("dump", "dump-1"):
        guard = LearnerGuard(tmp_path)
        guard.check({"loss": torch.tensor(NAN)}, {"observation": torch.zeros(2)}, 1)
        with pytest.raises(NumericalError):
            guard.read()
        assert (tmp_path / place / "batch.safetensors").is_file()


def test_the_run_stops_even_where_no_dump_can_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    guard = LearnerGuard(blocked)
    guard.check({"loss": torch.tensor(INF)}, {"observation": torch.zeros(2)}, 1)
    with pytest.raises(NumericalError, match="no dump"):
        guard.read()
