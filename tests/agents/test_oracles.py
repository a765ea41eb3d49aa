"""A hundred updates equal those of programs written from the papers' equations, in float64, to 1e-12."""

import dataclasses

import pytest
import references
import torch
from helpers import SPACES, random_batch, small_agent

from rlsuite.presets import load_preset

pytestmark = pytest.mark.usefixtures("float64")

UPDATES = 100
RATES = {"lr_critic": 1e-3, "lr_actor": 1e-3}
SOFT = {**RATES, "lr_alpha": 1e-2}
BOX = dataclasses.replace(SPACES, center=(0.3, -0.1))


def tensors_of(side):
    """The tensors of a module, a parameter, a plain network, or of twins, which are stacked."""
    if isinstance(side, torch.Tensor):
        return [side.detach()]
    if isinstance(side, torch.nn.Module):
        return [p.detach() for p in side.parameters()]
    if isinstance(side, references.Net):
        return [p.detach() for p in side.parameters]
    return [torch.stack(members) for members in zip(*map(tensors_of, side), strict=True)]


def distances(pairs):
    """|a - b| / |b| of every tensor of every pair, in norms."""
    return [
        ((a - b).norm() / b.norm()).item()
        for ours, theirs in pairs
        for a, b in zip(tensors_of(ours), tensors_of(theirs), strict=True)
    ]


def check(name, program, *, spaces=SPACES, reward=1.0, prepare=lambda agent: None, **fields):
    """The agent and the program follow the same batches; all tensors agree and none is where it began."""
    agent, untouched = (small_agent(name, spaces=spaces, **fields) for _ in "ab")
    prepare(agent)
    prepare(untouched)
    reference = program(agent)
    stream = torch.Generator()
    stream.set_state(agent.generators["learn"].get_state())
    for k in range(UPDATES):
        batch = random_batch(seed=k)
        batch["next", "reward"] *= reward
        agent.update(batch)
        reference.update(references.rows_of(batch), stream)
    assert max(distances(reference.pairs(agent))) <= 1e-12
    assert min(distances(reference.pairs(untouched))) >= 5e-4
    assert torch.equal(stream.get_state(), agent.generators["learn"].get_state())
    return reference


STAC_PAPER = {k: v for k, v in load_preset("sac", "stac_paper", "Hopper-v4")[1].items() if k != "evaluation"}


@pytest.mark.parametrize("fields", [{}, STAC_PAPER], ids=["default", "stac_paper"])
def test_sac(fields):
    assert fields.get("critic_scale", 1.0) == (0.5 if fields else 1.0)
    check("sac", references.SAC, **{**SOFT, **fields})


@pytest.mark.parametrize(("delay", "units"), [(1, "unit"), (2, "unit"), (2, "env")])
def test_td3(delay, units):
    check("td3", references.TD3, delay=delay, action_units=units, **RATES)


def adopt(agent):
    agent.adopt_statistics(torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([1.0, 0.5, 2.0, 3.0]))


def test_td3_bc():
    check("td3_bc", references.TD3BC, prepare=adopt, **RATES)


def widen(agent):
    """Returns of tens and deviations of several: the clips and bounds of the critics' loss take hold."""
    with torch.no_grad():
        for critic in (agent.critic, agent.target_critic):
            critic.trunk.head.weight.mul_(30)


@pytest.mark.parametrize("form", ["paper", "release"])
@pytest.mark.parametrize("wide", [False, True])
def test_dsac_t(form, wide):
    prepare, reward = (widen, 50.0) if wide else (lambda agent: None, 1.0)
    reference = check(
        "dsac_t", references.DSACT, spaces=BOX, prepare=prepare, reward=reward, critic_loss=form, **SOFT
    )
    assert not wide or reference.clips > 1000


@pytest.mark.parametrize("fields", [{"beta": 0.5, "delay": 2}, {"critics": 2, "beta": 0.0}])
def test_stac(fields):
    check("stac", references.STAC, dropout_actor=0.0, dropout_critic=0.0, **fields, **SOFT)


def test_iql_in_the_official_order():
    check("iql", references.IQL, lr_value=1e-3, actor_lr_decay=150, **RATES)


@pytest.mark.parametrize("loss", ["mse", "likelihood"])
def test_bc(loss):
    check("bc", references.BC, prepare=adopt, loss=loss, lr_actor=1e-3)


def test_d_eta_n_without_a_stock_is_quantile_regression():
    check("d_eta_n", references.QRDQN, quantiles=8, kappa=0.1)
