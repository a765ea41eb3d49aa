"""O-DICE against numbers worked out by hand: residuals, projection, the three gradients; in float64."""

import copy

import pytest
import torch
from helpers import SPACES, check_loss_module, random_batch, small_agent
from tensordict import TensorDict

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.odice import (
    ODICE,
    ODICEConfig,
    ODICELoss,
    extraction_loss,
    policy_weights,
    projection,
    residuals,
    value_loss,
)
from rlsuite.agents.optim import Adam
from rlsuite.agents.value_losses import chi2_conjugate
from rlsuite.blocks.heads import Gaussian
from rlsuite.replay.batch import Batch
from rlsuite.training import state

pytestmark = pytest.mark.usefixtures("float64")

LINEAR = {"residual_weight": 0.6, "eta": 0.5}


def t(*values):
    return torch.tensor(values)


def close(found, *expected, tolerance=1e-6):
    assert found.flatten().tolist() == pytest.approx(list(expected), abs=tolerance)


def linear_batch(lead=()):
    """Features of two states, of what follows them, and rewards -1 and 0; nothing ends."""
    now, after, reward = t((1.0, 0.0), (0.5, 0.5)), t((0.0, 1.0), (1.0, -1.0)), t(-1.0, 0.0)
    columns = (now, torch.zeros(2, 1), reward, after, torch.zeros(2))
    return Batch(*(column.expand(*lead, *column.shape) for column in columns), 0.99)


def linear(theta):
    """V of M members that is linear in the features: `theta` is `[*lead, M, 2]`."""
    return lambda features: theta @ features.mT


def linear_step(theta, lagged, config, batch=None):
    """Residuals, direction and k of a linear V."""
    theta = torch.tensor(theta, requires_grad=True)
    shown = residuals(
        linear(theta), linear(torch.tensor(lagged)), linear_batch() if batch is None else batch, config
    )
    loss, k = value_loss(shown, [theta], config)
    (direction,) = torch.autograd.grad(loss.sum(), theta)
    return shown, direction, k


SINGLE = (((-2.0, -1.0),), ((-1.5, -0.5),))
TWINS = (((-2.0, -1.0), (-1.5, -0.5)), ((-1.5, -0.5), (-1.0, -1.0)))


def test_weights_of_the_policy():
    close(policy_weights(t(-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 200.0), 100.0), 0, 0, 0, 0, 1, 2, 4, 100)


def test_projection_of_two_vectors():
    """Forward (3, 4), backward (-6, 2): k = (-18 + 8) / 25."""
    theta = torch.zeros(2, requires_grad=True)
    forward, backward = (theta * t(3.0, 4.0)).sum(), (theta * t(-6.0, 2.0)).sum()
    k = projection(forward, backward, [theta])
    assert k.item() == pytest.approx(-0.4)
    (direction,) = torch.autograd.grad((1 - k) * forward + backward, theta)
    close(direction, -1.8, 7.6)


def test_a_forward_gradient_of_nothing_projects_nothing():
    theta = torch.ones(2, requires_grad=True)
    assert projection(0 * theta.sum(), theta.sum(), [theta]).item() == 0


def test_a_single_linear_v():
    config = ODICEConfig(**LINEAR, twin=False)
    shown, direction, k = linear_step(*SINGLE, config)
    close(shown.forward, 0.505, 0.51)
    close(shown.backward, -0.49, 0.01)
    assert k.item() == pytest.approx(-0.21832122, abs=1e-8)
    close(direction, -0.23789067, -0.16647397, tolerance=1e-8)


@pytest.mark.parametrize(
    ("gradient", "direction"), [("semi", (-0.264, -0.08825)), ("true", (0.182985, -0.1625))]
)
def test_the_other_gradients_of_a_single_linear_v(gradient, direction):
    shown, found, k = linear_step(*SINGLE, ODICEConfig(**LINEAR, gradient=gradient))
    close(found, *direction, tolerance=1e-9)
    assert k is None and shown.backward is None


def test_twins_share_one_projection():
    shown, _, k = linear_step(*TWINS, ODICEConfig(**LINEAR))
    close(shown.forward, 0.01, 0.51, -0.49, 0.01)
    assert k.item() == pytest.approx(-0.277852, abs=1e-6)
    close(policy_weights(shown.forward, 100.0).mean(-2), 0.005, 0.26)
    lagged = linear(torch.tensor(TWINS[1]))
    config = ODICEConfig(**LINEAR)
    apart = []
    for row in TWINS[0]:  # by members it would be two numbers
        theta = torch.tensor((row,), requires_grad=True)
        each = residuals(linear(theta), lagged, linear_batch(), config)
        apart.append(value_loss(each, [theta], config)[1].item())
    assert apart == pytest.approx([-0.2401, -0.3408], abs=1e-4)


def test_every_seed_has_a_projection_of_its_own():
    thetas, lagged = zip(TWINS, [((1.0, 0.5), (0.3, -2.0)), ((0.0, 0.2), (1.0, 1.0))], strict=True)
    config = ODICEConfig(**LINEAR)
    _, both, k = linear_step(thetas, lagged, config, linear_batch((2,)))
    assert k.shape == (2,) and k[0] != k[1]
    for seed in range(2):
        _, direction, alone = linear_step(thetas[seed], lagged[seed], config)
        torch.testing.assert_close((both[seed], k[seed]), (direction, alone))


def test_a_terminal_row_has_no_backward_gradient():
    batch = linear_batch()._replace(terminated=torch.ones(2))
    theta = torch.tensor(SINGLE[0], requires_grad=True)
    shown = residuals(linear(theta), linear(torch.tensor(SINGLE[1])), batch, ODICEConfig(**LINEAR))
    assert torch.equal(torch.autograd.grad(shown.backward.sum(), theta)[0], torch.zeros(1, 2))
    close(shown.forward, 1.0, 1.5)


@pytest.mark.parametrize(("weight", "point"), [(0.5, 0.0), (0.6, 2 / 3), (0.7, 1.142857), (0.8, 1.5)])
def test_where_the_semi_gradient_comes_to_rest(weight, point):
    """V - x = 2 (2 - 1 / lambda) for one target x."""
    value = torch.tensor(3.0 + point, requires_grad=True)
    ((1 - weight) * value + weight * chi2_conjugate(3.0 - value)).backward()
    assert value.grad.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("weight", "point"), [(0.5, 8.0), (0.6, 28 / 3), (0.8, 11.0)])
def test_where_it_comes_to_rest_between_two_targets(weight, point):
    value = torch.tensor(point, requires_grad=True)
    ((1 - weight) * value + weight * chi2_conjugate(t(0.0, 10.0) - value).mean()).backward()
    assert value.grad.item() == pytest.approx(0, abs=1e-6)


def test_rewards_are_shifted_and_then_scaled():
    config = ODICEConfig(**LINEAR, reward_shift=-1.0, reward_scale=3.0)
    shown, _, _ = linear_step(((0.0, 0.0),), ((0.0, 0.0),), config)
    close(shown.forward, -6.0, -3.0)
    close(shown.backward, -6.0, -3.0)


def weights_after(updates=5, **fields):
    agent = small_agent("odice", **fields)
    for k in range(updates):
        metrics = agent.update(random_batch(seed=k))
    return agent, metrics


@pytest.mark.parametrize("twin", [True, False])
def test_without_eta_the_orthogonal_gradient_is_the_semi_gradient_to_the_bit(twin):
    fields = {"twin": twin, "lr_value": 1e-2, "lr_actor": 1e-2}
    orthogonal, metrics = weights_after(gradient="orthogonal", eta=0.0, **fields)
    semi, _ = weights_after(gradient="semi", **fields)
    assert metrics["value/projection"] == 0
    for (name, a), b in zip(orthogonal.named_parameters(), semi.named_parameters(), strict=True):
        assert torch.equal(a, b[1]), name
    other, _ = weights_after(gradient="orthogonal", eta=1.0, **fields)
    assert not torch.equal(other.value.trunk[0].weight, semi.value.trunk[0].weight)


def plain_update(agent, optimizers, batch):
    """One update written out, gradient by gradient, with an optimiser each of torch's own."""
    config, following = agent.config, batch["next"]
    reward = (following["reward"].squeeze(-1) + config.reward_shift) * config.reward_scale
    carried = config.gamma * (1 - following["terminated"].squeeze(-1).double())
    parameters = list(agent.value.parameters())
    with torch.no_grad():
        old = agent.target_value(batch["observation"]).min(0).values
        old_next = agent.target_value(following["observation"]).min(0).values
    value, next_value = agent.value(batch["observation"]), agent.value(following["observation"])
    forward = reward + carried * old_next - value
    backward = reward + carried * next_value - old

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])

    weight = config.residual_weight
    own = gradient((1 - weight) * value.mean())
    along = gradient(weight * chi2_conjugate(forward).mean())
    other = gradient(weight * config.eta * chi2_conjugate(backward).mean())
    k = (along @ other) / (along @ along)
    direction = own + along + other - k * along
    for parameter, piece in zip(parameters, direction.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)
    optimizers["value"].step()
    for lagged, new in zip(agent.target_value.parameters(), agent.value.parameters(), strict=True):
        lagged.data.copy_(config.tau * new.data + (1 - config.tau) * lagged.data)
    policy = torch.distributions.Normal(*agent.actor(batch["observation"]))
    misfit = -policy.log_prob(batch["action"]).sum(-1)
    optimizers["actor"].zero_grad()
    (forward.detach().clamp(0, 100) * misfit).mean().backward()
    optimizers["actor"].step()


@pytest.mark.parametrize("twin", [True, False])
def test_updates_are_those_of_a_plain_program(twin):
    """The decay is great, so that it would be missed; it is torch's, in the gradient."""
    fields = {"twin": twin, "eta": 0.7, "weight_decay": 0.1, "tau": 0.1, "reward_scale": 2.0}
    agent, plain = (small_agent("odice", **fields) for _ in "ab")
    first = copy.deepcopy(list(agent.parameters()))
    optimizers = {
        "value": torch.optim.Adam(plain.value.parameters(), lr=2e-4),
        "actor": torch.optim.Adam(plain.actor.parameters(), lr=2e-4, weight_decay=0.1),
    }
    for k in range(5):
        agent.update(random_batch(seed=k))
        plain_update(plain, optimizers, random_batch(seed=k))
    for (name, a), b, old in zip(agent.named_parameters(), plain.parameters(), first, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11, msg=name)
        assert not torch.equal(a, old), name


def test_lambda_of_one_leaves_v_itself_out():
    """Every residual below -2 has slope 0: then nothing but V's own term moves V, and at 1 nothing does."""
    for weight, moves in ((0.6, True), (1.0, False)):
        agent = small_agent("odice", residual_weight=weight, reward_shift=-1e3)
        before = agent.value.trunk[0].weight.detach().clone()
        agent.update(random_batch())
        assert torch.equal(before, agent.value.trunk[0].weight) != moves


@pytest.mark.parametrize("gradient", ["orthogonal", "semi", "true"])
@pytest.mark.parametrize("twin", [True, False])
def test_the_loss_module_has_the_agents_gradients(gradient, twin):
    agent, other = (small_agent("odice", gradient=gradient, twin=twin, reward_shift=2.0) for _ in "ab")
    check_loss_module(ODICELoss(other.actor, other.value, other.config), agent, random_batch())


def test_the_loss_module_works_where_gradients_are_off():
    agent, batch = small_agent("odice"), random_batch()
    module = ODICELoss(agent.actor, agent.value, agent.config)
    with torch.no_grad():
        found = module(batch)["loss_value"]
    torch.testing.assert_close(found.detach(), module(batch)["loss_value"].detach())


def test_the_share_of_weighted_rows_is_logged():
    for shift, share in ((1e3, 1.0), (-1e3, 0.0)):
        metrics = small_agent("odice", reward_shift=shift).update(random_batch())
        assert metrics["weight/positive"].item() == share


def test_the_policys_loss_averages_over_twins():
    weights, action = t((0.0, 2.0), (1.0, 4.0)), t((0.3,), (0.5,))
    batch = linear_batch()._replace(action=action)
    policy = Gaussian(torch.zeros(2, 1), torch.ones(2, 1))
    log_prob = torch.distributions.Normal(0.0, 1.0).log_prob(action).squeeze(-1)
    expected = -(t(0.5, 3.0) * log_prob).mean()
    assert extraction_loss(lambda shown: policy, batch, weights).item() == pytest.approx(expected.item())


def test_every_seed_is_initialised_by_its_own_stream():
    config = ODICEConfig(hidden=(16, 16), hidden_actor=(8, 8))
    batch = ODICE(SPACES, config, make_generators((3, 4)), lead=(2,))
    for index, seed in enumerate((3, 4)):
        alone = small_agent("odice", seed=seed, hidden_actor=(8, 8))
        for a, b in zip(batch.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a[index], b, rtol=0, atol=1e-14)


def test_parts_and_what_is_saved():
    agent = small_agent("odice")
    assert {part.name for part in agent.parts()} == {"actor", "value", "target_value"}
    assert "target_value.trunk.0.weight" in state.agent_tensors(agent)
    assert agent.value(random_batch(5)["observation"]).shape == (2, 5)
    assert small_agent("odice", twin=False).value(random_batch(5)["observation"]).shape == (1, 5)


def test_the_actors_mean_is_its_networks_output_unless_asked_otherwise():
    rows = random_batch()["observation"] * 100
    assert small_agent("odice").actor(rows).mean.abs().max() > 1
    assert small_agent("odice", tanh_mean=True).actor(rows).mean.abs().max() <= 1


def test_weight_decay_is_torchs():
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in "ab"]
    ours, theirs = (
        Adam(([weights[0]], 1e-2), weight_decay=0.5),
        torch.optim.Adam([weights[1]], lr=1e-2, weight_decay=0.5),
    )
    for k in range(4):
        losses = [(weight * torch.arange(3.0) * (-1) ** k).sum() for weight in weights]
        ours.descend(losses[0])
        theirs.zero_grad()
        losses[1].backward()
        theirs.step()
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("residual_weight", 1.5),
        ("eta", -1.0),
        ("reward_scale", 0.0),
        ("weight_decay", -1.0),
        ("lr_value", 0.0),
    ],
)
def test_config_refuses_values_outside_their_range(field, value):
    with pytest.raises(ValueError, match=field):
        ODICEConfig(**{field: value})


@pytest.mark.parametrize("gradient", ["orthogonal", "semi"])
def test_two_armed_bandit(gradient):
    """Arms +-0.5, rewards 1 and 0 times ten, half the data each: V is 28/3, the bad arm has no weight."""
    arm = t(0.5, -0.5).repeat(8).unsqueeze(-1)
    batch = TensorDict(
        {
            "observation": torch.ones(16, 1),
            "action": arm,
            "next": {
                "observation": torch.ones(16, 1),
                "reward": (arm > 0).double(),
                "terminated": torch.ones(16, 1, dtype=torch.bool),
            },
        },
        [16],
    )
    spaces = Spaces(observation=1, action=1, half_range=(1.0,))
    rates = {"lr_value": 1e-2, "lr_actor": 1e-2}
    agent = small_agent(
        "odice", spaces=spaces, gradient=gradient, reward_scale=10.0, value_layer_norm=False, **rates
    )
    for _ in range(500):
        metrics = agent.update(batch)
    assert agent.value(batch["observation"])[:, 0].tolist() == pytest.approx([28 / 3] * 2, abs=0.1)
    assert metrics["weight/positive"].item() == 0.5
    assert agent.actor(batch["observation"]).mean[0].item() == pytest.approx(0.5, abs=0.03)
