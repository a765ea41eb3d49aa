"""The loss modules in a plain TorchRL program: its optimiser loop, its target updater, its replay buffer."""

import importlib
import inspect

import pytest
import torch
from helpers import SPACES, WITH_CRITICS, WITH_TARGETS, random_batch, small_agent
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.objectives import SoftUpdate


def loss_module(name):
    """The `LossModule` beside an agent, XLoss beside X, on the networks of a small one."""
    agent = small_agent(name)
    cls = getattr(importlib.import_module(type(agent).__module__), f"{type(agent).__name__}Loss")
    given = {
        **vars(agent),
        **dict(agent.named_children()),
        "half_range": SPACES.half_range,
        "actions": SPACES.action,
    }
    wanted = set(inspect.signature(cls.__init__).parameters) - {"self", "generator", "center"}
    return cls(**{key: given[key] for key in wanted})


@pytest.mark.parametrize("name", WITH_TARGETS)
def test_a_torchrl_program_trains_with_our_losses(name):
    torch.manual_seed(0)
    loss = loss_module(name)
    updater = SoftUpdate(loss, tau=0.01)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    buffer = ReplayBuffer(storage=LazyTensorStorage(256), batch_size=64)
    buffer.extend(random_batch(256))
    first = {
        key: value.clone() for key, value in loss.state_dict().items() if isinstance(value, torch.Tensor)
    }
    for _ in range(10):
        losses = loss(buffer.sample())
        assert set(losses.keys()) == set(loss.out_keys)
        sum(losses[key] for key in loss.out_keys).backward()
        optimizer.step()
        optimizer.zero_grad()
        updater.step()
    moved = {key for key, value in first.items() if not torch.equal(value, loss.state_dict()[key])}
    parts = ("critic_params", "target_critic_params", *(["actor_params"] if hasattr(loss, "actor") else []))
    for part in parts:
        assert any(key.startswith(part) for key in moved), part
    if name == "dsac_t":
        assert {"spread", "spread_count", "log_alpha"} <= moved
    if name == "iql":
        assert any(key.startswith("value_params") for key in moved)
    learnt = {key for key, value in loss.critic_params.items(True, True) if value.requires_grad}
    drift = [
        (online - target).abs().max()
        for (key, online), target in zip(
            loss.critic_params.items(True, True), loss.target_critic_params.values(True, True), strict=True
        )
        if key in learnt  # and no running statistics, which targets have of their own
    ]
    assert all(0 < gap < 0.05 for gap in drift)  # targets follow, they do not copy


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_no_gradient_reaches_targets_or_crosses_over(name):
    loss = loss_module(name)
    losses = loss(random_batch())
    if "loss_actor" in loss.out_keys:
        losses["loss_actor"].backward()
        assert any(p.grad is not None and p.grad.any() for p in loss.actor_params.values(True, True))
    assert all(p.grad is None or not p.grad.any() for p in loss.critic_params.values(True, True))
    if name == "iql":
        assert all(p.grad is None or not p.grad.any() for p in loss.value_params.values(True, True))
    losses["loss_critic"].backward()
    assert all(p.grad is None or not p.grad.any() for p in loss.target_critic_params.values(True, True))
    assert not any(name.startswith("target") for name, _ in loss.named_parameters())


def test_cloning_in_a_torchrl_program_needs_no_targets():
    loss = loss_module("bc")
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    rows = random_batch(64)
    found = [loss(rows)["loss_actor"]]
    for _ in range(20):
        found[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss(rows)["loss_actor"])
    assert found[-1] < found[0]
    assert set(loss(rows).keys()) == set(loss.out_keys)
