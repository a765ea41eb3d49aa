"""STAC against the numbers of its specification (S1 to S8), in float64."""

import math

import pytest
import torch
from helpers import MODE_FIELDS, SPACES, check_loss_module, random_batch, small_agent
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.optim import descend_alpha
from rlsuite.agents.stac import (
    STAC,
    STACConfig,
    STACLoss,
    actor_loss,
    likelihood_loss,
    pessimistic_target,
    stac_alpha_loss,
)
from rlsuite.blocks.heads import Gaussian, floored_softplus, mean_of_tanh, squash
from rlsuite.blocks.mlp import MLP
from rlsuite.blocks.noise import GivenNoise
from rlsuite.presets import load_preset
from rlsuite.replay.batch import Batch

pytestmark = pytest.mark.usefixtures("float64")


def t(*values):
    return torch.tensor(values)


def rows(reward=1.0, terminated=0.0, gamma=0.99):
    return Batch(t(0.0), t(0.0), t(reward), t(0.0), t(terminated), gamma)


def soft_target(batch, following, beta, log_prob=0.0, alpha=0.0):
    """The target where the target critic says `following` and the next action has this log-density."""
    # One action at the middle of a Gaussian before the tanh, whose deviation decides its density.
    mean = torch.zeros(*batch.reward.shape, 1)
    std = torch.full_like(mean, math.exp(-log_prob) / math.sqrt(2 * math.pi))
    return pessimistic_target(
        lambda observation, action, noise: following,
        lambda observation, noise: Gaussian(mean, std),
        batch, t(alpha), beta, GivenNoise([mean]),
    )  # fmt: skip


def target(beta, terminated=0.0):
    following = Gaussian(t(10.0)[None], t(2.0)[None])
    return soft_target(rows(terminated=terminated), following, beta, log_prob=-1.5, alpha=0.2).item()


def test_s1_beta_deviations_and_the_entropy_are_taken_off_after_termination_neither():
    assert target(0.25) == pytest.approx(10.702, abs=1e-12)
    assert target(0.0) == pytest.approx(11.197, abs=1e-12)
    assert target(0.25, terminated=1.0) == 1.0


def test_s1_truncation_alone_bootstraps():
    batch = random_batch(8)
    batch["next", "terminated"].zero_()
    batch["next", "truncated"].fill_(True)
    batch["next", "done"].fill_(True)
    open_ended = batch.clone()
    open_ended["next", "truncated"].zero_()
    open_ended["next", "done"].zero_()
    found = [small_agent("stac").values(b)["td_error"] for b in (batch, open_ended)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("mu", "rho", "y", "loss", "d_mu", "d_rho", "sigma"),
    [
        (0.0, 0.0, 1.0, 1.59311010, -2.08136898, -0.78004283, 0.69314718),
        (8.0, 2.0, 10.702, 2.48054583, -0.59728246, -0.25420872, 2.12692801),
    ],
)
def test_s2_likelihood_and_its_gradients(mu, rho, y, loss, d_mu, d_rho, sigma):
    mean, raw = t(mu)[None].requires_grad_(), t(rho)[None].requires_grad_()
    std = floored_softplus(raw)
    found = likelihood_loss(Gaussian(mean, std), t(y))
    found.backward()
    assert std.item() == pytest.approx(sigma, abs=5e-9)
    assert found.item() == pytest.approx(loss, abs=5e-9)
    assert mean.grad.item() == pytest.approx(d_mu, abs=5e-9)
    assert raw.grad.item() == pytest.approx(d_rho, abs=5e-9)


def test_s2_below_the_floor_nothing_pulls_on_the_deviation():
    mean, raw = t(0.0)[None].requires_grad_(), t(-8.0)[None].requires_grad_()
    std = floored_softplus(raw)
    likelihood_loss(Gaussian(mean, std), t(1.0)).backward()
    assert std.item() == pytest.approx(0.00671535, abs=5e-9)
    assert mean.grad.item() == pytest.approx(-22174.96, abs=5e-3)
    assert raw.grad.item() == 0.0


def self_loop(reward_noise, beta, gamma, updates, held_std=None, reward_mean=0.0):
    """Mean and deviation after learning one state's value: a table of two numbers and its slow copy."""
    g = torch.Generator().manual_seed(0)
    mean, raw = t(0.0)[None].requires_grad_(), t(0.0)[None].requires_grad_()
    slow = torch.zeros(2, 1, 1)
    optimizer = torch.optim.Adam([mean, raw], lr=0.02)
    for update in range(updates):
        for group in optimizer.param_groups:  # a tenth of the noise at the end
            group["lr"] = 0.02 * 0.1 ** (update / updates)
        reward = reward_mean + reward_noise * torch.randn(64, generator=g)
        following = Gaussian(slow[0], floored_softplus(slow[1]))
        if held_std is not None:
            following = following._replace(std=torch.full_like(following.std, held_std))
        batch = Batch(reward, reward, reward, reward, torch.zeros(64), gamma)
        y = soft_target(batch, following, beta)
        optimizer.zero_grad()
        likelihood_loss(Gaussian(mean.expand(1, 64), floored_softplus(raw).expand(1, 64)), y).backward()
        optimizer.step()
        with torch.no_grad():
            slow.lerp_(torch.stack((mean, raw)), 0.05)
    return mean.item(), floored_softplus(raw).item()


@pytest.mark.parametrize(("beta", "mean"), [(0.0, 0.0), (0.25, -2.25), (0.5, -4.5)])
def test_s3_the_deviation_is_that_of_one_step_whatever_beta(beta, mean):
    """A critic of the full return would find 2.294."""
    found_mean, found_std = self_loop(1.0, beta, 0.9, 1500)
    assert found_std == pytest.approx(1.0, abs=0.05)
    assert found_mean == pytest.approx(mean, abs=0.2)


def test_s4_a_deterministic_loop_sinks_to_the_floor():
    """gamma 0.9 for speed: 10 - beta sigma gamma / (1 - gamma), sigma at its floor."""
    mean, std = self_loop(0.0, 0.5, 0.9, 2500, reward_mean=1.0)
    assert std == pytest.approx(0.00671535, abs=2e-3)
    assert mean == pytest.approx(10 - 0.5 * 0.00671535 * 9, abs=0.05)


@pytest.mark.parametrize(("std", "fixed_point"), [(0.00671535, 100 - 0.3324), (0.5, 75.25)])
def test_s4_fixed_point_of_the_target(std, fixed_point):
    mean = t(0.0)[None]
    for _ in range(4000):  # y as the next mean: the exact backup
        following = Gaussian(mean, torch.full_like(mean, std))
        mean = soft_target(rows(), following, 0.5)[None]
    assert mean.item() == pytest.approx(fixed_point, abs=1e-3)


@pytest.mark.parametrize(("entropy", "alpha"), [(3.0, 0.199940009), (-1.0, 0.199988000)])
def test_s5_temperature_steps_are_multiplicative_and_not_adams(entropy, alpha):
    """From 0.2 towards an entropy of -2; the second case is where Adam would still give 0.19994."""
    log_alpha = torch.full((1,), math.log(0.2))
    log_prob = torch.full((5,), -entropy)
    by_gradient = log_alpha.clone().requires_grad_()
    stac_alpha_loss(by_gradient, log_prob, -2.0).backward()
    torch.optim.SGD([by_gradient], lr=3e-4).step()
    descend_alpha(log_alpha, log_prob, -2.0, 3e-4 * log_alpha.exp())
    assert log_alpha.exp().item() == pytest.approx(alpha, abs=1e-9)
    assert by_gradient.exp().item() == pytest.approx(alpha, abs=1e-9)


def test_s5_a_temperature_step_that_is_not_finite_is_not_taken():
    log_alpha = t(-1.0, -1.0)[:, None]
    descend_alpha(log_alpha, torch.tensor([[math.nan, 1.0], [1.0, 1.0]]), -1.0, 0.5)
    assert log_alpha[0].item() == -1.0
    descend_alpha(log_alpha, torch.tensor([[2.0, 2.0], [3.0, 3.0]]), -1.0, 0.5)
    assert log_alpha.flatten().tolist() == pytest.approx([-0.5, 0.0])


def test_s6_density_has_the_exact_jacobian():
    mean, std, u = t(0.3, -0.7), t(0.5, 1.2), t(0.1, 0.9)
    action, log_prob = squash(Gaussian(mean, std), (u - mean) / std)
    torch.testing.assert_close(action, u.tanh())
    assert log_prob.item() == pytest.approx(-1.566296, abs=5e-7)
    with_epsilon = (
        torch.distributions.Normal(mean, std).log_prob(u) - (1 - u.tanh() ** 2 + 1e-6).log()
    ).sum()
    assert abs(with_epsilon.item() - log_prob.item()) > 1e-6


@pytest.mark.parametrize("rate", [0.0, 0.01])
def test_s7_dropout_is_part_of_the_target_while_training(rate):
    agent = small_agent("stac", dropout_critic=rate, hidden=(64, 64))
    batch = random_batch()

    def passes():
        return [agent.target_critic(batch["observation"], batch["action"]).mean for _ in "ab"]

    assert torch.equal(*passes()) == (rate == 0)
    agent.eval()
    assert torch.equal(*passes())


def test_s7_behaviour_has_dropout_and_evaluation_has_none():
    agent = small_agent("stac", evaluation="mode", dropout_actor=0.2)
    agent.policy.module.exploration_scale.zero_()
    observation = random_batch().select("observation")

    def act(kind):
        with set_exploration_type(kind):
            return agent.policy(observation.clone())["action"]

    assert not torch.equal(act(ExplorationType.RANDOM), act(ExplorationType.RANDOM))
    mode = act(ExplorationType.DETERMINISTIC)
    assert agent.actor.training
    agent.actor.eval()
    assert torch.equal(mode, act(ExplorationType.RANDOM))


def test_s7_target_and_critic_share_the_stream_of_their_masks():
    agent = small_agent("stac")
    streams = {id(m.generator) for m in agent.modules() if hasattr(m, "generator") and hasattr(m, "rate")}
    assert streams == {id(agent.generators["learn"])}


def test_s7_the_target_follows_the_critic_after_its_step():
    agent = small_agent("stac")
    old = [p.clone() for p in agent.target_critic.parameters()]
    agent.update(random_batch())
    both = agent.target_critic.parameters(), agent.critic.parameters()
    for before, target, critic in zip(old, *both, strict=True):
        torch.testing.assert_close(target, 0.995 * before + 0.005 * critic, rtol=1e-12, atol=1e-15)
        assert not torch.equal(before, critic)


def block(dropout):
    """The first hidden block of the agents' networks: units 0-127 get -1, units 128-255 get +3."""
    net = MLP(1, (256,), 1, layer_norm=True, dropout=dropout, dropout_generator=make_generators(0)["learn"])
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias[:128], net[0].bias[128:] = -1.0, 3.0
    return torch.nn.Sequential(*list(net)[:-1])


def test_s7_dropout_stands_before_the_norm_and_the_norm_before_the_activation():
    evaluated = block(0.5).eval()(torch.zeros(1, 1))[0]
    torch.testing.assert_close(evaluated[:128], torch.zeros(128))
    torch.testing.assert_close(evaluated[128:], torch.ones(128), rtol=0, atol=1e-5)
    trained = block(0.5)(torch.zeros(1, 1))[0]
    assert 1.5 < trained.max() < 1.85  # after the norm it would be 2 exactly


def test_s8_the_actor_sees_the_deviation():
    middle = torch.zeros(1, 1, requires_grad=True)  # of the Gaussian before the tanh, whose slope is 1 there
    loss, _ = actor_loss(
        lambda observation, noise: Gaussian(middle, torch.ones(1, 1)),
        lambda observation, action, noise: Gaussian(-(action**2).mT, 1 + action.mT),
        rows(), t(0.0), 0.5, GivenNoise([torch.zeros(1, 1)]),
    )  # fmt: skip
    (-loss).backward()
    assert middle.grad.item() == -0.5


@pytest.mark.parametrize(
    ("observation", "action", "critic", "actor"),
    [(17, 6, 73_474, 74_508), (11, 3, 71_170, 71_430), (376, 17, 168_194, 172_066), (27, 8, 76_546, 78_096)],
)
def test_parameter_counts_of_the_authors_networks(observation, action, critic, actor):
    spaces = Spaces(observation=observation, action=action, half_range=(1.0,) * action)
    agent = STAC(spaces, STACConfig(), make_generators(0))
    assert sum(p.numel() for p in agent.critic.parameters()) == critic
    assert sum(p.numel() for p in agent.actor.parameters()) == actor


def test_deviations_start_near_log_two():
    agent = small_agent("stac", hidden=(256, 256))
    batch = random_batch()
    std = agent.critic(batch["observation"], batch["action"]).std
    assert std.mean().item() == pytest.approx(math.log(2), abs=0.15)
    assert not agent.critic.trunk[-1].bias[..., 1].any()
    assert agent.critic.trunk[-1].bias[..., 0].any()


@pytest.mark.parametrize("fields", [{}, {"critics": 2, "beta": 0.0}])
def test_the_loss_module_has_the_agents_gradients(fields):
    """The critic's learning rate is tiny: the module's actor loss reads it before its step."""
    agent, twin = (small_agent("stac", lr_critic=1e-30, **fields) for _ in "ab")
    module = STACLoss(twin.actor, twin.critic, twin.config, actions=2, generator=twin.generators["learn"])
    # Equal to 1e-10 with dropout on: the module draws the agent's masks, in the agent's order.
    check_loss_module(module, agent, random_batch())
    step = agent.log_alpha - math.log(0.2)
    torch.testing.assert_close(-3e-4 * module.log_alpha.grad, step)


def test_estac_takes_the_lower_of_two_means():
    agent = small_agent("stac", critics=2, beta=0.0, dropout_critic=0.0, dropout_actor=0.0)
    batch = random_batch()
    means = agent.critic(batch["observation"], batch["action"]).mean
    assert means.shape == (2, 32)
    torch.testing.assert_close(agent.values(batch)["q"], means.amin(-2))


def test_mean_action_is_the_mean_of_many_samples():
    std, mean = torch.meshgrid(t(0.05, 0.3, 1.0), t(-2.0, -0.3, 0.0, 1.1), indexing="ij")
    g = torch.Generator().manual_seed(0)
    samples = (mean + std * torch.randn(400_000, 1, 1, generator=g)).tanh()
    torch.testing.assert_close(mean_of_tanh(Gaussian(mean, std)), samples.mean(0), rtol=0, atol=3e-3)


def test_evaluation_can_take_the_mode_instead():
    observation = random_batch(5).select("observation")
    actions = [
        small_agent("stac", **fields).policy(observation.clone())["action"]
        for fields in ({}, MODE_FIELDS["stac"])
    ]
    assert (actions[0].abs() < actions[1].abs()).all()  # averaging a saturating function pulls towards 0


def test_presets_are_the_logged_settings():
    train, agent = load_preset("stac", "default", "Swimmer-v4")
    assert (train["warmup_steps"], train["warmup_policy"]) == (10_000, "tanh_normal")
    config = STACConfig(**agent)
    found = (config.beta, config.dropout_actor, config.dropout_critic, config.target_entropy)
    assert found == (0.0, 0.01, 0.0, -1.0)
    assert STACConfig(**load_preset("stac", "default", "gym:Foo-v0")[1]).beta == 0.25
    assert small_agent("stac").target_entropy == -SPACES.action


@pytest.mark.parametrize("fields", [{"beta": -0.1}, {"critics": 0}, {"dropout_critic": 1.0}])
def test_config_refuses_what_makes_no_sense(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        STACConfig(**fields)
