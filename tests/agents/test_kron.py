"""Kron: schedule, clip and whitening by numbers, the refresh against plain loops, and what runs ask of it."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from helpers import random_batch, small_agent

from rlsuite.agents.base import Agent, OnPolicyAgent, make_generators
from rlsuite.agents.compiled import compiled, obstacle
from rlsuite.agents.kron import (
    Kron,
    as_tensor,
    balanced,
    clipped,
    norm_bound,
    preconditioned,
    refresh_share,
    refreshed,
    refreshes,
    tensor_axes,
)
from rlsuite.agents.optimizers import OptimizerConfig
from rlsuite.blocks.convolution import ConvTrunk
from rlsuite.blocks.mlp import Linear
from rlsuite.errors import ConfigError, DataError
from rlsuite.plugins.grama import GraMa
from rlsuite.registry import agent_class, agent_names
from rlsuite.training import state

OURS = [name for name in agent_names() if agent_class(name).__module__.startswith("rlsuite.")]
SAC = agent_class("sac")
pytestmark = pytest.mark.usefixtures("float64")


def close(ours, theirs, rtol=1e-9):
    torch.testing.assert_close(ours, torch.as_tensor(theirs, dtype=ours.dtype), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (1, 1),
        (500, 1),
        (501, 0.999),
        (1000, 0.606531),
        (2000, 0.22313),
        (4000, 0.030197),
        (4007, 0.03),
        (9e6, 0.03),
    ],
)
def test_share_of_steps_that_refresh(step, share):
    assert refresh_share(step, 0.03) == pytest.approx(share, abs=5e-7)


def test_refreshes_are_counted_as_a_waiting_loop_does():
    waited, total, due = 0, 0, []
    for step in range(1, 6000):
        waited += 1
        if waited >= 1 / refresh_share(step, 0.03):
            waited, total = 0, total + 1
            due.append(step)
        assert refreshes(step, 0.03) == total
    assert due[:500] == [*range(1, 501)]
    assert {b - a for a, b in zip(due[-30:], due[-29:], strict=False)} == {34}
    assert refreshes(10, 1.0) == 10


def test_root_mean_square_is_clipped_for_each_network():
    close(clipped(torch.tensor([3.0, 4.0]), 1), [0.9333809512, 1.2445079349])
    close(clipped(torch.tensor([0.1, 0.1]), 1), [0.1, 0.1])
    close(clipped(torch.zeros(2), 1), [0.0, 0.0])
    both = clipped(torch.tensor([[[3.0, 4.0]], [[0.1, 0.1]]]), 2)
    close(both, [[[0.9333809512, 1.2445079349]], [[0.1, 0.1]]])


def plain_refresh(left, right, g, v, rate):
    """The refresh of one matrix in numpy, inverses and eigenvalue bound written out."""
    a, b = left @ g @ right.T, np.linalg.inv(left).T @ v @ np.linalg.inv(right)
    new = []
    for factor, x, y in ((left, a, b), (right, a.T, b.T)):
        whole = x @ x.T + y @ y.T
        column = whole[:, np.argmax((whole**2).sum(0))]
        for _ in range(2):
            column = whole @ (column / np.linalg.norm(column))
        assert np.linalg.norm(column) <= np.linalg.eigvalsh(whole)[-1] * (1 + 1e-12)
        new.append(factor - rate * np.triu(x @ x.T - y @ y.T) @ factor / np.linalg.norm(column))
    return new


def test_refresh_is_the_plain_one_for_every_network():
    rng = np.random.default_rng(0)
    left = np.triu(rng.normal(size=(2, 3, 3))) + 3 * np.eye(3)
    right = np.triu(rng.normal(size=(2, 4, 4))) + 3 * np.eye(4)
    g, v = rng.normal(size=(2, 2, 3, 4))
    new = refreshed([*map(torch.tensor, (left, right))], torch.tensor(g), torch.tensor(v), 0.1)
    for k in range(2):
        for ours, theirs in zip(new, plain_refresh(left[k], right[k], g[k], v[k], 0.1), strict=True):
            close(ours[k], theirs)
    shown = preconditioned(torch.tensor(g), [torch.tensor(f.swapaxes(-1, -2) @ f) for f in (left, right)])
    close(shown[1], left[1].T @ left[1] @ g[1] @ right[1].T @ right[1])


def test_a_diagonal_side_is_the_diagonal_of_the_full_one():
    """Where L is diagonal, and so is what it is changed by, both forms are the same numbers."""
    g, v = torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([[0.3, 0.0], [0.0, -0.7]])
    one, many = torch.tensor([2.0, 3.0]), torch.tensor([0.5, 1.5])
    left, right = refreshed([one, torch.diag(many)], g, v, 0.1)
    full, _ = refreshed([torch.diag(one), torch.diag(many)], g, v, 0.1)
    close(torch.diag(left), full)
    alone, other = refreshed([one, many], g, v, 0.1)
    close(alone, left)
    close(torch.diag(other), right)
    close(
        preconditioned(g, [one.square(), torch.diag(many.square())]),
        preconditioned(g, [torch.diag(one.square()), many.square()]),
    )


def test_no_gradient_and_no_number_leave_factors_alone():
    factors = [torch.eye(2).expand(3, 2, 2).clone(), torch.ones(3, 2)]
    gradient = torch.stack((torch.zeros(2, 2), torch.full((2, 2), math.nan), torch.full((2, 2), 2.0)))
    new = refreshed(factors, gradient, torch.ones(3, 2, 2), 0.1)
    for old, fresh in zip(factors, new, strict=True):
        assert torch.equal(old[:2], fresh[:2])
        assert not torch.equal(old[2], fresh[2])


def test_balanced_factors_have_one_greatest_entry_and_the_same_product():
    left, right = torch.tensor([[4.0, 1.0], [0.0, 2.0]]), torch.tensor([0.25, 0.125])
    new = balanced([left, right], 0)
    close(new[0].abs().max(), 1.0)
    close(new[1], [1.0, 0.5])
    close(new[0], left / 4)
    assert norm_bound(torch.diag(torch.tensor([1.0, -3.0]))) == 3


@pytest.mark.parametrize("seed", range(3))
def test_whitening_of_a_vector(seed):
    """Root mean squares of the preconditioned momentum, before the clip, near 1 for both entries."""
    weight, rng = torch.nn.Parameter(torch.zeros(2)), torch.Generator().manual_seed(seed)
    kron = Kron(([weight], 0.0), axes={}, least_share=1.0)
    squares, std = torch.zeros(2), torch.tensor([2.0, 0.1])
    steps = 3000
    for step in range(1, steps + 1):
        weight.grad = std * torch.randn(2, generator=rng)
        kron.step()
        kron.follow(rng)
        if step > steps // 3:
            entry = kron.entries[0][0]
            squares += (entry.exp_avg * entry.products[0]).square()
    rms = (squares / (steps - steps // 3)).sqrt()
    assert (rms > 0.75).all()
    assert (rms < 1.1).all()
    assert not weight.detach().any()


def test_shapes_of_factors():
    net = torch.nn.Sequential(torch.nn.Linear(9, 5), torch.nn.Conv2d(4, 8, 3), Linear(3, 2, lead=(4,)))
    trunk = ConvTrunk((4, 4, 3), (6,), 2, lead=(2,))
    axes = tensor_axes(torch.nn.ModuleList([net, trunk]))
    parameters = [*net.parameters(), *trunk.parameters()]
    kron = Kron((parameters, 1e-3), axes=axes, max_size=20)
    shapes = [[tuple(factor.shape) for factor in entry.factors] for entry in kron.entries[0]]
    assert shapes[:6] == [
        *([(5, 5), (9, 9)], [(5,)]),  # a matrix, a bias
        *([(8, 8), (36,)], [(8,)]),  # a kernel as [out, in * height * width], whose long side is diagonal
        *([(4, 2, 2), (4, 3, 3)], [(4, 2)]),  # four networks, each with factors of its own
    ]
    assert shapes[6:8] == [[(2, 16, 16), (2, 27)], [(2, 16)]]


def test_shapes_of_factors_of_the_papers_trunk():
    """Of its Atari networks; kernels are [out, in x height x width] here, and so no side is too long."""
    kernels = ((4, 32, 8), (32, 64, 4), (64, 64, 3))  # nothing is computed: a meta device has shapes alone
    layers = [torch.nn.Conv2d(*sizes, device="meta") for sizes in kernels]
    net = torch.nn.Sequential(torch.nn.Linear(3136, 512, device="meta"), *layers)
    kron = Kron(([*net.parameters()], 1e-3), axes=tensor_axes(net))
    shapes = [[tuple(factor.shape) for factor in entry.factors] for entry in kron.entries[0]]
    assert shapes == [
        *([(512, 512), (3136, 3136)], [(512,)]),
        *([(32, 32), (256, 256)], [(32,)]),
        *([(64, 64), (512, 512)], [(64,)]),
        *([(64, 64), (576, 576)], [(64,)]),
    ]
    (long,) = Kron(([net[0].weight], 1e-3), axes={net[0].weight: 2}, max_size=3135).entries[0]
    assert [tuple(factor.shape) for factor in long.factors] == [(512, 512), (3136,)]


def test_every_agent_of_ours_has_the_choice():
    for name in OURS:
        assert issubclass(agent_class(name).Config, OptimizerConfig), f"{name}: Config(OptimizerConfig)"


def small(name, **fields):
    if name == "a2pr":
        fields |= {"hidden_vae": (8,)}
    return small_agent(name, optimizer="kron", **fields)


REPLAYED = [
    name
    for name in OURS
    if not issubclass(agent_class(name), OnPolicyAgent) and agent_class(name).read is Agent.read
]


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("name", REPLAYED)
def test_every_agent_learns_with_it(name, lead):
    """Weights move and stay numbers, no optimiser is left that is another one, and factors are refreshed."""
    agent = small(name, lead=lead)
    before = [parameter.clone() for parameter in agent.parameters()]
    for k in range(4):
        metrics = agent.update(random_batch(lead=lead, seed=k))
    assert all(value.isfinite().all() for value in metrics.values())
    assert all(part.optimizer in (None, *agent.followers) for part in agent.parts())
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.parameters(), strict=True))
    entries = [entry for kron in agent.followers for group in kron.entries for entry in group]
    assert entries
    for entry in entries:
        for factor, product in zip(entry.factors, entry.products, strict=True):
            assert factor.isfinite().all()
            if factor.dim() == as_tensor(entry.exp_avg, entry.axes).dim() and len(entry.factors) == 2:
                fresh, square = torch.eye(factor.shape[-1]).expand_as(factor), factor.mT @ factor
            else:
                fresh, square = torch.ones_like(factor), factor.square()
            assert not entry.exp_avg.any() or not torch.equal(factor, fresh)
            close(product, square)


def test_a_restored_agent_goes_on_bit_for_bit():
    agent = small("sac", delay=2)
    for k in range(7):
        agent.update(random_batch(seed=k))
    other = small("sac", delay=2, seed=99)
    state.load_agent_tensors(other, copy.deepcopy(state.agent_tensors(agent)))
    state.load_optimizer_tensors(other, copy.deepcopy(state.optimizer_tensors(agent)))
    for key, generator in agent.generators.items():
        other.generators[key].set_state(generator.get_state())
    for k in range(5):
        for each in (agent, other):
            each.update(random_batch(seed=10 + k))
    ours, theirs = (state.agent_tensors(a) | state.optimizer_tensors(a) for a in (agent, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert any("factor_1" in name for name in ours)


def test_state_of_another_optimiser_or_size_is_refused():
    adam, kron = small_agent("sac"), small("sac")
    with pytest.raises(DataError, match="expected"):
        state.load_optimizer_tensors(adam, state.optimizer_tensors(kron))
    saved = state.optimizer_tensors(kron)
    name = next(key for key in saved if key.endswith("factor_0") and saved[key].dim() == 2)
    saved[name] = saved[name][:1]
    with pytest.raises(DataError, match="has shape"):
        state.load_optimizer_tensors(small("sac"), saved)


def test_everything_that_updates_change_is_saved_and_a_copy_steps_alone():
    agent = small("sac")
    agent.update(random_batch())
    other = copy.deepcopy(agent)
    for optimizer in other.followers:
        saved = {id(tensor) for entry in optimizer.state.values() for tensor in entry.values()}
        held = [optimizer.count, optimizer.followed]
        for entry in (entry for group in optimizer.entries for entry in group):
            held += [entry.exp_avg, *entry.factors, *entry.products]
        assert {id(tensor) for tensor in held} == saved
    kept = {name: tensor.clone() for name, tensor in state.optimizer_tensors(agent).items()}
    other.update(random_batch(seed=1))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.optimizer_tensors(agent).items())


def test_a_step_that_is_not_finite_is_none_and_refreshes_nothing():
    agent = small("sac")
    agent.update(random_batch())
    before = copy.deepcopy(state.optimizer_tensors(agent))
    weights = {name: p.clone() for name, p in agent.critic.named_parameters()}
    batch = random_batch(seed=1)
    batch["next", "reward"][0] = math.nan
    metrics = agent.update(batch)
    assert not metrics["grad_norm/critic"].isfinite()
    assert all(torch.equal(weights[name], p) for name, p in agent.critic.named_parameters())
    after = state.optimizer_tensors(agent)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("critic|"))


def test_each_seed_is_the_run_of_that_seed():
    both = SAC(small("sac").spaces, small("sac").config, make_generators((3, 4)), lead=(2,))
    alone = [small("sac", seed=seed) for seed in (3, 4)]
    for k in range(6):
        batch = random_batch(lead=(2,), seed=k)
        both.update(batch)
        for row, agent in enumerate(alone):
            agent.update(batch[row])
    for row, agent in enumerate(alone):
        theirs = state.agent_tensors(agent) | state.optimizer_tensors(agent)
        for name, tensor in (state.agent_tensors(both) | state.optimizer_tensors(both)).items():
            if name.split("|")[-1] not in ("step", "followed") and tensor.dim() > theirs[name].dim():
                torch.testing.assert_close(tensor[row], theirs[name], rtol=1e-8, atol=1e-10)


@pytest.mark.skipif(obstacle(SAC, SAC.Config()) is not None, reason="updates cannot be compiled here")
def test_compiled_updates_are_the_eager_ones(monkeypatch):
    """One graph serves all updates, whether they refresh or not."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    fields = {"kron_refresh": 1.0, "network": "multiskip", "hidden": (8, 8)}
    update, eager = compiled(small("sac", **fields)), small("sac", **fields)
    for k in range(20):
        batch = random_batch(16, seed=k)
        update(batch)
        eager.update(batch)
    assert len(update._graphs) == 1
    ours, theirs = (state.agent_tensors(a) | state.optimizer_tensors(a) for a in (update.agent, eager))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-7, atol=1e-9, msg=name)
    torch.compiler.reset()


def test_resets_of_units_refuse_to_leave_factors_behind():
    agent = small("sac")
    with pytest.raises(ConfigError, match="Kron keeps sums over several units"):
        GraMa().attach(agent.critic, agent.critic_optimizer, example=(torch.ones(1, 4), torch.ones(1, 2)))
