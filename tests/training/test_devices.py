"""Where a run computes."""

import pytest
import torch

from rlsuite.errors import ConfigError
from rlsuite.training.assembly import pick_device


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
