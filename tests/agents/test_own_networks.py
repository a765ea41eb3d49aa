"""Trunks of the user's own, named MODULE:CLASS: plain modules, and those that know leading axes."""

import sys
import types

import pytest
import torch
import whole_runs as runs
from torch import nn

from rlsuite.agents.sac import SACConfig
from rlsuite.blocks.mlp import MLP
from rlsuite.blocks.networks import Copies, NetShape
from rlsuite.errors import ConfigError


class Plain(nn.Sequential):
    """As anybody writes it."""

    def __init__(self, inputs, hidden, outputs):
        super().__init__(nn.Linear(inputs, hidden[0]), nn.ELU(), nn.Linear(hidden[0], outputs))


class Led(MLP):
    """Takes all that the named ones take."""

    def __init__(self, *sizes, lead=(), **fields):
        super().__init__(*sizes, lead=lead, **fields)


@pytest.fixture(autouse=True)
def my_networks(monkeypatch):
    module = types.ModuleType("my_networks")
    module.Plain, module.Led = Plain, Led
    monkeypatch.setitem(sys.modules, "my_networks", module)


def test_copies_are_independent_and_drawn_from_the_generator():
    def made():
        generator = torch.Generator().manual_seed(3)
        return NetShape(hidden=(5,), network="my_networks:Plain", generator=generator).trunk(4, 2, (3,))

    before = torch.get_rng_state()
    net, twin = made(), made()
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(7, 4)
    y = net(x)
    assert y.shape == (3, 7, 2) and torch.equal(y, twin(x))
    assert not torch.equal(y[0], y[1])
    torch.testing.assert_close(y[1], net.each[1](x))
    y[0].sum().backward()
    assert not net.each[1][0].weight.grad.any() and net.each[0][0].weight.grad.any()
    rows = torch.randn(3, 7, 4)
    torch.testing.assert_close(net(rows)[2], net.each[2](rows[2]))


@pytest.mark.parametrize("name", ["Plain", "Led"])
def test_sac_trains_and_resumes_with_it(tmp_path, name):
    fields = {"network": f"my_networks:{name}"}
    quick = {"agent": "sac", "fields": fields, "checkpoint_every": 100}
    runs.train(tmp_path / "whole", steps=400, **quick)
    runs.train(tmp_path / "broken", steps=300, eval_every=0, **quick)
    runs.train(tmp_path / "broken", steps=400, resume=True, **quick)
    one, two = runs.weights(tmp_path / "whole"), runs.weights(tmp_path / "broken")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert any("each.1" in key for key in one) is (name == "Plain")


def test_led_networks_are_the_named_ones_bit_for_bit():
    def shape(network):
        return NetShape(hidden=(5,), network=network, generator=torch.Generator().manual_seed(3))

    x = torch.randn(7, 4)
    assert torch.equal(shape("my_networks:Led").trunk(4, 2, (2,))(x), shape("mlp").trunk(4, 2, (2,))(x))


def test_wrong_names_and_several_seeds_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r'"mlpp" is not a network\. Did you mean "mlp"'):
        SACConfig(network="mlpp")
    with pytest.raises(ConfigError, match=r"derived from torch\.nn\.Module"):
        NetShape(hidden=(5,), network="subprocess:Popen").trunk(4, 2)
    with pytest.raises(ConfigError, match="has nothing called Wide"):
        NetShape(hidden=(5,), network="my_networks:Wide").trunk(4, 2)
    with pytest.raises(ConfigError, match="train one seed a process"):
        runs.train(tmp_path / "run", agent="sac", fields={"network": "my_networks:Plain"}, seeds=2)
    assert isinstance(NetShape(hidden=(5,), network="my_networks:Plain").trunk(4, 2), Copies)
