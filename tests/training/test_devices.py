"""Where a run computes."""

from contextlib import contextmanager

import pytest
import torch
import whole_runs as runs

from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.training import online
from rlsuite.training.assembly import build, pick_device
from rlsuite.training.learning import products


def test_warp_on_a_cpu_must_be_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"engine warp is made for CUDA.*--engine native.*--device cpu"):
        pick_device("auto", "warp")
    assert pick_device("cpu", "warp") == pick_device("auto", "native") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no CUDA device here"):
        pick_device("cuda", "warp")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto", "warp").type == "cuda"
    assert pick_device("cpu", "warp").type == "cpu"


def test_tf32_is_for_cuda_alone_and_ends_with_the_run():
    before = torch.get_float32_matmul_precision()
    for name, device, meanwhile in (
        ("tf32", "cuda", "high"),
        ("tf32", "cpu", before),
        ("float32", "cuda", before),
    ):
        with products(name, torch.device(device)):
            assert torch.get_float32_matmul_precision() == meanwhile
        assert torch.get_float32_matmul_precision() == before


def test_acting_and_learning_share_the_envs_stream(monkeypatch):
    """Outside it every call of the engine would wait for the learner's stream, and the other way round."""
    kind = agent_class("sac")
    run = build(kind, kind.Config(**runs.TINY), TrainConfig(**runs.QUICK))
    inside, seen = [], []

    @contextmanager
    def stream():
        inside.append(1)
        yield
        inside.pop()

    step, update = run.env.step_tensors, online.update
    monkeypatch.setattr(run.env, "stream", stream)
    monkeypatch.setattr(run.env, "step_tensors", lambda action: seen.append(len(inside)) or step(action))
    monkeypatch.setattr(online, "update", lambda *given: seen.append(len(inside)) or update(*given))
    online.train_steps(run, 8)
    assert seen == [1, 1, 1, 1] and not inside
    run.close()
