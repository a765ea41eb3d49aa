"""IQL against the numbers of its specification, plain reference updates, and a bandit; in float64."""

import copy
import math

import pytest
import torch
from helpers import SPACES, check_loss_module, random_batch, small_agent
from tensordict import TensorDict
from torch.optim import Adam
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.iql import (
    IQL,
    IQLConfig,
    IQLLoss,
    advantage_weights,
    critic_loss,
    extraction_loss,
)
from rlsuite.agents.losses import td_target
from rlsuite.agents.optim import polyak
from rlsuite.agents.value_losses import value_loss
from rlsuite.blocks.heads import Gaussian, log_density
from rlsuite.blocks.noise import Noise
from rlsuite.errors import DataError
from rlsuite.replay.batch import Batch
from rlsuite.training import state

pytestmark = pytest.mark.usefixtures("float64")


def t(*values):
    return torch.tensor(values)


def rows(reward, *, action=None, terminated=None):
    """A batch of which nothing else is read."""
    zeros = torch.zeros_like(reward)
    return Batch(
        zeros, zeros if action is None else action, reward, zeros,
        zeros if terminated is None else terminated, 0.99,
    )  # fmt: skip


@pytest.mark.parametrize(("expectile", "loss"), [(0.7, 1.49375), (0.9, 1.20625), (0.5, 0.5 * 14.25 / 4)])
def test_expectile_loss(expectile, loss):
    value = torch.zeros(4, requires_grad=True)
    q = t(2.0, -1.0, 0.5, -3.0).requires_grad_()
    found = value_loss(q, value, IQLConfig(expectile=expectile))
    assert found.item() == pytest.approx(loss, abs=1e-12)
    found.backward()
    assert q.grad is None and value.grad.all()


@pytest.mark.parametrize(
    ("samples", "expectile", "point"),
    [
        ((0.0, 1.0, 10.0), 0.5, 3.6667),
        ((0.0, 1.0, 10.0), 0.7, 5.6154),
        ((0.0, 1.0, 10.0), 0.9, 8.2727),
        ((0.0, 1.0, 10.0), 0.99, 9.8119),
        ((0.0, 1.0), 0.7, 0.7),
        ((0.0, 1.0), 0.9, 0.9),
    ],
)
def test_the_expectile_of_samples_minimises_the_loss(samples, expectile, point):
    value = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([value], lr=0.5, max_iter=200, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = value_loss(t(*samples), value.expand(len(samples)), IQLConfig(expectile=expectile))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert value.item() == pytest.approx(point, abs=6e-5)


def test_advantage_weights_and_their_bound():
    advantage = t(-1.0, 0.0, 0.5, 1.0, 1.535, 2.0)
    found = advantage_weights(advantage, torch.zeros(6), 3.0, 100.0)
    assert found.tolist() == pytest.approx([0.04979, 1, 4.4817, 20.0855, 99.983, 100], rel=1e-4)
    for beta, saturation in ((3.0, 1.5351), (10.0, 0.46052), (0.5, 9.2103)):
        near = advantage_weights(t(saturation - 1e-3, saturation + 1e-3), t(0.0, 0.0), beta, 100.0)
        assert near[0] < 100 and near[1].item() == pytest.approx(100)


def test_weights_stay_finite_where_the_exponential_does_not():
    huge = advantage_weights(torch.tensor([1e4, -1e4], dtype=torch.float32), torch.zeros(2), 10.0, 100.0)
    assert huge.tolist() == pytest.approx([100, 0], rel=1e-5)


def test_log_density_on_and_off_the_bounds():
    shape = (5, 3)
    policy = Gaussian(torch.full(shape, 0.5), torch.ones(shape))
    found = log_density(policy, torch.full(shape, 0.3))
    assert found.shape == (5,)
    assert found.tolist() == pytest.approx([-2.81682] * 5, abs=1e-5)
    assert log_density(policy, torch.ones(shape)).isfinite().all()
    narrow = Gaussian(policy.mean, torch.full(shape, 0.2))
    oracle = torch.distributions.Independent(torch.distributions.Normal(*narrow), 1)
    torch.testing.assert_close(log_density(narrow, torch.ones(shape)), oracle.log_prob(torch.ones(shape)))


def test_the_actors_loss_has_no_gradient_for_critics_and_value():
    q, value = torch.ones(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    mean = torch.zeros(4, 2, requires_grad=True)
    weights = advantage_weights(q, value, 3.0, 100.0)
    batch = rows(torch.zeros(4), action=torch.ones(4, 2))
    extraction_loss(
        lambda shown, noise: Gaussian(mean, torch.ones(4, 2)), batch, weights, Noise(None)
    ).backward()
    assert q.grad is None and value.grad is None and mean.grad.all()


@pytest.mark.parametrize(("terminated", "target"), [(0.0, 2.98), (1.0, 1.0)])
def test_target_bootstraps_unless_terminated(terminated, target):
    assert td_target(rows(t(1.0), terminated=t(terminated)), t(2.0)).item() == pytest.approx(
        target, abs=1e-12
    )


@pytest.mark.parametrize(("order", "loss"), [("official", 0.9608), ("torchrl", 0.9608), ("corl", 0.4804)])
def test_critic_loss_is_a_sum_over_both_and_half_of_it_in_corls_order(order, loss):
    assert critic_loss(t(3.0, 2.0).unsqueeze(-1), t(2.98), order).item() == pytest.approx(loss, abs=1e-12)


def test_polyak_over_a_thousand_updates():
    target, online = (torch.nn.ParameterList([start]) for start in (torch.zeros(1), torch.ones(1)))
    for _ in range(1000):
        polyak(target, online, 0.005)
    assert target[0].item() == pytest.approx(0.993346, abs=1e-6)


def plain_update(agent, optimizers, batch, order):
    """One update of `agent`'s networks written out: an optimiser each, step by step, in the given order."""
    config = agent.config
    following = batch["next"]
    reward, terminated = following["reward"].squeeze(-1), following["terminated"].squeeze(-1).double()
    observation, action = batch["observation"], batch["action"]

    def step(name, loss):
        optimizers[name].zero_grad()
        loss.backward()
        optimizers[name].step()

    with torch.no_grad():
        q_bar = torch.minimum(*agent.target_critic(observation, action).unbind(0))
        value_before, next_before = agent.value(observation), agent.value(following["observation"])
    gap = q_bar - agent.value(observation)
    step("value", ((config.expectile - (gap < 0).double()).abs() * gap**2).mean())
    with torch.no_grad():
        value_after, next_after = agent.value(observation), agent.value(following["observation"])
    value, next_value = (value_after, next_after) if order == "official" else (value_before, next_before)
    weight = (config.beta * (q_bar - value)).exp().clamp(max=100)
    output = agent.actor(observation)
    if config.deterministic:
        misfit = ((output - action) ** 2).sum(-1)
    else:
        misfit = -torch.distributions.Normal(*output).log_prob(action).sum(-1)
    step("actor", (weight * misfit).mean())
    target = reward + config.gamma * (1 - terminated) * next_value
    errors = ((agent.critic(observation, action) - target) ** 2).mean(-1)
    step("critic", errors.mean() if order == "corl" else errors.sum())
    for old, new in zip(agent.target_critic.parameters(), agent.critic.parameters(), strict=True):
        old.data.copy_(config.tau * new.data + (1 - config.tau) * old.data)


@pytest.mark.parametrize("order", ["official", "corl", "torchrl"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_updates_are_those_of_a_plain_program(order, deterministic):
    fields = {"order": order, "deterministic": deterministic, "actor_lr_decay": 0, "tau": 0.1}
    agent, plain = (small_agent("iql", **fields) for _ in "ab")
    rates = {"value": 3e-4, "actor": plain.actor_rate.rate.item(), "critic": 3e-4}  # the actor's is a float32
    optimizers = {name: Adam(getattr(plain, name).parameters(), lr=rate) for name, rate in rates.items()}
    first = copy.deepcopy(list(agent.parameters()))
    for k in range(5):
        agent.update(random_batch(seed=k))
        plain_update(plain, optimizers, random_batch(seed=k), order)
    for (name, a), b, old in zip(agent.named_parameters(), plain.parameters(), first, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)
        assert not torch.equal(a, old), name


def test_the_orders_differ():
    agents = {order: small_agent("iql", order=order) for order in ("official", "corl", "torchrl")}
    batch = random_batch()
    for agent in agents.values():
        agent.update(batch)
    halves = [next(agents[order].critic.parameters()).grad for order in ("torchrl", "corl")]
    torch.testing.assert_close(halves[0], 2 * halves[1])
    gradients = {order: agent.actor.trunk[0].weight.grad for order, agent in agents.items()}
    torch.testing.assert_close(gradients["corl"], gradients["torchrl"])
    assert not torch.equal(gradients["official"], gradients["torchrl"])


@pytest.mark.parametrize("order", ["official", "corl", "torchrl"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_loss_module_has_the_agents_gradients(order, deterministic):
    """The value network's rate is tiny: in the official order the other losses read it after its step."""
    agent, twin = (small_agent("iql", order=order, deterministic=deterministic, lr_value=1e-30) for _ in "ab")
    check_loss_module(IQLLoss(twin.actor, twin.critic, twin.value, twin.config), agent, random_batch())


def test_there_is_no_target_of_the_value_network():
    agent = small_agent("iql")
    assert {part.name for part in agent.parts()} == {"actor", "critic", "value", "target_critic"}


def test_the_rate_falls_along_a_cosine_is_saved_and_goes_back_for_online_steps():
    agent = small_agent("iql", actor_lr_decay=10)
    rate = agent.actor_rate.rate
    groups = [g for part in agent.parts() if part.optimizer for g in part.optimizer.param_groups]
    followers = {id(p) for group in groups if group["lr"] is rate for p in group["params"]}
    assert followers == {id(p) for p in agent.actor.parameters()}
    for k in range(4):
        agent.update(random_batch(seed=k))
    other = small_agent("iql", actor_lr_decay=10, seed=9)
    state.load_agent_tensors(other, copy.deepcopy(state.agent_tensors(agent)))
    assert other.actor_rate.rate == rate
    assert rate.item() == pytest.approx(1.5e-4 * (1 + math.cos(0.4 * math.pi)))
    for k in range(8):
        agent.update(random_batch(seed=k))
    still = agent.actor.trunk[0].weight.clone()
    critic = next(agent.critic.parameters()).clone()
    agent.update(random_batch())
    assert torch.equal(agent.actor.trunk[0].weight, still)  # rate 0, and never up again
    assert not torch.equal(next(agent.critic.parameters()), critic)
    agent.start_online()
    for k in range(3):
        agent.update(random_batch(seed=k))
        assert rate.item() == pytest.approx(3e-4)
    assert not torch.equal(agent.actor.trunk[0].weight, still)
    state.load_agent_tensors(other, copy.deepcopy(state.agent_tensors(agent)))
    other.update(random_batch())
    assert other.actor_rate.rate.item() == pytest.approx(3e-4)  # a resumed run stays online


def test_dropout_is_in_the_loss_alone():
    agent = small_agent("iql", dropout=0.5)
    rows = random_batch(64)

    def act():
        return agent.policy(rows.select("observation"))["action"]

    for kind in (ExplorationType.DETERMINISTIC, ExplorationType.RANDOM):
        with set_exploration_type(kind):
            before = agent.generators["learn"].get_state()
            act()
            assert torch.equal(agent.generators["learn"].get_state(), before)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(act(), act())
    before = agent.generators["learn"].get_state()
    agent.update(rows)
    assert not torch.equal(agent.generators["learn"].get_state(), before)
    assert agent.actor.training


@pytest.mark.parametrize(
    ("fields", "deviation"),
    [({}, 1.0), ({"exploration_noise": 0.1}, 0.1), ({"deterministic": True}, 0.03)],
)
def test_behaviour_is_the_mean_with_noise_clipped(fields, deviation):
    agent = small_agent("iql", **fields)
    rows = TensorDict({"observation": random_batch(1)["observation"].expand(4000, -1)}, [4000])
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        mode = agent.policy(rows.clone())["action"]
    with set_exploration_type(ExplorationType.RANDOM):
        found = agent.policy(rows.clone())["action"]
    assert (found.abs() <= 1).all() and (mode.abs() < 1).all()
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
    expected = (mode + deviation * noise).clamp(-1, 1)
    torch.testing.assert_close(found.mean(0), expected.mean(0), rtol=0, atol=6 * deviation / 4000**0.5)
    torch.testing.assert_close(found.std(0), expected.std(0), rtol=0.1, atol=1e-3)


def test_first_weights_are_orthogonal_with_zero_biases_in_every_layer():
    agent = small_agent("iql", lead=(2,))
    for network in (agent.actor, agent.critic, agent.value):
        for layer in network.trunk:
            if not hasattr(layer, "weight"):
                continue
            assert not layer.bias.any()
            for matrix in layer.weight.flatten(0, -3):
                small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
                torch.testing.assert_close(small @ small.mT, 2 * torch.eye(len(small)))
    weights = next(agent.critic.parameters()).flatten(0, 1)
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    uniform = small_agent("iql", init="uniform")
    assert uniform.value.trunk[0].bias.any()


def test_every_seed_is_initialised_by_its_own_stream():
    batch = IQL(SPACES, IQLConfig(hidden=(16, 16)), make_generators((3, 4)), lead=(2,))
    for index, seed in enumerate((3, 4)):
        alone = small_agent("iql", seed=seed)
        for a, b in zip(batch.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(a[index], b, rtol=0, atol=1e-14)


def test_the_log_deviation_is_clamped():
    agent = small_agent("iql", log_std_min=-5.0)
    observation = random_batch(3)["observation"]
    for raw, std in ((-9.0, math.exp(-5)), (0.3, math.exp(0.3)), (7.0, math.exp(2))):
        agent.actor.log_std.data.fill_(raw)
        assert agent.actor(observation).std.flatten().tolist() == pytest.approx([std] * 6)


def test_statistics_of_the_data_are_taken_once_and_bad_ones_refused():
    agent = small_agent("iql", normalize_observations=True)
    mean, std = torch.arange(4.0), torch.full((4,), 2.0)
    agent.adopt_statistics(mean, std)
    batch = random_batch()
    seen = agent.normalized_batch(agent.read(batch))
    torch.testing.assert_close(seen.observation, (batch["observation"] - mean) / std)
    torch.testing.assert_close(seen.next_observation, (batch["next", "observation"] - mean) / std)
    for bad_mean, bad_std in ((mean, std * 0), (mean * math.nan, std), (mean[:3], std[:3])):
        with pytest.raises(DataError):
            agent.adopt_statistics(bad_mean, bad_std)
    assert torch.equal(agent.normalizer.mean, mean)
    small_agent("iql").adopt_statistics(mean, std)  # nothing to take where nothing is normalised


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expectile", 0.4),
        ("expectile", 1.1),
        ("beta", -1.0),
        ("max_weight", 0.0),
        ("dropout", 1.0),
        ("log_std_min", 3.0),
        ("exploration_noise", -0.1),
        ("actor_lr_decay", -1),
        ("lr_value", 0.0),
    ],
)
def test_config_refuses_values_outside_their_range(field, value):
    with pytest.raises(ValueError, match=field):
        IQLConfig(**{field: value})


def test_two_armed_bandit():
    """Arms +-0.5, rewards 1 and 0, half the data each: V is the 0.9 expectile, weights are exp(3) to 1."""
    arm = torch.tensor([0.5, -0.5]).repeat(8).unsqueeze(-1)
    yes = torch.ones(16, 1, dtype=torch.bool)
    rows = {
        "observation": torch.ones(16, 1),
        "action": arm,
        "next": {"observation": torch.ones(16, 1), "reward": (arm > 0).double(), "terminated": yes},
    }
    agent = small_agent(
        "iql",
        spaces=Spaces(observation=1, action=1, half_range=(1.0,)),
        expectile=0.9,
        tau=0.1,
        actor_lr_decay=0,
        **dict.fromkeys(("lr_critic", "lr_value", "lr_actor"), 5e-3),
    )
    batch = TensorDict(rows, [16])
    for _ in range(500):
        agent.update(batch)
    q = agent.target_critic(batch["observation"], arm).amin(-2)
    torch.testing.assert_close(q, (arm.squeeze(-1) > 0).double(), rtol=0, atol=0.02)
    value = agent.value(batch["observation"])
    assert value[0].item() == pytest.approx(0.9, abs=0.02)
    weights = advantage_weights(q, value, 3.0, 100.0)
    ratio = math.exp(3)
    assert (weights[0] / weights[1]).item() == pytest.approx(ratio, rel=0.1)
    mean = agent.actor(batch["observation"]).mean[0].item()
    assert mean == pytest.approx(0.5 * (ratio - 1) / (ratio + 1), abs=0.02)
