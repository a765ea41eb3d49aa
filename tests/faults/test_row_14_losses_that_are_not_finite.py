"""Row 14: a loss or gradient that is not finite: no step is taken, the dump reproduces it, exit code 4."""

import pytest
import torch
import whole_runs as runs
from safetensors.torch import load_file
from tensordict import TensorDict

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.errors import NumericalError
from rlsuite.registry import agent_class
from rlsuite.training import state


@pytest.mark.parametrize("agent", ["dsac_t", "sac", "td3"])
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_what_made_it(tmp_path, agent):
    path = tmp_path / "run"
    with pytest.raises(NumericalError, match="dump"):
        runs.train(path, agent, {"lr_critic": 1e25}, steps=4000)
    batch = load_file(path / "dump" / "batch.safetensors")
    assert all(tensor.isfinite().all() for tensor in batch.values())
    saved = load_file(path / "dump" / "agent.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())
    again = small(agent)
    state.load_agent_tensors(again, saved)
    rows = runs_batch(batch)
    metrics = [again.update(rows) for _ in range(2)]
    assert not all(torch.isfinite(value) for m in metrics for value in m.values())


def small(name):
    kind = agent_class(name)
    spaces = Spaces(observation=1, action=1, half_range=(1.0,))
    return kind(spaces, kind.Config(hidden=(16, 16), lr_critic=1e25), make_generators(0))


def runs_batch(flat):
    return TensorDict({tuple(k.split(".")): v for k, v in flat.items()}, [32])


def test_without_the_guard_the_weights_stay_finite_all_the_same(tmp_path):
    runs.train(tmp_path / "run", "sac", {"lr_critic": 1e25}, guard=False)
    assert all(tensor.isfinite().all() for tensor in runs.weights(tmp_path / "run").values())
