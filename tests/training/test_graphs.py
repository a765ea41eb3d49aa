"""A faster update is used only when it equals the eager one, and the comparison leaves no trace."""

import logging
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "agents"))
from helpers import NAMES, random_batch, small_agent

from rlsuite.training import state
from rlsuite.training.graphs import GraphedUpdate, verified


def eager(agent, batch):
    def update(rows):
        return agent.update(rows)

    return update


def scaled(agent, batch):
    def update(rows):
        metrics = agent.update(rows)
        with torch.no_grad():
            next(agent.parameters()).mul_(1.01)
        return metrics

    return update


def broken(agent, batch):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def everything(agent):
    tensors = {**state.agent_tensors(agent), **state.optimizer_tensors(agent)}
    generators = {name: g.get_state() for name, g in agent.generators.items()}
    return {k: v.clone() for k, v in {**tensors, **generators}.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("updates", [0, 5])
@pytest.mark.parametrize("factory", [eager, scaled, broken])
def test_the_comparison_leaves_no_trace(name, updates, factory):
    agent, untouched = small_agent(name), small_agent(name)
    for k in range(updates):
        agent.update(random_batch(seed=k))
        untouched.update(random_batch(seed=k))
    verified(agent, random_batch(), factory)
    for k in range(3):
        agent.update(random_batch(seed=k))
        untouched.update(random_batch(seed=k))
    one, two = everything(agent), everything(untouched)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(("factory", "used"), [(eager, True), (scaled, False), (broken, False)])
def test_only_an_equal_update_is_used(factory, used, caplog):
    agent = small_agent("dsac_t")
    with caplog.at_level(logging.WARNING):
        update = verified(agent, random_batch(), factory)
    assert (update != agent.update) == used
    assert bool(caplog.records) != used


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_cuda_graphs_equal_eager_updates(name):
    from rlsuite.agents.base import make_generators
    from rlsuite.registry import agent_class

    kind = agent_class(name)
    spaces = small_agent(name).spaces
    agent = kind(spaces, kind.Config(), make_generators(0, "cuda"), device="cuda")
    update = verified(agent, random_batch(256).cuda())
    assert isinstance(update, GraphedUpdate)
