"""GraMa's numbers: the worked example of its specification, and what else can be computed by hand."""

import math

import pytest
import torch
from torch import nn

from rlsuite.errors import ConfigError
from rlsuite.plugins.grama import GraMa, weight_scores
from rlsuite.plugins.neurons.chains import chain, columns_of
from rlsuite.plugins.neurons.initialisers import default_init, kaiming_init
from rlsuite.plugins.neurons.scores import activity
from rlsuite.plugins.redo import activation_scores

X = torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, -1]])
Y = torch.tensor([[4.0], [3.5], [2.5], [0]])


def network() -> nn.Sequential:
    """Two inputs, four ReLU units (one dead, one disconnected), one output; mean squared error 1.5."""
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.0, 1], [0, 1], [1, 1], [1, -1]]))
        net[0].bias.copy_(torch.tensor([-0.5, 2, -10, 3]))
        net[2].weight.copy_(torch.tensor([[1.0, 1, 1, 0]]))
        net[2].bias.zero_()
    return net


def backward(net: nn.Module, scale: float = 1.0) -> None:
    net.zero_grad()
    (scale * (net(X) - Y).square().mean()).backward()


def flagged(scores: torch.Tensor) -> set[int]:
    return set(scores.nonzero().flatten().tolist())


def test_the_example_is_the_one_of_the_specification():
    torch.testing.assert_close(network()(X), torch.tensor([[2.0], [3.5], [3.5], [1]]))
    assert (network()(X) - Y).square().mean().item() == 1.5


def test_scores_by_weight_and_by_preactivation():
    net = network()
    by_weight = GraMa(tau=0.01, mode="weight").attach(net)
    by_preact = GraMa(tau=0.01, mode="preact").attach(net)
    backward(net)
    torch.testing.assert_close(net[0].weight.grad, torch.tensor([[0.5, 0.5], [0, 0], [0, 0], [0, 0]]))
    weight, preact = by_weight.report()["0"], by_preact.report()["0"]
    torch.testing.assert_close(weight.score, torch.tensor([4.0, 0, 0, 0]))
    torch.testing.assert_close(preact.score, torch.tensor([0.8, 3.2, 0, 0]))
    assert flagged(weight.inactive) == {1, 2, 3}  # unit 1: the samples' gradients cancel
    assert flagged(preact.inactive) == {2, 3}
    assert weight.fraction.item() == 0.75


def test_a_dead_unit_still_gets_a_gradient_at_its_output():
    net = network()
    hidden = net[1](net[0](X)).detach().requires_grad_()
    (net[2](hidden) - Y).square().sum().backward()
    at_output = activity(hidden.grad.abs().mean(0), 0.01)
    torch.testing.assert_close(at_output.score, torch.tensor([4 / 3, 4 / 3, 4 / 3, 0]))
    assert flagged(at_output.inactive) == {3}  # the theorem is about the other two scores
    by_activation = activity(activation_scores(hidden.detach(), 0, -1), 0.01)
    torch.testing.assert_close(by_activation.score, torch.tensor([1 / 6, 1.5, 0, 7 / 3]))
    for tau in (0.01, 0.02, 0.1):
        assert flagged(by_activation.score <= tau) == {2}


@pytest.mark.parametrize("mode", ["weight", "preact"])
def test_scores_do_not_depend_on_the_scale_of_the_loss(mode):
    scores = []
    for scale in (1.0, 1000.0):
        net = network()
        reset = GraMa(mode=mode).attach(net)
        backward(net, scale)
        scores.append(reset.report()["0"].score)
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-6, atol=0)
    assert scores[0].mean().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("unit", "change"), [(2, [0.0, 0, 0, 0]), (1, [-2.0, -3, -3, -1])])
def test_cutting_an_active_unit_changes_the_function(unit, change):
    net = network()
    before = net(X)
    with torch.no_grad():
        net[2].weight[0, unit] = 0
    torch.testing.assert_close((net(X) - before).flatten(), torch.tensor(change))


def test_a_cut_unit_is_invisible_until_its_outgoing_weight_has_moved():
    net = network()
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2], net[2].weight[0, 2] = torch.tensor([-1.0, 2]), 0.0, 0.0
    reset = GraMa(tau=0.01).attach(net)
    backward(net)
    assert net[0].weight.grad[2].tolist() == [0, 0]
    torch.testing.assert_close(reset.report()["0"].score, torch.tensor([4.0, 0, 0, 0]))
    torch.testing.assert_close(net[2].weight.grad, torch.tensor([[0.25, 0, 0.5, 0]]))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= 0.1 * parameter.grad
    torch.testing.assert_close(net[2].weight, torch.tensor([[0.975, 1, -0.05, 0]]))
    backward(net)
    torch.testing.assert_close(net[0].weight.grad[2], torch.tensor([-0.019781, -0.014531]), rtol=0, atol=1e-6)
    expected = torch.tensor([2.631233, 1.233832, 0.134935, 0])
    torch.testing.assert_close(reset.report()["0"].score, expected, rtol=0, atol=2e-6)


def test_the_cap_keeps_the_smallest():
    raw = torch.tensor([0.0, 0, 0, 0.001, 0.002, 1, 2, 3, *[1.0] * 12])
    assert flagged(activity(raw, 0.01).inactive) == {0, 1, 2, 3, 4}
    capped = flagged(activity(raw, 0.01, 0.05).inactive)
    assert len(capped) == 1
    assert capped < {0, 1, 2}
    assert len(flagged(activity(raw, 0.01, 0.2).inactive)) == 4
    assert len(flagged(activity(raw, 0.01, 0.15).inactive)) == 3


def test_a_layer_without_any_gradient_is_left_alone():
    assert not activity(torch.zeros(2, 4), 0.01).inactive.any()
    assert not activity(torch.full((4,), 1e-14), 2.0).inactive.any()


@pytest.mark.parametrize(
    ("inputs", "kaiming", "default"), [(256, 0.153093, 0.0625), (17, 0.594089, 0.242536)]
)
def test_fresh_weights_stay_within_their_bounds(inputs, kaiming, default):
    net = nn.Sequential(nn.Linear(inputs, 40), nn.ReLU(), nn.Linear(40, 1))
    layer = chain(net, "0", ["2"]).producer
    assert math.sqrt(6 / layer.fan_in) == pytest.approx(kaiming, abs=1e-6)
    for init, bound in ((kaiming_init, kaiming), (default_init, default)):
        weight, bias = init(layer, torch.Generator().manual_seed(0))
        assert 0.98 * bound < weight.abs().max() <= bound + 1e-6
        assert 0.7 * default < bias.abs().max() <= default + 1e-6
    assert kaiming / default == pytest.approx(2.449490, abs=1e-5)


def test_score_of_a_norms_scale():
    h = torch.tensor([[1.0, 2, 0], [0, 1, 2], [2, 0, 1]])
    upstream = torch.tensor([[0.3, -0.1, 0.2], [0.1, 0.2, -0.3], [-0.2, 0.1, 0.1]])
    norm = nn.LayerNorm(3)
    (norm(h) * upstream).sum().backward()
    torch.testing.assert_close(
        norm.weight.grad, torch.tensor([-0.367421, -0.244947, -0.612368]), rtol=0, atol=2e-6
    )
    raw = weight_scores(norm.weight.grad, 0, -1)
    torch.testing.assert_close(activity(raw, 0.01).score, torch.tensor([0.9, 0.6, 1.5]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("step", "zeroed", "moves"), [(100_000, False, 3.162278), (100_000, True, 1.0)])
def test_first_move_of_a_reset_entry(step, zeroed, moves):
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, eps=0)
    backward(net)
    optimizer.step()
    for state in optimizer.state.values():
        state["step"].fill_(step)
    reset = GraMa(tau=0.01, reset_step=zeroed, generator=torch.Generator().manual_seed(1)).attach(
        net, optimizer
    )
    reset.reset()
    assert flagged(optimizer.state[net[0].weight]["exp_avg"].sum(1) == 0) >= {1, 2, 3}
    assert optimizer.state[net[0].weight]["step"].item() == (0 if zeroed else step)
    before = net[0].weight.detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(
        before[1:] - net[0].weight[1:], torch.full((3, 2), moves * 1e-3), rtol=1e-3, atol=0
    )


def test_continual_backprops_utilities_see_the_disconnected_unit():
    net = network()
    hidden = net[1](net[0](X))
    outgoing, incoming = net[2].weight.abs().mean(0), net[0].weight.abs().mean(1)
    utility = hidden.abs().mean(0) * outgoing
    torch.testing.assert_close(utility, torch.tensor([0.25, 2.25, 0, 0]))
    centred = (hidden - hidden.mean(0)).abs().mean(0) * outgoing
    torch.testing.assert_close(centred, torch.tensor([0.25, 0.75, 0, 0]))
    torch.testing.assert_close(centred / incoming, torch.tensor([0.5, 1.5, 0, 0]))


def test_columns_of_a_flattened_image():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(18, 1))
    reset = GraMa().attach(net, example=(torch.zeros(2, 1, 3, 3),))
    (reader,) = reset.chains["0"].readers
    mask = columns_of(torch.tensor([False, True]), reader)
    assert flagged(mask) == set(range(9, 18))
    before = net[2].weight.detach().clone()
    with torch.no_grad():
        reset._cut(reset.chains["0"], torch.tensor([False, True]))
    assert torch.equal(net[2].weight[:, :9], before[:, :9])
    assert not net[2].weight[:, 9:].any()


def test_period_report_state_and_detach():
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    reset = GraMa(tau=0.01, period=3).attach(net, optimizer)
    reset_now = []
    for _ in range(6):
        backward(net)
        before = [p.detach().clone() for p in net.parameters()]
        reset.report()
        assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
        reset_now.append(reset.step() is not None)
    assert reset_now == [False, False, True] * 2
    again = GraMa(tau=0.01, period=3).attach(net, optimizer)
    again.load_state_dict(reset.state_dict())
    assert again.count == 6
    assert again.resets["0"].item() == reset.resets["0"].item() >= 3
    reset.detach()
    assert not reset.chains
    with pytest.raises(ConfigError, match="does not fit"):
        reset.load_state_dict(again.state_dict())


def test_detaching_leaves_no_hook():
    net = network()
    reset = GraMa(mode="preact").attach(net)
    reset.detach()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert not net[0].weight._post_accumulate_grad_hooks


@pytest.mark.parametrize(
    "fields",
    [
        {"tau": -1},
        {"period": 0},
        {"outgoing": "half"},
        {"incoming": "he"},
        {"max_fraction": 0},
        {"mode": "x"},
    ],
)
def test_fields_out_of_range(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        GraMa(**{"tau": 0.1, **fields})
