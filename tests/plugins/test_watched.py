"""Plug-ins say which updates they look into: all others may be compiled, where no hook fires."""

import pytest
import torch
from agents.helpers import random_batch, small_agent

from rlsuite.agents.base import make_generators
from rlsuite.plugins.base import Plugin
from rlsuite.registry import plugin_class

UPDATES = 23
KINDS = {
    "grama": ("grama", {"tau": 0.4}),
    "grama, preact": ("grama", {"tau": 0.4, "mode": "preact"}),
    "redo": ("redo", {"tau": 0.4}),
    "measuring": ("redo", {"tau": 0.4, "measure_only": True}),
}


def plugin_of(agent, name, period):
    plugin, fields = KINDS[name]
    chosen = plugin_class(plugin)
    return chosen(chosen.Config(period=period, **fields), agent, torch.Generator().manual_seed(9))


def hooks(agent):
    """Hooks of modules and of parameters."""
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in agent.modules())
    return modules + sum(len(p._backward_hooks or ()) for p in agent.parameters())


def train(agent_name, name, period, *, compiled, resume_at=0):
    """Update an agent; `compiled` leaves nothing to see of the updates that are not watched."""
    agent = small_agent(agent_name)
    plugin = plugin_of(agent, name, period)
    watched, logged = [], []
    for update in range(1, UPDATES + 1):
        if plugin.watches(update):
            watched.append(update)
        elif compiled:
            assert not hooks(agent), update
        agent.update(random_batch(rows=16, seed=update))
        if compiled and update not in watched:
            for parameter in agent.parameters():
                parameter.grad = None
        logged.append({key: value.clone() for key, value in plugin.after_update(agent).items()})
        if update == resume_at:
            stream = plugin.source.get_state()
            state = plugin.state_dict()
            for reset in plugin.resets.values():
                reset.detach()
            plugin = plugin_of(agent, name, period)
            plugin.load_state_dict(state)
            plugin.source.set_state(stream)
    tensors = [p.detach() for p in agent.parameters()]
    for part in agent.parts():
        for entry in part.optimizer.state.values() if part.optimizer is not None else ():
            tensors += [value for value in entry.values() if isinstance(value, torch.Tensor)]
    return tensors, logged, watched, plugin


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("agent", ["sac", "td3", "dsac_t"])
def test_results_are_those_of_a_run_that_is_eager_throughout(agent, name):
    plain, logged, *_ = train(agent, name, 5, compiled=False)
    compiled, same, watched, plugin = train(agent, name, 5, compiled=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, compiled, strict=True))
    assert logged == same
    assert sum(map(bool, logged)) >= 4  # a test in which nothing is scored shows nothing
    if name != "measuring":
        assert all(sum(int(n.sum()) for n in reset.resets.values()) for reset in plugin.resets.values())
    # Every fifth, and one more where the actor of a delayed agent has to wait for its next step.
    waits = {"sac": [], "td3": [6, 16], "dsac_t": [11, 21]}[agent]
    assert watched == sorted([5, 10, 15, 20, *waits])


def test_a_resumed_run_watches_what_it_waits_for():
    """Saved between the period's update and the one that a delayed actor waits for."""
    plain, _, watched, _ = train("td3", "redo", 5, compiled=True)
    resumed, _, again, _ = train("td3", "redo", 5, compiled=True, resume_at=5)
    assert watched == again
    assert all(torch.equal(a, b) for a, b in zip(plain, resumed, strict=True))


def test_hooks_are_there_for_watched_updates_alone():
    agent = small_agent("sac")
    plugin = plugin_of(agent, "redo", 2)
    seen = []
    for update in range(1, 5):
        seen.append(hooks(agent) > 0)
        agent.update(random_batch(rows=16, seed=update))
        plugin.after_update(agent)
    assert seen == [False, True, False, True]
    plugin_of(agent, "grama", 2)
    assert not hooks(agent)  # scores by weight need none
    agent = small_agent("sac")
    plugin_of(agent, "redo", 1)
    assert hooks(agent)


def test_a_plug_in_of_others_watches_everything_or_nothing():
    class Looks(Plugin):
        """Looks into every update."""

        eager = True

    arguments = (None, small_agent("sac"), make_generators(0)["act"])
    assert [Looks(*arguments).watches(update) for update in (1, 2)] == [True, True]
    assert not Plugin(*arguments).watches(1)


def test_gradients_that_are_not_accumulated_are_seen():
    """`torch.autograd.grad` gives gradients to its caller alone."""
    from rlsuite.plugins.grama import GraMa

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    x = torch.randn(16, 3)
    scores = []
    for accumulated in (True, False):
        reset = GraMa(mode="preact").attach(net)
        loss = net(x).square().mean()
        if accumulated:
            loss.backward()
        else:
            torch.autograd.grad(loss, list(net.parameters()))
        scores.append(reset.report()["0"].score)
        other = net(x.requires_grad_()).sum()
        torch.autograd.grad(other, x)  # does not reach the weight: another loss's pass through the network
        assert torch.equal(reset.report()["0"].score, scores[-1])
    assert torch.equal(*scores)
