"""What every agent promises: complete state, independent seeds, honest flags, guarded steps."""

import copy

import pytest
import torch
from helpers import (
    FROM_DATA,
    MODE_FIELDS,
    NAMES,
    SPACES,
    WITH_CRITICS,
    random_batch,
    small_agent,
    with_field,
)
from tensordict import TensorDict
from torch import nn
from torch.optim import Optimizer
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import make_generators
from rlsuite.agents.optim import Adam
from rlsuite.blocks.mlp import MLP
from rlsuite.registry import agent_class
from rlsuite.training import state


def walk(value, path="", seen=None):
    """Yield (path, leaf) for every number, tensor, generator and string reachable from `value`."""
    seen = set() if seen is None else seen
    if isinstance(value, (torch.Tensor, torch.Generator, bool, int, float, str)):
        yield path, value
        return
    if id(value) in seen or value is None or isinstance(value, type):
        return
    seen.add(id(value))
    if isinstance(value, Optimizer):
        yield from walk(value.state, f"{path}.state", seen)
        yield from walk(value.param_groups, f"{path}.param_groups", seen)
    elif isinstance(value, dict):
        for key, item in value.items():
            name = key if isinstance(key, str) else type(key).__name__ + str(len(seen))
            yield from walk(item, f"{path}[{name}]", seen)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}[{index}]", seen)
    elif hasattr(value, "__dict__"):
        for key, item in vars(value).items():
            if not callable(item) or isinstance(item, nn.Module):
                yield from walk(item, f"{path}.{key}", seen)


def content(leaf):
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().clone()
    if isinstance(leaf, torch.Generator):
        return leaf.get_state().clone()
    return leaf


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
    return a == b


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_fifty_updates_change_is_saved(name):
    agent = small_agent(name)
    for k in range(2):  # optimisers make their state at the first steps
        agent.update(random_batch(seed=k))
    before = {path: content(leaf) for path, leaf in walk(agent)}
    for k in range(50):
        with set_exploration_type(ExplorationType.RANDOM):
            agent.policy(random_batch(seed=k).clone())
        agent.update(random_batch(seed=k))
    saved = [*state.agent_tensors(agent).values(), *state.optimizer_tensors(agent).values()]
    saved_storages = {t.data_ptr() for t in saved}
    gradients = {p.grad.data_ptr() for p in agent.parameters() if p.grad is not None}
    changed = []
    for path, leaf in walk(agent):
        if path in before and same(before[path], content(leaf)):
            continue
        changed.append(path)
        if isinstance(leaf, torch.Tensor):
            kept = leaf.data_ptr() in saved_storages or leaf.data_ptr() in gradients
            kept = kept or path.endswith("found_inf")  # an input of the next step, written before it is read
        elif isinstance(leaf, torch.Generator):
            kept = any(leaf is g for g in agent.generators.values())
        else:
            kept = path.endswith(".update_count")
        assert kept, f"{path} changed while training and is in no state_dict"
    assert any(path.endswith(".update_count") for path in changed)
    assert len(changed) > 10


def test_the_walk_finds_a_forgotten_attribute():
    agent = small_agent("sac")
    before = dict(walk(agent))
    agent.hidden_counter = 1
    assert set(dict(walk(agent))) - set(before) == {".hidden_counter"}


def restored(agent, name, **fields):
    """A fresh agent with another seed that took over everything the checkpoint keeps."""
    other = small_agent(name, seed=99, **fields)
    state.load_agent_tensors(other, copy.deepcopy(state.agent_tensors(agent)))
    state.load_optimizer_tensors(other, copy.deepcopy(state.optimizer_tensors(agent)))
    for key, generator in agent.generators.items():
        other.generators[key].set_state(generator.get_state())
    return other


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_agent_goes_on_bit_for_bit(name):
    agent = small_agent(name)
    for k in range(7):  # odd: a delayed update is pending
        agent.update(random_batch(seed=k))
    other = restored(agent, name)
    for k in range(7, 14):
        ours, theirs = agent.update(random_batch(seed=k)), other.update(random_batch(seed=k))
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert torch.equal(ours[key], theirs[key]), key
    with set_exploration_type(ExplorationType.RANDOM):
        actions = [a.policy(random_batch(seed=1).clone())["action"] for a in (agent, other)]
    assert torch.equal(*actions)


@pytest.mark.parametrize("name", NAMES)
def test_saved_tensors_of_another_shape_are_refused(name):
    wide = small_agent(name, hidden=(24, 24))
    with pytest.raises(Exception, match="agent") as caught:
        state.load_agent_tensors(small_agent(name), state.agent_tensors(wide))
    assert "24" in str(caught.value) and "16" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lead", [(), (2,), (3, 2)])
def test_seeds_are_leading_axes_and_do_not_feel_one_another(name, lead):
    agent = small_agent(name, lead=lead)
    batch = random_batch(lead=lead)
    agent.update(batch)
    if not lead:
        return
    disturbed = small_agent(name, lead=lead)
    other = batch.clone()
    first = (0,) * len(lead)
    other["observation"][first] += 1.0
    disturbed.update(other)
    for (key, a), b in zip(agent.named_parameters(), disturbed.parameters(), strict=True):
        if key == f"{'critic' if name in WITH_CRITICS else 'actor'}.trunk.0.weight":
            assert not torch.equal(a[first], b[first])
        mask = torch.ones(lead, dtype=torch.bool)
        mask[first] = False
        torch.testing.assert_close(a[mask], b[mask], rtol=0, atol=0)


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_updates_read_terminated_and_never_truncated_or_done(name):
    batch = random_batch()
    lied = batch.clone()
    lied["next", "truncated"] = ~lied["next", "truncated"]
    lied["next", "done"] = ~lied["next", "done"]
    flipped = batch.clone()
    flipped["next", "terminated"] = ~flipped["next", "terminated"]
    losses = []
    for rows in (batch, lied, flipped):
        agent = small_agent(name)
        agent.update(rows)
        losses.append(torch.cat([p.grad.flatten() for p in agent.parameters() if p.grad is not None]))
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_not_finite_moves_no_weight(name):
    agent = small_agent(name)
    agent.update(random_batch(seed=1))
    before = {k: v.clone() for k, v in state.agent_tensors(agent).items()}
    broken = random_batch(seed=2)
    broken["next", "reward"][3] = float("inf")
    broken["observation"][5] = float("nan")
    metrics = agent.update(broken)
    norms = {key: norm for key, norm in metrics.items() if key.startswith("grad_norm/")}
    assert norms and not any(norm.isfinite() for norm in norms.values())
    after = state.agent_tensors(agent)
    for key, tensor in after.items():
        assert tensor.isfinite().all(), key
        if key.startswith(("critic.", "actor.", "value.", "log_alpha")):
            assert torch.equal(tensor, before[key]), key
    for key, tensor in state.optimizer_tensors(agent).items():
        assert tensor.isfinite().all(), key


@pytest.mark.parametrize("lead", [(), (2,)])
def test_a_step_is_that_of_plain_adam(lead):
    """The fused kernel reads memory in order: a gradient laid out unlike its parameter would be scrambled."""
    nets = [MLP(5, (8, 8), 3, lead=lead, generator=torch.Generator().manual_seed(0)) for _ in "ab"]
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    fused, plain = Adam((list(nets[0].parameters()), 1e-2)), torch.optim.Adam(nets[1].parameters(), lr=1e-2)
    for _ in range(3):
        fused.descend(nets[0](x).square().mean())
        plain.zero_grad()
        nets[1](x).square().mean().backward()
        plain.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert a.grad.stride() == a.stride()
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_policy_explores_only_when_asked(name):
    rows = random_batch(5).select("observation")

    def act(agent):
        return agent.policy(rows.clone())["action"]

    for agent in (small_agent(name), small_agent(name, **MODE_FIELDS.get(name, {}))):
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            before = {key: generator.get_state() for key, generator in agent.generators.items()}
            assert torch.equal(act(agent), act(agent))
            for key, generator in agent.generators.items():
                assert torch.equal(before[key], generator.get_state())
            mode = act(agent)
        with set_exploration_type(ExplorationType.RANDOM):
            assert not torch.equal(act(agent), act(agent))
        assert (mode.abs() <= 1).all()
    with set_exploration_type(ExplorationType.RANDOM):
        agent.policy.module.exploration_scale.zero_()
        torch.testing.assert_close(act(agent), mode)


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_values(name):
    found = small_agent(name).values(random_batch(6))
    assert isinstance(found, TensorDict)
    assert found["q"].shape == found["td_error"].shape == (6,)
    assert not found["q"].requires_grad


@pytest.mark.parametrize("name", WITH_CRITICS)
def test_batches_may_bring_their_own_discount(name):
    """n-step rows: discount gamma^3 is the same as an agent whose gamma is gamma^3."""
    batch = random_batch()
    n_step = batch.clone().set("discount", torch.full((32, 1), 0.99**3))
    if name == "floq":
        pytest.skip("bins and starts of its field follow from gamma; see test_fql.py")
    a, b = small_agent(name, gamma=0.99), small_agent(name, gamma=0.99**3)
    a.update(n_step)
    b.update(batch)
    for x, y in zip(a.critic.parameters(), b.critic.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, field)
        for field in ("gamma", "tau", "lr_critic", "lr_actor", "lr_alpha", "dropout", "exploration_noise")
        for name in with_field(field)
    ]
    + [("d_eta_n", field) for field in ("kappa", "edited", "epsilon_final", "level")],
)
def test_config_refuses_values_outside_their_range(name, field):
    with pytest.raises(ValueError, match=field):
        agent_class(name).Config(**{field: -0.5})


def test_missing_generators_are_named():
    kind = agent_class("sac")
    with pytest.raises(ValueError, match="act"):
        kind(SPACES, kind.Config(), {"init": make_generators(0)["init"]})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lead", [(), (2,)])
def test_normalised_observations_make_the_scale_of_the_task_irrelevant(name, lead):
    """The same task in other units gives the same actions, up to rounding."""
    factor, shift = 50.0, 300.0
    batches = [random_batch(lead=lead, seed=k) for k in range(5)]
    agents = [small_agent(name, lead=lead, normalize_observations=True) for _ in range(2)]
    if name in FROM_DATA:
        seen = torch.cat([batch["observation"].flatten(0, -2) for batch in batches])
        mean, std = seen.mean(0), seen.std(0)
        agents[0].adopt_statistics(mean, std)
        agents[1].adopt_statistics(mean * factor + shift, std * factor)
    for batch in batches:
        scaled = batch.clone()
        scaled["observation"] = batch["observation"] * factor + shift
        scaled["next", "observation"] = batch["next", "observation"] * factor + shift
        agents[0].update(batch)
        agents[1].update(scaled)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        plain = agents[0].policy(batches[0].clone())["action"]
        same_rows = batches[0].clone()
        same_rows["observation"] = same_rows["observation"] * factor + shift
        other = agents[1].policy(same_rows)["action"]
    torch.testing.assert_close(plain, other, rtol=0, atol=2e-3)
    if name in FROM_DATA:
        assert torch.equal(agents[0].normalizer.mean, mean)  # replayed rows move nothing
    else:
        assert agents[0].normalizer.count == 5 * 32


def test_values_in_mixed_precision_are_not_rounded_to_bfloat16():
    """Near 1,000 neighbours in bfloat16 are 4 apart: output layers are computed in full."""
    agent = small_agent("sac")
    with torch.no_grad():
        agent.critic.trunk.head.bias.fill_(1000.0)
    batch = random_batch(512)
    full = agent.critic(batch["observation"], batch["action"])
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        mixed = agent.critic(batch["observation"], batch["action"])
    assert len(mixed[0].unique()) > 400 and (mixed - full).abs().max() < 0.1
    assert not torch.equal(mixed, full)


@pytest.mark.parametrize("name", NAMES)
def test_updates_in_mixed_precision_stay_near_those_in_full(name):
    full, mixed, differs = small_agent(name), small_agent(name), False
    for k in range(4):
        batch = random_batch(seed=k)
        expected = full.update(batch)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            found = mixed.update(batch)
        key = "loss/critic" if name in WITH_CRITICS else "loss/actor"
        torch.testing.assert_close(found[key], expected[key], rtol=0.1, atol=0.05)
        differs |= not torch.equal(found[key], expected[key])
    assert differs
    for parameter, other in zip(mixed.parameters(), full.parameters(), strict=True):
        assert parameter.dtype == other.dtype != torch.bfloat16 and parameter.isfinite().all()
    assert mixed.policy(random_batch())["action"].dtype == torch.float32
