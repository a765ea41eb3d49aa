"""FQL and floq against numbers worked out by hand: flows, embedding, losses, gradients; in float64."""

import copy
import dataclasses
import math
from functools import partial

import pytest
import torch
from helpers import SPACES, check_loss_module, random_batch, small_agent
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents import floq, fql
from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.floq import Copies, FloqConfig, FloqLoss
from rlsuite.agents.fql import FQLConfig, FQLLoss
from rlsuite.blocks.categorical import gaussian_bins
from rlsuite.blocks.flow import ValueField, euler, flow_errors, flow_matching_loss, on_path
from rlsuite.blocks.mlp import MLP, glorot_
from rlsuite.blocks.networks import NetShape
from rlsuite.blocks.noise import GivenNoise, Noise
from rlsuite.errors import ConfigError
from rlsuite.presets import load_preset
from rlsuite.replay.batch import Batch
from rlsuite.runs.config import OfflineConfig
from rlsuite.strict import from_mapping
from rlsuite.training import export, state

pytestmark = pytest.mark.usefixtures("float64")

NAMES = ("fql", "floq")


def t(*values):
    return torch.tensor(values)


def close(found, *expected, tolerance=1e-9):
    assert found.flatten().tolist() == pytest.approx(list(expected), abs=tolerance)


def field_of(low=-1.0, high=0.0, gamma=0.99):
    """A field whose bins cover these rewards."""
    field = ValueField(4, 2, NetShape(hidden=(8,)), gamma=gamma)
    field.adopt_rewards(low, high)
    return field


def rows(count, reward=0.0, terminated=0.0):
    """A batch of which reward and end are read."""
    return Batch(
        torch.zeros(count, 4),
        torch.zeros(count, 2),
        torch.full((count,), reward),
        torch.zeros(count, 4),
        torch.full((count,), terminated),
        0.99,
    )


# 1 to 3, 9: the embedding


@pytest.mark.parametrize(
    ("gamma", "ends", "bin_width", "start"),
    [(0.99, (-101, 1), 2.04, -10), (0.995, (-202, 2), 4.08, -20)],
)
def test_ranges_follow_rewards_and_gamma(gamma, ends, bin_width, start):
    field = field_of(gamma=gamma)
    edges = field.edges()
    close(edges[[0, -1]], *ends)
    close(edges.diff(), *[bin_width] * 50)
    config = FloqConfig(gamma=gamma)
    close(floq.starts(t(0.0, 0.5, 1.0), field.reward_range, config), start, start / 2, 0)


@pytest.mark.parametrize(
    ("z", "probabilities", "mean"),
    [
        (-50.0, {24: 0.0282567796, 25: 0.0282567796, 0: 0.0087568811, 49: 0.0087568811}, -50),
        (0.0, {49: 0.0487639916, 0: 0.0004480677}, -25.25467937),
        (-101.0, {0: 0.0499241056, 49: 0.0004176568}, -101 + 1 + 25.25467937 - 0.5),
        (-300.0, {0: 0.32478270, 1: 0.22103570, 2: 0.14984286}, None),
    ],
)
def test_a_number_as_probabilities_of_bins(z, probabilities, mean):
    field = field_of()
    (found,) = field.embedded(t([z]))
    for place, probability in probabilities.items():
        assert found[place].item() == pytest.approx(probability, abs=5e-9)
    assert found.sum().item() == pytest.approx(1) and found.max() == found[list(probabilities)].max()
    edges = field.edges()
    if z in (-50.0, 0.0):
        close((found * (edges[:-1] + edges[1:]) / 2).sum(), mean, tolerance=1e-8)


@pytest.mark.parametrize("z", [-1e6, -400.0, -300.0, -99.0, 2.0, 200.0, 1e6])
def test_numbers_far_outside_are_finite_in_single_precision_too(z):
    edges = field_of().edges()
    width = 16 * (edges[1] - edges[0])
    found = gaussian_bins(t(z).float(), edges.float(), width.float())
    assert found.isfinite().all() and found.sum().item() == pytest.approx(1)
    torch.testing.assert_close(found.double(), gaussian_bins(t(z), edges, width), rtol=1e-3, atol=1e-6)


def test_the_time_enters_as_its_cosine():
    field, times = field_of(), t(0, 0.25, 0.5, 0.75, 1)
    shown = []
    field.trunk.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    field(torch.zeros(5, 4), torch.zeros(5, 2), torch.full((1, 5, 1), -50.0), times.view(1, 5, 1))
    assert shown[0].shape == (1, 5, 4 + 2 + 50 + 1)
    close(shown[0][..., -1], 1, 0.96891242, 0.87758256, 0.73168887, 0.54030231, tolerance=5e-9)
    close(shown[0][0, 0, 6:56].max(), 0.0282567796, tolerance=5e-9)


# 4, 8: paths and their integration


def integrated(velocity, steps):
    return euler(velocity, t([-5.0]), steps).item()


def test_recovery_from_an_error_of_the_first_step():
    def exact(z, time):
        return (-30 - z) / (1 - time)

    def constant(z, time):
        return torch.full_like(z, -25.0)

    def first_off(velocity):
        return lambda z, time: velocity(z, time) + 4 * (time == 0)

    steps = (1, 2, 4, 8)
    assert [integrated(exact, k) for k in steps] == pytest.approx([-30] * 4)
    assert [integrated(first_off(exact), k) for k in steps] == pytest.approx([-26, -30, -30, -30])
    assert [integrated(first_off(constant), k) for k in steps] == pytest.approx([-26, -28, -29, -29.5])
    assert [integrated(lambda z, time: exact(z, time) + 4, k) for k in (1, 4, 8)] == pytest.approx(
        [-26, -29, -29.5]
    )


def test_straight_paths_of_actions():
    start, end, time = t([1.0, 0.0]), t([-0.5, 0.5]), t([0.25])
    close(on_path(start, end, time), 0.625, 0.125)
    errors = flow_errors(lambda x, when: torch.zeros_like(x), start, end, time)
    close(errors, 1.5**2, 0.5**2)
    close(flow_matching_loss(lambda x, when: torch.zeros_like(x), start, end, time), (2.25 + 0.25) / 2)
    reached = euler(lambda x, when: (end - x) / (1 - when), start, 10)
    close(reached, -0.5, 0.5, tolerance=1e-12)


# 5, 6: floq's losses


def constant_field(*velocities, seen=None):
    """Velocities of one member for two copies of one row; `seen` notes where they were asked for."""

    def field(observation, action, z, time):
        if seen is not None:
            seen.append(z)
        return t(*velocities).view(1, -1, 1)

    return field


def test_field_loss_by_hand():
    copies, seen = Copies(torch.zeros(2, 4), torch.zeros(2, 2), t(-5.0, -1.0).view(1, 2, 1)), []
    field = constant_field(-20.0, -25.0, seen=seen)
    loss = floq.field_loss(field, copies, t(-30.0), t(0.25, 0.5).view(1, 2, 1), 2)
    close(seen[0], -11.25, -15.5)
    close(loss, 41.0)  # (-25 + 20)^2 + (-29 + 25)^2


def test_copies_of_a_row_stand_side_by_side_and_its_losses_are_means_over_rows():
    shown = floq.repeated(t([1.0], [2.0]), 3)
    assert shown.flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert floq.by_row(shown, 3).tolist() == [[1, 1, 1], [2, 2, 2]]
    copies = Copies(torch.zeros(4, 4), torch.zeros(4, 2), t(-5.0, -1.0, 0.0, 0.0).view(1, 4, 1))
    field = constant_field(-25.0, -29.0, 3.0, 4.0)
    loss = floq.field_loss(field, copies, t(-30.0, 0.0), torch.zeros(1, 4, 1), 2)
    close(loss, (0 + 25) / 2)


@pytest.mark.parametrize(("how", "target"), [("mean", -21.79), ("min", -23.77)])
def test_target_of_copies_by_hand(how, target):
    """Members' values of two copies: each copy aggregates by itself, and copies are averaged."""
    values = t([-20.0, -22.0], [-24.0, -18.0]).unsqueeze(1)  # [M, N, R]; copies (-20, -24) and (-22, -18)
    expected = {"mean": -1 + 0.99 * (-22 - 20) / 2, "min": -1 + 0.99 * (-24 - 22) / 2}[how]
    assert expected == pytest.approx(target)
    close(floq.target_of(values, rows(1, reward=-1.0), how), target)
    close(floq.target_of(values, rows(1, reward=-1.0, terminated=1.0), how), -1)


def test_every_copy_has_a_next_action_and_a_start_of_its_own():
    agent = small_agent("floq", copies=3, field_steps=2)
    agent.adopt_rewards(-1.0, 0.0)
    batch = agent.read(random_batch(5))
    noise = [torch.randn(15, 2), torch.rand(15, 1)]
    found = floq.flow_target(
        agent.actor, agent.target_field, agent.field.reward_range, batch, agent.config, GivenNoise(noise)
    )
    for row in range(5):
        each = []
        for copy_ in range(3):
            place = 3 * row + copy_
            shown = batch.next_observation[row : row + 1]
            action = agent.actor(shown, noise[0][place : place + 1]).clamp(-1, 1)
            z = [(-10 + 10 * noise[1][place, 0]).view(1, 1, 1)] * 2
            for step in range(2):
                time = torch.full((1, 1, 1), step / 2)
                z = [z[m] + agent.target_field(shown, action, z[m], time)[m] / 2 for m in range(2)]
            each.append((z[0] + z[1]).item() / 2)
        value = sum(each) / 3
        expected = batch.reward[row] + 0.99 * (1 - batch.terminated[row]) * value
        assert found[row].item() == pytest.approx(expected.item())


def test_distance_of_the_critics_to_the_field():
    """Both critics go to one number: the mean over members and copies."""
    values, q = t([[1.0, 3.0]], [[5.0, 7.0]]), t([4.0], [6.0])
    close(floq.distillation_loss(q, values), (0 + 4) / 2)


# 7: the policy's losses


@pytest.mark.parametrize(("normalize", "total"), [(False, 43.0), (True, 2.0)])
def test_policy_losses_by_hand(normalize, total):
    """Flow velocities are constant, so that ten steps end at (.3, -.6) whatever they are."""
    seen = []

    def critic(observation, action):
        seen.append(action)
        return t([-40.0], [-44.0])

    config = FQLConfig(alpha=10.0, normalize_q=normalize)
    noise = GivenNoise([torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1, 2)])
    batch = rows(1)._replace(action=t([0.3, -0.6]))
    losses = fql.policy_losses(
        lambda s, x, when: t([0.3, -0.6]), lambda s, z: t([0.5, -0.2]), critic, batch, config, noise
    )
    close(losses.distance, 0.1)
    close(losses.flow, 0)
    close(losses.total(10.0), total)
    close(seen[0], 0.5, -0.2)


def test_bounds_are_the_flows_and_the_values_and_not_the_distances():
    seen = []

    def critic(observation, action):
        seen.append(action)
        return action.sum(-1).expand(2, -1)

    noise = GivenNoise([torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1, 2)])
    acted = t([2.0, 0.5]).requires_grad_()
    losses = fql.policy_losses(
        lambda s, x, when: t([3.0, 0.0]), lambda s, z: acted, critic, rows(1), FQLConfig(), noise
    )
    close(seen[0], 1, 0.5)
    close(losses.distance, ((2 - 1) ** 2 + 0.5**2) / 2)
    (slope,) = torch.autograd.grad(losses.value, acted)
    assert slope[0, 0] == 0 and slope[0, 1] < 0


def test_the_same_noise_enters_distance_and_value():
    agent = small_agent("fql")
    batch, calls = agent.read(random_batch(6)), []

    def actor(observation, noise):
        calls.append(noise)
        return agent.actor(observation, noise)

    drawn = [torch.randn(6, 2), torch.rand(6, 1), torch.randn(6, 2)]
    losses = fql.policy_losses(agent.flow, actor, agent.critic, batch, agent.config, GivenNoise(drawn))
    assert len(calls) == 1 and calls[0] is drawn[2]
    goal = euler(partial(agent.flow, batch.observation), drawn[2], 10).clamp(-1, 1)
    action = agent.actor(batch.observation, drawn[2])
    close(losses.distance, (action - goal).square().mean().item())
    assert not losses.distance.detach().allclose((action - drawn[2]).square().mean())


@pytest.mark.parametrize(("how", "target"), [("mean", -1 + 0.99 * -21), ("min", -1 + 0.99 * -24)])
def test_fqls_target_aggregates_as_it_is_told(how, target):
    config = FQLConfig(aggregate=how)
    found = fql.bellman_target(
        lambda s, z: z, lambda s, a: t([-18.0], [-24.0]), rows(1, -1.0), config, GivenNoise([t([3.0, 0.0])])
    )
    close(found, target)


def test_fqls_critic_loss_is_a_mean_over_members():
    close(fql.critic_loss(t([1.0, 2.0], [3.0, 2.0]), t(1.0, 2.0)), 1.0)


# 10: which loss reaches which network


def gradients(loss, networks):
    """Names of the networks that a loss has a gradient for."""
    reached = set()
    for name, network in networks.items():
        found = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, allow_unused=True)
        if any(g is not None and g.any() for g in found):
            reached.add(name)
    return reached


def test_every_loss_reaches_one_network():
    agent = small_agent("floq", copies=2, field_steps=2)
    batch, noise = agent.read(random_batch()), Noise(agent.generators["learn"])
    networks = {name: getattr(agent, name) for name in ("flow", "actor", "critic", "field")}
    constants = copy.deepcopy(agent.critic).requires_grad_(False)
    target = agent.target(batch, noise)
    assert not target.requires_grad
    policy = fql.policy_losses(agent.flow, agent.actor, constants, batch, agent.config, noise)
    values = floq.field_losses(
        agent.field, agent.critic, agent.field.reward_range, batch, target, agent.config, noise
    )
    reached = {
        "value": gradients(policy.value, networks),
        "distance": gradients(policy.distance, networks),
        "flow": gradients(policy.flow, networks),
        "critic": gradients(values.critic, networks),
        "field": gradients(values.field, networks),
    }
    expected = {"value": {"actor"}, "distance": {"actor"}, "flow": {"flow"}, "critic": {"critic"}}
    assert reached == {**expected, "field": {"field"}}


@pytest.mark.parametrize("name", NAMES)
def test_a_step_of_the_policies_leaves_no_gradient_on_the_critics(name):
    """The policies' step climbs a critic whose weights are then moved by its own loss alone."""
    agent, other = small_agent(name), small_agent(name)
    agent.update(random_batch())
    batch, noise = other.read(random_batch()), Noise(other.generators["learn"])
    target = other.target(batch, noise)
    fql.policy_losses(
        other.flow, other.actor, other.critic, batch, other.config, noise
    )  # draws, moves nothing
    other.learn_critic(batch, target, noise)
    for (key, a), b in zip(agent.critic.named_parameters(), other.critic.parameters(), strict=True):
        assert torch.equal(a, b), key


# 11: networks


def test_numbers_of_parameters_of_cube_double():
    spaces = Spaces(observation=37, action=5, half_range=(1.0,) * 5)

    def count(network, members=1):
        return sum(p.numel() for p in network.parameters()) // members

    deep = floq.Floq(spaces, FloqConfig(), make_generators(0))
    shallow = floq.Floq(spaces, FloqConfig(hidden_field=(512, 512)), make_generators(0))
    assert count(deep.flow) == 813_061 and count(deep.actor) == 812_549
    assert count(deep.critic, 2) == 814_593
    assert count(deep.field, 2) == 840_705 and count(shallow.field, 2) == 313_345


def test_norms_stand_behind_activations_of_critics_alone():
    agent = small_agent("floq")
    for network in (agent.critic, agent.field):
        names = [type(layer).__name__ for layer in network.trunk]
        assert names == ["Linear", "TanhGELU", "LayerNorm"] * 2 + ["Head"]
    for network in (agent.flow, agent.actor):
        assert [type(layer).__name__ for layer in network.trunk] == ["Linear", "TanhGELU"] * 2 + ["Head"]


def test_first_weights_are_glorots():
    net = MLP(30, (50,), 10, lead=(2,))
    glorot_(net, make_generators((0, 1))["init"])
    bound = math.sqrt(6 / 80)
    assert 0.98 * bound < net[0].weight.abs().max() <= bound
    assert not any(layer.bias.any() for layer in (net[0], net[2]))
    assert net[2].weight.abs().max() <= math.sqrt(6 / 60)
    weight, bias = net[0].fresh(make_generators((0, 1))["init"])
    assert torch.equal(weight, net[0].weight) and not bias.any()  # as a neuron reset draws them
    for index, seed in enumerate((0, 1)):
        single = MLP(30, (50,), 10)
        glorot_(single, make_generators(seed)["init"])
        assert torch.equal(single[0].weight, net[0].weight[index])


# Whole updates


def plain_update(agent, adam, batch):
    """FQL's update as the paper has it: all losses summed, one Adam for all networks, one backward."""
    config, noise = agent.config, Noise(agent.generators["learn"])
    s, a, following = batch["observation"], batch["action"], batch["next"]
    n = len(s)
    with torch.no_grad():
        next_action = agent.actor(following["observation"], noise.normal(a)).clamp(-1, 1)
        q = agent.target_critic(following["observation"], next_action)
        q = q.min(0).values if config.aggregate == "min" else q.mean(0)
        going = 1 - following["terminated"].squeeze(-1).double()
        target = following["reward"].squeeze(-1) + config.gamma * going * q
    x0, time = noise.normal(a), noise.uniform(a[:, :1])
    flow_loss = (agent.flow(s, (1 - time) * x0 + time * a, time) - (a - x0)).square().sum() / a.numel()
    z = noise.normal(a)
    with torch.no_grad():
        goal = z.clone()
        for k in range(config.flow_steps):
            when = torch.full((n, 1), k / config.flow_steps)
            goal += agent.flow(s, goal, when) / config.flow_steps
        goal = goal.clamp(-1, 1)
    action = agent.actor(s, z)
    distance = (action - goal).square().sum() / a.numel()
    with torch.no_grad():
        frozen = copy.deepcopy(agent.critic)
    value = frozen(s, action.clamp(-1, 1)).mean(0)
    value_loss = -value.mean() / (value.detach().abs().mean() if config.normalize_q else 1)
    critic_loss = sum((agent.critic(s, a)[m] - target).square().mean() for m in range(2)) / 2
    adam.zero_grad()
    (flow_loss + config.alpha * distance + value_loss + critic_loss).backward()
    adam.step()
    with torch.no_grad():
        for lagged, new in zip(agent.target_critic.parameters(), agent.critic.parameters(), strict=True):
            lagged.copy_(config.tau * new + (1 - config.tau) * lagged)


@pytest.mark.parametrize("fields", [{}, {"aggregate": "min", "normalize_q": False, "alpha": 3.0}])
def test_fqls_updates_are_those_of_a_plain_program(fields):
    fields = {"tau": 0.1, "lr_actor": 1e-3, "lr_critic": 1e-3, **fields}
    agent, plain = (small_agent("fql", **fields) for _ in "ab")
    first = copy.deepcopy(list(agent.parameters()))
    moved = [p for network in (plain.flow, plain.actor, plain.critic) for p in network.parameters()]
    adam = torch.optim.Adam(moved, lr=1e-3)
    for k in range(4):
        agent.update(random_batch(seed=k))
        plain_update(plain, adam, random_batch(seed=k))
    for (key, a), b, old in zip(agent.named_parameters(), plain.parameters(), first, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11, msg=key)
        assert not torch.equal(a, old), key


@pytest.mark.parametrize("fields", [{}, {"at_zero": True, "field_steps": 1, "aggregate": "min"}])
def test_floqs_field_is_stepped_by_a_plain_program(fields):
    """The losses of field and critics written out, copy by copy, with the agent's own draws."""
    fields = {"copies": 2, "field_steps": 3, "tau": 0.1, **fields}
    agent, plain = (small_agent("floq", **fields) for _ in "ab")
    for each in (agent, plain):
        each.adopt_rewards(-2.0, 1.0)
    steps, moved = plain.config.field_steps, [*plain.critic.parameters(), *plain.field.parameters()]
    adam = torch.optim.Adam(moved, lr=3e-4)
    for k in range(3):
        agent.update(random_batch(seed=k))
        batch, noise = plain.read(random_batch(seed=k)), Noise(plain.generators["learn"])
        target = plain.target(batch, noise)
        losses = fql.policy_losses(plain.flow, plain.actor, plain.critic, batch, plain.config, noise)
        z0 = -20 + 30 * noise.uniform(torch.empty(1, 64, 1)).view(32, 2)
        time = torch.zeros(32, 2)
        if not plain.config.at_zero:
            time = noise.uniform(torch.empty(1, 64, 1)).view(32, 2)
        field_loss, ends = 0.0, torch.zeros(2, 32, 2)
        for member in range(2):
            for r in range(2):
                z, when = (x[:, r].view(1, 32, 1) for x in (z0, time))
                end = target.view(1, 32, 1)
                seen = (1 - when) * z + when * end
                v = plain.field(batch.observation, batch.action, seen, when)[member]
                field_loss = field_loss + (v - (end - z)).square().mean() / 2
                for step in range(steps):
                    when = torch.full((1, 32, 1), step / steps)
                    z = z + plain.field(batch.observation, batch.action, z, when)[member].detach() / steps
                ends[member, :, r] = z.view(32)
        q = plain.critic(batch.observation, batch.action)
        critic_loss = (q - ends.mean((0, 2))).square().mean()
        plain.actor_optimizer.descend(losses.total(plain.config.alpha))
        adam.zero_grad()
        (field_loss + critic_loss).backward()
        adam.step()
        with torch.no_grad():
            for lagged, new in zip(plain.target_field.parameters(), plain.field.parameters(), strict=True):
                lagged.copy_(0.1 * new + 0.9 * lagged)
    for (key, a), b in zip(agent.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10, msg=key)


@pytest.mark.parametrize("fields", [{}, {"aggregate": "min", "normalize_q": False}])
def test_the_loss_modules_have_the_agents_gradients(fields):
    agent, twin = (small_agent("fql", **fields) for _ in "ab")
    module = FQLLoss(twin.actor, twin.flow, twin.critic, twin.config, generator=twin.generators["learn"])
    check_loss_module(module, agent, random_batch())
    agent, twin = (small_agent("floq", copies=2, field_steps=2, **fields) for _ in "ab")
    for each in (agent, twin):
        each.adopt_rewards(-3.0, 2.0)
    networks = (twin.actor, twin.flow, twin.critic, twin.field)
    module = FloqLoss(*networks, twin.config, generator=twin.generators["learn"])
    check_loss_module(module, agent, random_batch())


@pytest.mark.parametrize("name", NAMES)
def test_every_seed_is_the_agent_of_that_seed(name):
    """First weights, policies and updates: what a seed draws is what it draws alone."""
    cls, config = type(small_agent(name)), small_agent(name).config
    both = cls(SPACES, config, make_generators((3, 4)), lead=(2,))
    alone = [small_agent(name, seed=seed) for seed in (3, 4)]
    batch = random_batch(lead=(2,))
    both.update(batch)
    for index, agent in enumerate(alone):
        agent.update(batch[index])
        for (key, a), b in zip(both.named_parameters(), agent.parameters(), strict=True):
            torch.testing.assert_close(a[index], b, rtol=1e-9, atol=1e-12, msg=key)


def test_the_range_of_rewards_is_saved_and_both_fields_have_it():
    agent = small_agent("floq")
    agent.adopt_rewards(-2.0, 0.0)
    saved = {key: value.clone() for key, value in state.agent_tensors(agent).items()}
    other = small_agent("floq", seed=1)
    state.load_agent_tensors(other, saved)
    for field in (other.field, other.target_field):
        close(field.reward_range, -2, 0)
        close(field.edges()[[0, -1]], -201, 1)
    single = small_agent("floq")
    both = floq.Floq(SPACES, single.config, make_generators((0, 1)), lead=(2,))
    both.adopt_rewards(-2.0, 0.0)
    close(state.cut_seed(state.agent_tensors(both), 1, single)["field.reward_range"], -2, 0)


# Acting


def acted(agent, count=4, step=None, mode=ExplorationType.DETERMINISTIC):
    td = TensorDict({"observation": torch.ones(count, 4)}, [count])
    if step is not None:
        td["step_count"] = torch.full((count, 1), step)
    with torch.no_grad(), set_exploration_type(mode):
        return agent.policy(td)["action"]


def test_evaluations_draw_noise_by_step_and_env_from_no_stream():
    agent = small_agent("fql")
    first = acted(agent, step=0)
    assert torch.equal(first, acted(agent, step=0)) and torch.equal(first, acted(agent))
    assert len(first.unique(dim=0)) == 4  # equal observations, an env each
    assert not torch.equal(first, acted(agent, step=1))
    torch.testing.assert_close(first[:2], acted(agent, 2, step=0))  # whoever else is there
    table = agent.policy.module.fixed
    close(table.mean(0), 0, 0, tolerance=0.05)
    close(table.std(0), 1, 1, tolerance=0.05)
    expected = agent.actor(torch.ones(1, 4), table[1009 + 7 : 1009 + 8]).clamp(-1, 1)
    torch.testing.assert_close(acted(agent, step=7)[1:2], expected)


def test_the_mode_is_the_action_of_noise_zero():
    agent = small_agent("fql", evaluation="mode")
    assert list(agent.policy.in_keys) == ["observation"]
    expected = agent.actor(torch.ones(4, 4), torch.zeros(4, 2)).clamp(-1, 1)
    torch.testing.assert_close(acted(agent), expected)
    assert len(acted(agent, mode=ExplorationType.RANDOM).unique(dim=0)) == 4


def test_what_draws_noise_is_no_graph_and_the_mode_is():
    ends = [torch.zeros(2), torch.ones(2), -torch.ones(2), torch.ones(2)]
    with pytest.raises(ConfigError, match="evaluation mode"):
        export.PolicyGraph(small_agent("fql").policy, *ends)
    agent = small_agent("fql", evaluation="mode")
    graph = export.PolicyGraph(agent.policy, *ends)
    torch.testing.assert_close(graph(torch.ones(4, 4)), acted(agent))


def test_state_values_are_means_over_actions_and_draw_from_no_stream():
    agent = small_agent("fql")
    before = agent.generators["learn"].get_state()
    observation = random_batch(5)["observation"]
    first, again = agent.state_value(observation), agent.state_value(observation)
    assert torch.equal(first.value, again.value) and not first.bonus.any()
    assert torch.equal(before, agent.generators["learn"].get_state())
    values = torch.stack(
        [agent.critic(observation, agent.actor(observation, torch.randn(5, 2)).clamp(-1, 1)).mean(0)
         for _ in range(200)]
    )  # fmt: skip
    assert (values.amin(0) <= first.value).all() and (first.value <= values.amax(0)).all()


# Learning


def two_armed(agent, updates):
    """Arms +-0.5, rewards 1 and 0, half the data each; return the policy's actions."""
    arm = t(0.5, -0.5).repeat(16).unsqueeze(-1)
    batch = TensorDict(
        {
            "observation": torch.ones(32, 1),
            "action": arm,
            "next": {
                "observation": torch.ones(32, 1),
                "reward": (arm > 0).double(),
                "terminated": torch.ones(32, 1, dtype=torch.bool),
            },
        },
        [32],
    )
    for _ in range(updates):
        metrics = agent.update(batch)
    z = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        action = agent.actor(torch.ones(400, 1), z)
        cloned = euler(partial(agent.flow, torch.ones(400, 1)), z, 10)
    return action, cloned, metrics


@pytest.mark.parametrize("name", NAMES)
def test_two_armed_bandit(name):
    """The flow keeps both arms, which no Gaussian does, and the one-step policy leaves the bad one."""
    spaces = Spaces(observation=1, action=1, half_range=(1.0,))
    fields = {"lr_actor": 1e-2, "lr_critic": 1e-2, "alpha": 1.0}
    if name == "floq":
        fields |= {"copies": 2, "field_steps": 2, "gamma": 0.5}
    agent = small_agent(name, spaces=spaces, hidden=(32, 32), **fields)
    agent.adopt_rewards(0.0, 1.0)
    action, cloned, metrics = two_armed(agent, 300)
    assert 0.35 < (cloned > 0).double().mean() < 0.65
    assert (cloned.abs() < 0.15).double().mean() < 0.16  # 0.24 of a Gaussian
    assert (action > 0).double().mean() > 0.8
    q = agent.critic(torch.ones(2, 1), t([0.5], [-0.5])).mean(0)
    assert q.tolist() == pytest.approx([1, 0], abs=0.15)
    if name == "floq":
        assert metrics["q/start_spread"] < 0.2 and metrics["q/field_gap"] < 0.2


# Configuration


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (FloqConfig, {"at_zero": True}, "field_steps = 1"),
        (FloqConfig, {"gamma": 1.0}, "gamma"),
        (FloqConfig, {"bins": 1}, "bins"),
        (FloqConfig, {"copies": 0}, "copies"),
        (FloqConfig, {"smoothing": 0.0}, "smoothing"),
        (FQLConfig, {"alpha": -1.0}, "alpha"),
        (FQLConfig, {"flow_steps": 0}, "flow_steps"),
    ],
)
def test_config_refuses_values_outside_their_range(config, fields, message):
    with pytest.raises(ConfigError, match=message):
        config(**fields)


@pytest.mark.parametrize(
    ("agent", "preset", "env", "data", "own"),
    [
        ("fql", "default", "", "antmaze-umaze-v2", {"alpha": 10.0, "normalize_q": False}),
        ("fql", "default", "", "antmaze-large-diverse-v2", {"alpha": 3.0}),
        ("fql", "default", "", "door-cloned-v1", {"alpha": 3e4, "aggregate": "min", "normalize_q": False}),
        ("fql", "default", "", "hammer-human-v1", {"alpha": 3e4}),
        ("fql", "default", "", "hammer-cloned-v1", {"alpha": 1e4}),
        ("fql", "default", "", "pen-expert-v1", {"alpha": 3e3}),
        ("fql", "default", "", "relocate-human-v1", {"alpha": 1e4}),
        ("fql", "default", "", "cube-double-play-v0", {"alpha": 300.0, "gamma": None}),
        ("fql", "default", "", "humanoidmaze-medium-navigate-v0", {"alpha": 30.0, "gamma": 0.995}),
        ("fql", "default", "", "antmaze-large-navigate-v0", {"alpha": 10.0, "aggregate": "min"}),
        ("fql", "default", "PointMaze_UMaze-v3", "rlsuite/pointmaze/umaze-v0", {"alpha": 0.3}),
        ("floq", "default", "", "cube-single-play-v0", {"alpha": 300.0, "hidden_field": [512, 512]}),
        ("floq", "default", "", "antmaze-large-navigate-v0", {"alpha": 10.0, "aggregate": None}),
        (
            "floq",
            "default",
            "",
            "antmaze-giant-navigate-v0",
            {"gamma": 0.995, "aggregate": "min", "field_steps": 4},
        ),
        ("floq", "default", "", "puzzle-4x4-play-v0", {"alpha": 1000.0, "start_share": 0.25}),
        ("floq", "default", "", "humanoidmaze-large-navigate-v0", {"alpha": 20.0, "gamma": 0.995}),
        ("floq", "one_step", "", "scene-play-v0", {"alpha": 300.0, "field_steps": 1, "at_zero": True}),
        ("fql", "finetune", "", "humanoidmaze-medium-navigate-v0", {"alpha": 100.0, "gamma": 0.995}),
        ("fql", "finetune", "", "humanoidmaze-large-navigate-v0", {"alpha": 30.0, "gamma": 0.995}),
        ("fql", "finetune", "", "antsoccer-arena-navigate-v0", {"alpha": 30.0, "normalize_q": False}),
        ("fql", "finetune", "", "pen-cloned-v1", {"alpha": 1e3, "aggregate": "min"}),
        ("fql", "finetune", "", "door-cloned-v1", {"alpha": 1e3, "aggregate": "min"}),
        ("fql", "finetune", "", "door-human-v1", {"alpha": 3e4, "aggregate": "min"}),
        ("fql", "finetune", "", "relocate-cloned-v1", {"alpha": 1e4, "aggregate": "min"}),
        ("floq", "finetune", "", "humanoidmaze-large-navigate-v0", {"alpha": 20.0, "field_steps": 16}),
    ],
)
def test_presets_of_data_sets_are_the_authors(agent, preset, env, data, own):
    _, fields = load_preset(agent, preset, env, data)
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    (FloqConfig if agent == "floq" else FQLConfig)(**lists)
    assert {key: fields.get(key) for key in own} == own


def test_large_batches_of_floq():
    for data, size in (("antmaze-giant-navigate-v0", 512), ("humanoidmaze-large-navigate-v0", 512)):
        assert load_preset("floq", "default", "", data)[0]["batch_size"] == size


@pytest.mark.parametrize(
    ("agent", "data", "steps", "then_online"),
    [
        ("fql", "cube-single-play-v0", 1_000_000, 1_000_000),
        ("fql", "pen-cloned-v1", 500_000, 500_000),
        ("floq", "cube-single-play-v0", 1_000_000, 2_000_000),
    ],
)
def test_fine_tuning_goes_online_with_half_of_each_batch_recorded(agent, data, steps, then_online):
    run = from_mapping(
        OfflineConfig, load_preset(agent, "finetune", "", data)[0], "preset", env="E", dataset=data
    )
    assert (run.steps, run.then_online, run.offline_share) == (steps, then_online, 0.5)
    assert run.updates_per_step == 1


def test_the_configuration_of_floq_is_fqls_and_more():
    ours, theirs = ({f.name for f in dataclasses.fields(c)} for c in (FloqConfig, FQLConfig))
    assert theirs < ours
