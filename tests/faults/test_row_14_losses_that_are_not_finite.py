"""Row 14: a loss or gradient that is not finite: no step is taken, the dump reproduces it, exit code 4."""

import pytest
import torch
import whole_runs as runs
from agents.helpers import NAMES, random_batch, small_agent
from safetensors.torch import load_file
from tensordict import TensorDict

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.errors import NumericalError
from rlsuite.registry import agent_class
from rlsuite.training import state
from rlsuite.training.guard import LearnerGuard


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


@pytest.mark.parametrize("name", NAMES)
def test_an_infinite_gradient_is_no_step_and_is_reported(tmp_path, count, name):
    agent, guard = small_agent(name), LearnerGuard(tmp_path)
    rows = random_batch(spaces=agent.spaces)
    for _ in range(2):  # with delayed updates the actor's comes second
        agent.update(rows)
    sick = next(part for part in agent.parts() if part.optimizer is not None)
    first = next(iter(sick.module.parameters()))
    handle = first.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    before = {key: value.clone() for key, value in sick.module.named_parameters()}
    for update in range(2):
        guard.check(agent.update(rows), rows, update)
    handle.remove()
    for key, value in sick.module.named_parameters():  # statistics of what was seen may move
        assert torch.equal(value, before[key]), f"{sick.name}.{key} was updated"
    assert all(tensor.isfinite().all() for tensor in state.agent_tensors(agent).values())
    assert all(tensor.isfinite().all() for tensor in state.optimizer_tensors(agent).values())
    with pytest.raises(NumericalError, match="not finite at update") as caught:
        guard.read()
    assert caught.value.exit_code == 4
    dumped = load_file(tmp_path / "dump" / "batch.safetensors")
    assert torch.equal(dumped["observation"], rows["observation"])
    count("gradients set to infinity, noticed")
